"""Exports the trained network as a reusable SavedModel, and loads it back.

    export_saved_model(trunk, "/models/mine", sobel="folded")

    model = tf.saved_model.load("/models/mine")                     # requires only TensorFlow
    features = model(images)["conv13"]                              # uint8, or floats in [0, 1]
    layer = hub.KerasLayer("/models/mine", trainable=True, output_key="fc7")

The loaded object has `__call__(images, training=False)`, which returns a dict of all layers: of
VGG-16 conv1..conv13 (maps after ReLU), fc6 (after ReLU) and fc7 (before ReLU), of a ResNet conv1,
block1_1.. (maps after ReLU) and pool (the mean of the last one); `serve(images)` and
`train(images)`, the same as endpoints of Keras 3's TFSMLayer; `variables`, `trainable_variables`,
`regularization_losses` (one callable per trainable variable, in the same order) and `weights` by
layer and name. Images are (b, h, w, 3) and are resized to the network's resolution (bilinear,
antialiased, no crop); values out of range are refused, see `input_range`. In training mode batch
norm uses the statistics of the caller's batch, and VGG-16's fc6 has dropout. The signatures are
`serving_default` (uint8) and `serving_float`, and `serving_native` and `serving_native_float` for
images of the network's resolution, which TFLite and XLA can compile. In the same folder,
`dc_tf.json` has the settings, the shapes of the outputs and the versions, and `README.md` is the
model card.
"""

import glob
import os
import time
import uuid

import tensorflow as tf
from absl import logging

import dc_tf
from dc_tf import atomic, paths
from dc_tf.data.storage.files import is_local
from dc_tf.errors import ConfigError, DataError
from dc_tf.exporting.fold_sobel import fold
from dc_tf.exporting.input_range import AUTO, checked_range
from dc_tf.exporting.metadata import (
    Metadata,
    default_short_side,
    is_saved_model,
    read_metadata,
    write_metadata,
)
from dc_tf.exporting.model_card import write_model_card
from dc_tf.exporting.saved_object import SavedObject
from dc_tf.exporting.weights import (
    assign_weights,
    copy_weights,
    flat_weights,
    named_weights,
    weights_digest,
)
from dc_tf.nn.trunk import Trunk
from dc_tf.nn.trunks import make_trunk

SOBEL_FORMS = ("layer", "folded")
# Suffix of a model while another replaces it.
_OLD = ".old"
# An export takes a minute at most; without writes for this long, it has been killed.
_ABANDONED_S = 3600


def export_saved_model(
    trunk: Trunk,
    output: str,
    sobel="layer",
    weight_decay=1e-5,
    short_side=None,
    source=None,
    overwrite=False,
    input_range=AUTO,
) -> Metadata:
    """Writes a built trunk as a SavedModel, atomically.

    Args:
        trunk: built trunk; its weights are copied, so it may belong to a strategy or compute in
            bfloat16.
        output: folder.
        sobel: "layer" keeps the network unchanged, "folded" merges Sobel and conv1.
        weight_decay: L2 coefficient, with the gradient `weight_decay * w`.
        short_side: short side in pixels before the centre crop; None for 256/224 of the resolution.
        source: JSON-serialisable dict that describes the origin of the model.
        overwrite: whether to replace an existing model.
        input_range: of floats: "1", as with "auto", for [0, 1], or "255".

    Raises:
        ConfigError: `output` exists, a choice is unknown, or `sobel` does not fit the trunk.
    """
    input_range = checked_range(input_range)
    check_output(output, overwrite)
    model = plain_copy(trunk, sobel)
    metadata = Metadata(
        settings=dict(model.settings),
        folded=model.folded,
        short_side=short_side or default_short_side(model.settings["resolution"]),
        weight_decay=weight_decay,
        outputs=_output_shapes(model),
        versions={"dc_tf": dc_tf.__version__, "tensorflow": tf.__version__},
        weights=weights_digest(model),
        source=source or {},
        input_range=input_range,
        trunk=model.kind,
    )
    write_model(SavedObject(model, weight_decay, input_range), metadata, output)
    return metadata


def write_model(exported: SavedObject, metadata: Metadata, output: str) -> None:
    """Writes a SavedModel, its metadata and its card to a folder that `check_output` accepted."""
    aside = f"{output.rstrip('/')}.{uuid.uuid4().hex}.writing"
    try:
        tf.saved_model.save(exported, aside, signatures=exported.signatures())
        write_metadata(aside, metadata)
        write_model_card(aside, metadata)
        _move(aside, output)
    finally:
        if tf.io.gfile.exists(aside):
            tf.io.gfile.rmtree(aside)


