"""Writes a run's network so that it loads anywhere and can be fine-tuned.

saved_model: a folder with a model card, for plain TensorFlow (`tf.saved_model.load`) and for
`hub.KerasLayer(trainable=True)`. Takes uint8 images, or float in [0, 1]; returns layers by name.
keras: a `.keras` file of plain layers, named as in `keras.applications.VGG16`.
keras_weights: a `.weights.h5` file for `dc_tf.nn.vgg16.VGG16(...).load_weights`.
onnx: a `.onnx` file of all layers; needs tf2onnx.
"""

from dc_tf.commands.command_flags import CommandFlags
from dc_tf.errors import ConfigError

FLAGS = CommandFlags()
WORKDIR = FLAGS.string("workdir", None, "Run folder of `dc_tf train`.", required=True)
STAGE = FLAGS.string("stage", "", "Take the network as it was when this stage ended.")
OUTPUT = FLAGS.string("output", None, "Folder of the SavedModel, or file.", required=True)
FORMAT = FLAGS.enum(
    "format",
    "saved_model",
    ["saved_model", "keras", "keras_weights", "onnx"],
    "What is written; see above.",
)
SOBEL = FLAGS.string(
    "sobel",
    "layer",
    "'layer' keeps the fixed Sobel stage; 'folded' makes it and conv1 one 5x5 convolution on RGB "
    "that can be trained.",
)
OVERWRITE = FLAGS.bool("overwrite", False, "Replace what is there.")


def run() -> dict:
    # After the flags are known to be right, since TensorFlow takes seconds to import.
    from dc_tf.export.file_formats import check_file, write_file
    from dc_tf.export.provenance import of_run
    from dc_tf.export.saved_model import SOBEL_FORMS, check_output, export_saved_model
    from dc_tf.training.checkpoint import load_trunk

    if SOBEL.value not in SOBEL_FORMS:
        raise ConfigError(f"--sobel is {SOBEL.value!r}; use one of {', '.join(SOBEL_FORMS)}.")
    one_file = FORMAT.value != "saved_model"
    if one_file:
        check_file(OUTPUT.value, FORMAT.value, OVERWRITE.value)
    else:
        check_output(OUTPUT.value, OVERWRITE.value)
    trunk, experiment = load_trunk(WORKDIR.value, STAGE.value)
    about = {"export": OUTPUT.value, "format": FORMAT.value, "sobel": SOBEL.value}
    if one_file:
        write_file(trunk, OUTPUT.value, FORMAT.value, SOBEL.value, OVERWRITE.value)
        return about | {"settings": trunk.settings}
    metadata = export_saved_model(
        trunk,
        OUTPUT.value,
        SOBEL.value,
        weight_decay=experiment.stages[-1].optimizer.weight_decay,
        short_side=experiment.data.resize or None,
        source=of_run(WORKDIR.value, STAGE.value, experiment),
        overwrite=OVERWRITE.value,
    )
    return about | {"settings": metadata.settings, "outputs": metadata.outputs}
