"""Exports the trained network as one file: Keras weights, a Keras model, or ONNX.

    write_file(trunk, "mine.weights.h5", "keras_weights")   # for VGG16(...).load_weights
    write_file(trunk, "mine.keras", "keras")                # for keras.models.load_model
    write_file(trunk, "mine.onnx", "onnx")                  # for onnxruntime, without TensorFlow

The input of the last two is (b, r, r, 3) float32 RGB in [0, 1] at the network's resolution.
"""

import os

import tensorflow as tf

from dc_tf import atomic
from dc_tf.errors import ConfigError
from dc_tf.exporting.keras_model import keras_model
from dc_tf.exporting.saved_model import plain_copy

ENDINGS = {"keras_weights": ".weights.h5", "keras": ".keras", "onnx": ".onnx"}
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
    if os.path.isdir(output):
        raise ConfigError(f"the output {output!r} is a folder; name a file.")
    if os.path.exists(output) and not overwrite:
        raise ConfigError(f"the output {output!r} exists; choose another or give --overwrite.")
    if not os.path.isdir(os.path.dirname(os.path.abspath(output))):
        raise ConfigError(f"the folder of {output!r} does not exist; create it first.")
    if form == "onnx":
        _converter()


def write_file(trunk, output: str, form: str, sobel="layer", overwrite=False) -> None:
    """Writes the file atomically.

    Args:
        trunk: built VGG16; not modified.
        output: path of a local file.
        form: a key of ENDINGS.
        sobel: "layer" or "folded", see `saved_model.export_saved_model`.
        overwrite: whether to replace an existing file.

    Raises:
        ConfigError: as in `check_file`, or `sobel` does not fit the trunk.
    """
    check_file(output, form, overwrite)
    network = plain_copy(trunk, sobel)
    with atomic.replacing(output, concurrent=True, ending=ENDINGS[form]) as staging:
        if form == "keras_weights":
            network.save_weights(staging)
        elif form == "keras":
            keras_model(network).save(staging)
        else:
            _write_onnx(network, staging)


def _write_onnx(network, path):
    resolution = network.settings["resolution"]
    spec = [tf.TensorSpec([None, resolution, resolution, 3], tf.float32, name="images")]

    @tf.function(input_signature=spec, autograph=False)
    def infer(images):
        return network(images, training=False)

    _converter().convert.from_function(infer, spec, opset=_OPSET, output_path=path)


def _converter():
    try:
        import tf2onnx
    except ImportError as error:
        raise ConfigError(
            "the ONNX format needs the package tf2onnx, which is missing; install it with 'pip "
            "install -c constraints.txt tf2onnx', or install the extra 'onnx'."
        ) from error
    return tf2onnx
