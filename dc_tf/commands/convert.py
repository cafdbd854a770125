"""Converts images to a data set: from a folder, a list, tar files or a TensorFlow data set.

    dc_tf convert --input=photos --output=/data/photos --labels_from_folders --short_side=256
    dc_tf convert --input=list.csv --output=/data/photos        # columns path, label, and any other
    dc_tf convert --input='web/train-{0000..0099}.tar' --output=/data/web --drop_duplicates
    dc_tf convert --input=tfds:cifar10:train --output=/data/cifar10

Every file becomes a row, or a line of `rejected.jsonl` in the output with the reason. An
interrupted conversion resumes when it is started again with the same flags; SIGTERM and Ctrl-C end
it with exit code 42.
"""

from dc_tf.commands.command_flags import CommandFlags
from dc_tf.data import convert
from dc_tf.distributed import stop_request

FLAGS = CommandFlags()
INPUT = FLAGS.path(
    "input",
    None,
    "Folder of images with its sub-folders; CSV, TSV or JSONL list with a `path` for each; tar "
    "files, as a path or pattern; or tfds:NAME or tfds:NAME:SPLIT.",
    required=True,
)
OUTPUT = FLAGS.path("output", None, "Folder of the data set.", required=True)
LABELS = FLAGS.bool("labels_from_folders", False, "First-level sub-folders are the classes.")
SHORT_SIDE = FLAGS.integer(
    "short_side",
    None,
    "Largest short side in pixels; larger images are downscaled. None: no limit.",
    lower_bound=1,
)
FORMAT = FLAGS.enum(
    "format",
    "keep",
    convert.FORMATS,
    "Format of the images written; keep: PNG stays PNG, all others become JPEG.",
)
QUALITY = FLAGS.integer(
    "quality", 92, "Quality of the JPEGs written.", lower_bound=1, upper_bound=95
)
MAX_PIXELS = FLAGS.integer(
    "max_pixels",
    100_000_000,
    "Images whose header states more pixels are rejected without decoding.",
    lower_bound=1,
    upper_bound=2**63 - 1,
)
DROP_DUPLICATES = FLAGS.bool(
    "drop_duplicates",
    False,
    "Reject images with exactly the size and pixels, as written, of an earlier image.",
)
DROP_BLANK = FLAGS.bool("drop_blank", False, "Reject images of a single colour.")
ROWS_PER_SHARD = FLAGS.integer("rows_per_shard", None, "None: shards of 256 MiB.", lower_bound=1)
WORKERS = FLAGS.integer("workers", None, "Processes; None: one for each core.", lower_bound=1)
OVERWRITE = FLAGS.bool(
    "overwrite",
    False,
    "Replace the data set in the output, or an unfinished one begun with other flags.",
)
TFDS_DATA_DIR = FLAGS.path(
    "tfds_data_dir", None, "Folder of tfds: data sets; None: that of tensorflow_datasets."
)


def run() -> dict:
    """Runs the command; returns what was written and how many files were rejected."""
    with stop_request.signals_handled():
        return convert.convert(
            INPUT.value,
            OUTPUT.value,
            labels_from_folders=LABELS.value,
            max_short_side=SHORT_SIDE.value,
            format=FORMAT.value,
            quality=QUALITY.value,
            max_pixels=MAX_PIXELS.value,
            drop_duplicates=DROP_DUPLICATES.value,
            drop_blank=DROP_BLANK.value,
            rows_per_shard=ROWS_PER_SHARD.value,
            workers=WORKERS.value,
            overwrite=OVERWRITE.value,
            tfds_data_dir=TFDS_DATA_DIR.value,
        )
