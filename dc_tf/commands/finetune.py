"""Fine-tunes a network on labels and keeps the classifier as a SavedModel.

    dc_tf finetune --model=MODEL --train=DATA --test=TEST --output=CLASSIFIER
    dc_tf predict --model=CLASSIFIER --images=PHOTOS --output=found.csv

Trains all layers with the settings of `dc_tf evaluate --task=finetune`, and then writes to
CLASSIFIER: model/, a SavedModel that returns probabilities and class names and needs TensorFlow
only; predictions.parquet, a line for each labelled test image with its file, label, prediction and
probability; classes.csv, precision and recall of each class; confusion.csv and confusion.png,
images by label and prediction; result.json. With TF_CONFIG, workers share every batch, in a folder
that all see. An interrupted call resumes when it is repeated; SIGTERM and Ctrl-C save and end with
exit code 42. Repeated after its end, it returns the result again.

The model takes images as uint8, or as floats in [0, 1], as one of `dc_tf export` does.
"""

from dc_tf.commands.flags.define import CommandFlags
from dc_tf.commands.terminal.results import Result

FLAGS = CommandFlags()
MODEL = FLAGS.path("model", None, "SavedModel or run folder to start from.", required=True)
STAGE = FLAGS.string("stage", "", "Of a run: use the network as it was at the end of this stage.")
TRAIN = FLAGS.path("train", None, "Labelled data set to learn from.", required=True)
TEST = FLAGS.path("test", None, "Labelled data set to measure on.", required=True)
OUTPUT = FLAGS.path("output", None, "Folder for the classifier and its metrics.", required=True)
CONFIG_FILE = FLAGS.multi_path(
    "config_file", [], "YAML file with settings of the task finetune, or the name of a preset."
)
PARAMS_OVERRIDE = FLAGS.multi_string(
    "params_override", [], "Settings over those of --config_file: a=1,b=2 or YAML."
)
PROTOCOL = FLAGS.string(
    "protocol",
    "auto",
    "paper, small, or auto: by a configuration file, or by the size of network and data.",
)
FORMAT = FLAGS.enum("format", "parquet", ["parquet", "csv", "json"], "Of the table of predictions.")
INPUT_RANGE = FLAGS.enum(
    "input_range",
    "auto",
    ["auto", "1", "255"],
    "Values of float images that the model takes: [0, 1], as with auto, or 0 to 255.",
)
COMPUTE_DTYPE = FLAGS.string(
    "compute_dtype",
    "auto",
    "Type of the products in training: float32, bfloat16, or auto, which measures the faster; a "
    "resumed call keeps the type that it began with. The model computes in float32.",
)
RESIZE = FLAGS.integer(
    "resize", None, "Pixels of the short side before the centre crop.", lower_bound=1
)
SEED = FLAGS.integer(
    "seed", 0, "Seed of the new layers, the order of images, crops and dropout.", lower_bound=0
)
OVERWRITE = FLAGS.bool("overwrite", False, "Replace a classifier that is finished or another.")
ESTIMATE = FLAGS.bool(
    "estimate", True, "First measure for some seconds what the training will cost, and print it."
)
TIMEOUT_S = FLAGS.float(
    "timeout_s",
    600.0,
    "With several workers: seconds that one may be silent before the others end, and say so; 0: "
    "for ever.",
    lower_bound=0,
)


def run() -> dict | None:
    """Trains and writes; returns the metrics, on the chief."""
    from dc_tf.classification.finetune import as_text, finetune

    found = finetune(
        MODEL.value,
        TRAIN.value,
        TEST.value,
        OUTPUT.value,
        config_files=CONFIG_FILE.value,
        params_override=PARAMS_OVERRIDE.value,
        protocol=PROTOCOL.value,
        stage=STAGE.value,
        compute_dtype=COMPUTE_DTYPE.value,
        resize=RESIZE.value,
        seed=SEED.value,
        input_range=INPUT_RANGE.value,
        format=FORMAT.value,
        overwrite=OVERWRITE.value,
        estimate=ESTIMATE.value,
        timeout_s=TIMEOUT_S.value,
    )
    if found is None:
        return None
    print(as_text(found), flush=True)
    return Result(found, shown=True, path=f"{found['output']}/result.json")
