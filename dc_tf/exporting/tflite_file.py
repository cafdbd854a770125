"""Converts the network to TFLite.

    write_tflite(network, "mine.tflite", infer)

The file has one signature, `serving_default`, whose outputs are all layers by name, and uses
TFLite's own kernels only.
"""

import tempfile

import tensorflow as tf

_SIGNATURE = "serving_default"


def write_tflite(network, path: str, infer) -> None:
    """Writes the file.

    Args:
        network: built Trunk, whose weights `infer` uses.
        path: of a local file.
        infer: tf.function of `images` with a signature; {layer: tensor}.
    """
    module = tf.Module()
    module.network = network
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder, signatures={_SIGNATURE: infer})
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=[_SIGNATURE])
        content = converter.convert()
    with open(path, "wb") as file:
        file.write(content)
