"""Classifies images with a model of `dc_tf finetune`, and writes a table with their files.

    dc_tf predict --model=CLASSIFIER --images=PHOTOS --output=found.csv
    dc_tf predict --model=CLASSIFIER --data=DATA --output=found.parquet --top=5

--images needs no conversion: a folder with its sub-folders, an image, a pattern, a list, or a zip,
tar or Parquet file. The table has a line for each image, in order: row, source (its file), label
where it is known, prediction, probability, and for an image that cannot be used the reason. Images
are resized and cut as in the measurement of the model. Runs on one worker.
"""

from dc_tf.commands.flags.define import CommandFlags
from dc_tf.commands.terminal.results import Result

FLAGS = CommandFlags()
MODEL = FLAGS.path(
    "model",
    None,
    "Output folder of dc_tf finetune, or the SavedModel in it.",
    required=True,
)
DATA = FLAGS.path("data", None, "Data set folder with the images.")
IMAGES = FLAGS.path(
    "images", None, "In place of --data: folder, image, pattern, list, zip, tar or Parquet file."
)
OUTPUT = FLAGS.path("output", None, "File to write: .parquet, .csv or .json.", required=True)
TOP = FLAGS.integer(
    "top",
    1,
    "Classes of each image, the most probable first; above 1 the table lists them in the columns "
    "top and top_probabilities.",
    lower_bound=1,
)
BATCH_SIZE = FLAGS.integer("batch_size", 64, "Images at a time.", lower_bound=1)


def run() -> dict:
    """Classifies and writes the table; returns counts."""
    from dc_tf.classification.predict import as_text, predict

    found = predict(
        MODEL.value,
        DATA.value,
        IMAGES.value,
        OUTPUT.value,
        top=TOP.value,
        batch_size=BATCH_SIZE.value,
    )
    print(as_text(found), flush=True)
    return Result(found, shown=True)
