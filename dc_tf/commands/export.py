"""Writes a run's network as a SavedModel that loads anywhere and can be fine-tuned.

Loads with plain TensorFlow (`tf.saved_model.load`) and with `hub.KerasLayer(trainable=True)`.
Takes uint8 images, or float in [0, 1], and returns all layers by name.
"""

from absl import flags

from dc_tf.errors import ConfigError

FLAGS = flags.FlagValues()
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Run folder of `dc_tf train`.", flag_values=FLAGS, required=True
)
STAGE = flags.DEFINE_string(
    "stage", "", "Take the network as it was when this stage ended.", flag_values=FLAGS
)
OUTPUT = flags.DEFINE_string(
    "output", None, "Folder for the SavedModel.", flag_values=FLAGS, required=True
)
SOBEL = flags.DEFINE_string(
    "sobel",
    "layer",
    "'layer' keeps the fixed Sobel stage; 'folded' makes it and conv1 one 5x5 convolution on RGB "
    "that can be trained.",
    flag_values=FLAGS,
)
OVERWRITE = flags.DEFINE_bool(
    "overwrite", False, "Replace a SavedModel that is there.", flag_values=FLAGS
)


def run() -> dict:
    # After the flags are known to be right, since TensorFlow takes seconds to import.
    from dc_tf.export.saved_model import SOBEL_FORMS, check_output, export_saved_model
    from dc_tf.training.checkpoint import load_trunk

    if SOBEL.value not in SOBEL_FORMS:
        raise ConfigError(f"--sobel is {SOBEL.value!r}; use one of {', '.join(SOBEL_FORMS)}.")
    check_output(OUTPUT.value, OVERWRITE.value)
    trunk, experiment = load_trunk(WORKDIR.value, STAGE.value)
    metadata = export_saved_model(
        trunk,
        OUTPUT.value,
        SOBEL.value,
        weight_decay=experiment.stages[-1].optimizer.weight_decay,
        short_side=experiment.data.resize or None,
        source={"workdir": WORKDIR.value, "stage": STAGE.value, "experiment": experiment.as_dict()},
        overwrite=OVERWRITE.value,
    )
    return {
        "export": OUTPUT.value,
        "sobel": SOBEL.value,
        "settings": metadata.settings,
        "outputs": metadata.outputs,
    }
