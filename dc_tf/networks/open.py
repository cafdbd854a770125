"""Opens a network of another program: SavedModel, Keras 2 or 3, ONNX, or a TensorFlow Hub handle.

    network = open_network("resnet50.onnx", Wanted(preprocessing=read("imagenet")))
    network.layer_names, network.preprocessing.short_side

Everything that does not fit is refused here, before any image is read.
"""

import dataclasses

import tensorflow as tf

from dc_tf.errors import ConfigError
from dc_tf.networks import files
from dc_tf.networks.beside import stated_beside
from dc_tf.networks.network import Network, Wanted
from dc_tf.networks.preprocessing import PRESETS, from_dict


def open_network(path: str, wanted: Wanted) -> Network:
    """The network of a file, folder or address.

    Raises:
        ConfigError: no network of another program, a package that it needs is missing, or what is
            wanted does not fit it; says what there is.
        DataError: a corrupt file, or an address that does not answer.
    """
    kind = files.kind_of(path)
    if kind is None:
        raise ConfigError(f"{path} is no network of another program.")
    local = files.local_path(path)
    if wanted.signature and kind != files.SAVED_MODEL:
        raise ConfigError(f"--signature={wanted.signature} is of a SavedModel; {path} is {kind}.")
    return Network(path, _source(path, local, kind, wanted), wanted)


def _source(path, local, kind, wanted):
    """The network as a Source, with what states its preprocessing."""
    source = _opened(local, kind, wanted)
    if wanted.preprocessing or source.stated or source.input_dtype == tf.uint8:
        return source
    stated = stated_beside(local)
    if stated is None and kind == files.SAVED_MODEL and files.is_address(path):
        # https://www.tensorflow.org/hub/common_signatures/images
        stated = from_dict(PRESETS["0-1"]), "TensorFlow Hub's common signature"
    stated, by = stated or (None, "")
    return dataclasses.replace(source, stated=stated, stated_by=by)


def _opened(local, kind, wanted):
    if kind == files.ONNX:
        from dc_tf.networks.onnx_file import open_onnx

        return open_onnx(local)
    if kind == files.SAVED_MODEL:
        from dc_tf.networks.saved_model import open_saved_model

        return open_saved_model(local, wanted.signature)
    from dc_tf.networks.keras_file import open_keras

    return open_keras(local, kind)
