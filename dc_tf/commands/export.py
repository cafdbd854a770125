"""Writes a run's network so that it loads anywhere and can be fine-tuned.

saved_model: a folder with a model card, for plain TensorFlow (`tf.saved_model.load`) and for
`hub.KerasLayer(trainable=True)`. Takes uint8 images, or float in [0, 1]; returns layers by name.
keras: a `.keras` file of plain layers, named as in `keras.applications.VGG16`.
keras_weights: a `.weights.h5` file for `dc_tf.nn.vgg16.VGG16(...).load_weights`.
onnx: a `.onnx` file of all layers; needs tf2onnx.
"""

from dc_tf.commands.command_flags import CommandFlags

FLAGS = CommandFlags()
WORKDIR = FLAGS.string("workdir", None, "Run folder of `dc_tf train`.", required=True)
STAGE = FLAGS.string("stage", "", "Use the network as it was at the end of this stage.")
OUTPUT = FLAGS.string("output", None, "Folder of the SavedModel, or file.", required=True)
FORMAT = FLAGS.enum(
    "format",
    "saved_model",
    ["saved_model", "keras", "keras_weights", "onnx"],
    "Format of the output; see above.",
)
SOBEL = FLAGS.string(
    "sobel",
    "layer",
    "'layer' keeps the fixed Sobel stage; 'folded' makes it and conv1 one 5x5 convolution on RGB "
    "that can be trained.",
)
OVERWRITE = FLAGS.bool("overwrite", False, "Replace an existing output.")


def run() -> dict:
    """Writes the network; returns what was written."""
    from dc_tf.training.export_run import export_run

    return export_run(
        WORKDIR.value,
        OUTPUT.value,
        format=FORMAT.value,
        sobel=SOBEL.value,
        stage=STAGE.value,
        overwrite=OVERWRITE.value,
    )