def check_output(output: str, overwrite: bool) -> None:
    """Checks that `output` is free, or with `overwrite` a SavedModel.

    First restores a model that a killed export was replacing, and removes what that export wrote.

    Raises:
        ConfigError: the output exists and must not be replaced.
    """
    if not output:
        raise ConfigError("the output is empty; name a folder for the SavedModel.")
    paths.check_folder(output, "--output")
    _clear_up(output)
    if not tf.io.gfile.exists(output) or _is_empty_folder(output):
        return
    if not overwrite:
        raise ConfigError(f"the output {output!r} exists; choose another or give --overwrite.")
    if not is_saved_model(output):
        raise ConfigError(
            f"the output {output!r} exists and is no SavedModel, so it is not overwritten; "
            "choose another folder."
        )


def restore_trunk(path: str, compute_dtype="float32") -> Trunk:
    """Loads the network of an exported model, built and with its weights.

    Raises:
        DataError: the path is not an exported model, or it is corrupt.
    """
    metadata = read_metadata(path)
    network = dict(folded=metadata.folded, compute_dtype=compute_dtype)
    trunk = make_trunk(metadata.trunk, **metadata.settings, **network).built_at_resolution()
    prefix = os.path.join(path, "variables", "variables")
    try:
        reader = tf.train.load_checkpoint(prefix)
        assign_weights(_read_weights(reader, named_weights(trunk)), trunk)
    except (tf.errors.OpError, ValueError) as error:
        raise DataError(
            f"the weights in {path!r} are corrupt ({error}); copy or export the model again."
        ) from error
    return trunk


def plain_copy(trunk, sobel) -> Trunk:
    """A float32 copy without a Communicator, so batch norm does not wait for other workers.

    Raises:
        ConfigError: `sobel` is unknown, or does not fit the trunk.
    """
    if sobel not in SOBEL_FORMS:
        raise ConfigError(f"sobel is {sobel!r}; use one of {', '.join(SOBEL_FORMS)}.")
    if sobel == "folded":
        return fold(trunk)
    copy = trunk.fresh()
    copy_weights(trunk, into=copy)
    return copy


def _output_shapes(model):
    resolution = model.settings["resolution"]
    endpoints = model(tf.zeros([1, resolution, resolution, 3]))
    return {name: list(endpoints[name].shape[1:]) for name in model.layer_names}


def _read_weights(reader, weights):
    """{layer: {name: array}}; `variables` is saved in the order of `flat_weights`."""
    places = iter(range(len(flat_weights(weights))))
    key = "variables/{}/.ATTRIBUTES/VARIABLE_VALUE"
    return {
        layer: {name: reader.get_tensor(key.format(next(places))) for name in names}
        for layer, names in weights.items()
    }


def _is_empty_folder(path):
    return tf.io.gfile.isdir(path) and not tf.io.gfile.listdir(path)


def _clear_up(output):
    """Cleans up after killed exports to `output`; a running one has written recently."""
    for path in sorted(tf.io.gfile.glob(f"{glob.escape(output.rstrip('/'))}.*.writing*")):
        if path.endswith(_OLD) and not tf.io.gfile.exists(output):
            tf.io.gfile.rename(path, output)
            continue
        written_s = tf.io.gfile.stat(path).mtime_nsec / 1e9  # 0 where folders have no time
        if 0 < written_s < time.time() - _ABANDONED_S:
            logging.info("removing %s, left by an export that was killed.", path)
            tf.io.gfile.rmtree(path)


def _move(aside, output):
    """Puts the finished folder in place; the old one is removed only after that has worked.

    Not `atomic.commit_folder`: a complete model may be at `output`, and either may be at an address
    that only TensorFlow can reach. Between the two renames a crash leaves none at `output`, which
    `_clear_up` repairs.
    """
    old = aside + _OLD
    if is_local(output):
        atomic.sync_tree(aside)
    if tf.io.gfile.exists(output):
        tf.io.gfile.rename(output, old)
    tf.io.gfile.rename(aside, output)
    if is_local(output):
        atomic.sync(os.path.dirname(os.path.abspath(output)))
    if tf.io.gfile.exists(old):
        tf.io.gfile.rmtree(old)
