"""Opens Keras files, of Keras 2 and of Keras 3.

    source = open_keras("mobilenet.keras", "Keras 3")

Every layer with one output can be asked for. Files of Keras 3 need the package `keras` beside
tf_keras; both compute with TensorFlow. A Lambda layer is code in the file and is refused.
"""

import functools
import json
import zipfile

import tensorflow as tf

from dc_tf import keras
from dc_tf.errors import ConfigError, DataError
from dc_tf.networks.files import KERAS_3, digest_of
from dc_tf.networks.network import Source
from dc_tf.networks.preprocessing import PRESETS, from_dict
from dc_tf.nn.trunks import TRUNKS

# keras.applications, by the name that its functions give their networks, and by a part of it.
_EXACT = {
    **dict.fromkeys(("vgg16", "vgg19", "resnet50", "resnet101", "resnet152"), "caffe"),
    **dict.fromkeys(("inception_v3", "xception", "inception_resnet_v2"), "-1-1"),
    **dict.fromkeys(("resnet50v2", "resnet101v2", "resnet152v2"), "-1-1"),
    **dict.fromkeys(("nasnet_mobile", "nasnet_large", "NASNet"), "-1-1"),
    **dict.fromkeys(("densenet121", "densenet169", "densenet201"), "imagenet"),
}
_BEGINNINGS = {"mobilenet_": "-1-1", "mobilenetv2_": "-1-1"}
_FIRST_LAYERS = 4  # among which one may scale the images


def open_keras(path: str, kind: str) -> Source:
    """A Keras file as a Source.

    Args:
        path: `.keras` or HDF5 file.
        kind: files.KERAS_2 or KERAS_3.

    Raises:
        ConfigError: a package is missing, the file has code in it, or a network that is not of one
            input.
        DataError: the file cannot be read.
    """
    if _has_code(path):
        raise ConfigError(
            f"{path} has a Lambda layer, which is code of the file's author, and is not run; give "
            "the network as a SavedModel (model.export) or as ONNX."
        )
    model = _load(path, kind)
    inputs = getattr(model, "inputs", None)
    if not inputs or len(inputs) != 1:
        texts = [f"{one.name}: {tf.as_dtype(one.dtype).name} {one.shape}" for one in inputs or ()]
        raise ConfigError(
            f"{path} takes {', '.join(texts) or 'inputs that its file does not name'}; a network "
            "of one batch of images is needed, built as a functional or sequential model. Give "
            "another one as a SavedModel."
        )
    tensors = _tensors(model)
    preset, by = _preset(model)
    return Source(
        kind=kind,
        digest=digest_of([path]),
        input_name=inputs[0].name,
        input_shape=tuple(inputs[0].shape),
        input_dtype=tf.as_dtype(inputs[0].dtype),
        output_names=tuple(tensors),
        main_outputs=_main_outputs(model, tensors),
        function=_function(model, kind, tensors),
        stated=from_dict(PRESETS[preset]) if preset else None,
        stated_by=by,
    )


def _load(path, kind):
    try:
        if kind == KERAS_3:
            return keras.keras_3().saving.load_model(path, compile=False)
        return keras.models.load_model(path, compile=False)
    except ConfigError:
        raise
    except Exception as error:  # a corrupt file, or layers of another package
        reason = [line for line in str(error).splitlines() if line.strip()]
        raise DataError(
            f"{path} cannot be loaded by {kind}: {reason[0] if reason else type(error).__name__} "
            "A network with layers of its own can be given as a SavedModel (model.export)."
        ) from error


def _has_code(path) -> bool:
    """Whether a layer of the file is a Lambda."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as file:
                config = json.loads(file.read("config.json"))
        else:
            import h5py

            with h5py.File(path, "r") as file:
                config = json.loads(file.attrs["model_config"])
    except (OSError, KeyError, ValueError) as error:
        raise DataError(
            f"{path} has no network that can be read ({error!r}); give a file of the whole model, "
            "of model.save(), copied as a whole."
        ) from error
    return _names_lambda(config)


def _names_lambda(config) -> bool:
    if isinstance(config, dict):
        return config.get("class_name") == "Lambda" or any(map(_names_lambda, config.values()))
    return isinstance(config, list) and any(map(_names_lambda, config))


def _tensors(model) -> dict:
    """{name: KerasTensor} of all layers with a single output, and of the model's outputs."""
    found = {}
    for layer in model.layers:
        if type(layer).__name__ == "InputLayer":
            continue
        try:
            output = layer.output
        except (AttributeError, RuntimeError, ValueError):  # used several times, or never
            continue
        if not isinstance(output, list | tuple | dict):
            found[layer.name] = output
    known = {id(tensor) for tensor in found.values()}
    for name, output in zip(model.output_names, model.outputs, strict=True):
        if id(output) not in known:  # of an operation that is no layer
            found[name if name not in found else f"{name}_output"] = output
    return found


def _main_outputs(model, tensors) -> tuple[str, ...]:
    """Names of the model's outputs."""
    by_id = {id(tensor): name for name, tensor in tensors.items()}
    return tuple(by_id[id(tensor)] for tensor in model.outputs)


def _function(model, kind, tensors):
    """A function of (images, names) that runs the layers up to these."""
    functional = keras.keras_3().Model if kind == KERAS_3 else keras.Model

    @functools.cache
    def part(names):
        return functional(model.inputs, [tensors[name] for name in names])

    def function(images, names):
        found = part(tuple(names))(images, training=False)
        found = found if isinstance(found, list | tuple) else [found]
        return dict(zip(names, found, strict=True))

    return function


def _preset(model) -> tuple[str | None, str]:
    """The preset of `preprocessing` that the network implies, and why."""
    name, first = model.name, model.inputs[0].name
    if name in TRUNKS and first.partition(":")[0] == "images":
        return "0-1", "a file of dc_tf export"  # which has the names of keras.applications
    for layer in model.layers[:_FIRST_LAYERS]:
        scale = getattr(layer, "scale", None)
        if type(layer).__name__ == "Rescaling" and isinstance(scale, float) and scale < 0.1:
            return "0-255", f"its layer {layer.name} scales images"
        if type(layer).__name__ == "Normalization" and "prestem" in layer.name:
            return "0-255", f"its layer {layer.name} normalises images"
    starts = [preset for start, preset in _BEGINNINGS.items() if name.startswith(start)]
    preset = _EXACT.get(name) or (starts or [None])[0]
    return preset, f"{preset}, of {name} in keras.applications" if preset else ""
