"""Exports the trained network as one file: of Keras, ONNX, TFLite, or weights for PyTorch.

    write_file(trunk, "mine.weights.h5", "keras_weights")   # for make_trunk(...).load_weights
    write_file(trunk, "mine.keras", "keras")                # for load_model of Keras 2
    write_file(trunk, "mine.keras", "keras3")               # for load_model of Keras 3
    write_file(trunk, "mine.onnx", "onnx")                  # for onnxruntime, without TensorFlow
    write_file(trunk, "mine.tflite", "tflite")              # for LiteRT
    write_file(trunk, "mine.pth", "torch")                  # a state_dict, see `torch_weights`
    write_file(trunk, "mine.pth", "torchvision")            # the same for its models, see
    write_file(trunk, "mine.safetensors", "safetensors")    # and for timm's; `torch_models`

The input of Keras models, ONNX and TFLite is (b, r, r, 3) RGB at the network's resolution. A Keras
model casts it to float32; of the others it has that type, or uint8 with `input_range="255"`.
"""

import json
import os

import tensorflow as tf

from dc_tf import atomic, paths
from dc_tf.errors import ConfigError
from dc_tf.exporting.input_range import AUTO, BYTES, checked_range, of_floats, of_typed
from dc_tf.exporting.keras_3_model import keras_3_model
from dc_tf.exporting.keras_model import keras_model
from dc_tf.exporting.safetensors_file import write_safetensors
from dc_tf.exporting.saved_model import plain_copy
from dc_tf.exporting.tflite_file import write_tflite
from dc_tf.exporting.torch_checkpoint import require_torch, write_checkpoint
from dc_tf.exporting.torch_models import about, check_shape, timm_state, torchvision_state
from dc_tf.exporting.torch_weights import to_torch
from dc_tf.keras import keras_3

ENDINGS = {
    "keras_weights": ".weights.h5",
    "keras": ".keras",
    "keras3": ".keras",
    "onnx": ".onnx",
    "tflite": ".tflite",
    "torch": ".pth",
    "torchvision": ".pth",
    "safetensors": ".safetensors",
}
WEIGHTS = ("keras_weights", "torch", "torchvision", "safetensors")  # which take no images
_OPSET = 17


def check_file(output: str, form: str, overwrite: bool) -> None:
    """Checks that a file can be written, before anything is loaded.

    Raises:
        ConfigError: the file name, its folder, an existing file or a missing package prevents it.
    """
    if not output.endswith(ENDINGS[form]):
        raise ConfigError(
            f"the output is {output!r}; for {form} use a name that ends in {ENDINGS[form]}."
        )
    paths.check_file(output, "--output")
    if os.path.exists(output) and not overwrite:
        raise ConfigError(f"the output {output!r} exists; choose another or give --overwrite.")
    if form == "onnx":
        _converter()
    if form in ("torch", "torchvision"):
        require_torch("writing")
    if form == "keras3":
        keras_3()


def write_file(
    trunk, output: str, form: str, sobel="layer", overwrite=False, input_range=AUTO
) -> None:
    """Writes the file atomically.

    Args:
        trunk: built Trunk; not modified.
        output: path of a local file.
        form: a key of ENDINGS.
        sobel: "layer" or "folded", see `saved_model.export_saved_model`.
        overwrite: whether to replace an existing file.
        input_range: of the values of images, see `input_range`; not of weights.

    Raises:
        ConfigError: as in `check_file`, `input_range` is unknown, or `sobel` does not fit.
    """
    input_range = checked_range(input_range)
    check_file(output, form, overwrite)
    network = plain_copy(trunk, sobel)
    if form in ("torchvision", "safetensors"):
        check_shape(network, "timm" if form == "safetensors" else form)
    with atomic.replacing(output, concurrent=True, ending=ENDINGS[form]) as staging:
        if form == "keras_weights":
            network.save_weights(staging)
        elif form == "keras":
            keras_model(network, input_range).save(staging)
        elif form == "keras3":
            keras_3_model(network, input_range).save(staging)
        elif form == "torch":
            write_checkpoint(to_torch(network), staging)
        elif form == "torchvision":
            write_checkpoint(torchvision_state(network), staging)
        elif form == "safetensors":
            write_safetensors(timm_state(network), staging, about(network))
        elif form == "tflite":
            write_tflite(network, staging, _inference(network, input_range))
        else:
            _write_onnx(network, staging, input_range)


def _write_onnx(network, path, input_range):
    infer = _inference(network, input_range)
    spec = infer.input_signature
    _converter().convert.from_function(infer, spec, opset=_OPSET, output_path=path)
    _state_preprocessing(path, input_range)


def _state_preprocessing(path, input_range):
    """Writes into an ONNX file how its images are prepared, as `networks.onnx_file` reads it."""
    import onnx  # which tf2onnx needs

    model = onnx.load(path)
    stated = {"scale": 255.0 if input_range == BYTES else 1.0}
    model.metadata_props.add(key="dc_tf", value=json.dumps({"preprocessing": stated}))
    onnx.save(model, path)


def _inference(network, input_range):
    """A tf.function of `images` at the network's resolution; {layer: features}."""
    resolution = network.settings["resolution"]
    dtype = tf.uint8 if input_range == BYTES else tf.float32
    spec = [tf.TensorSpec([None, resolution, resolution, 3], dtype, name="images")]
    unit_floats = of_typed if dtype == tf.uint8 else of_floats

    @tf.function(input_signature=spec, autograph=False)
    def infer(images):
        return network(unit_floats(images, input_range), training=False)

    return infer


def _converter():
    try:
        import tf2onnx
    except ImportError as error:
        raise ConfigError(
            "the ONNX format needs the package tf2onnx, which is missing; install it with 'pip "
            "install -c constraints.txt tf2onnx', or install the extra 'onnx'."
        ) from error
    return tf2onnx
