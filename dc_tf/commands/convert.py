"""Converts images to a data set: a folder, a list, zip, tar or Parquet files, or a TFDS data set.

    dc_tf convert --input=photos --output=/data/photos --labels_from_folders --short_side=256
    dc_tf convert --input=imagenet --split=train --output=/data/train --labels_from_folders
    dc_tf convert --input=list.csv --output=/data/photos        # columns path, label, and any other
    dc_tf convert --input='web/train-{0000..0099}.tar' --output=/data/web --drop_duplicates
    dc_tf convert --input='data/train-*.parquet' --output=/data/train      # Hugging Face data sets
    dc_tf convert --input=tfds:cifar10:train --output=/data/cifar10
    dc_tf convert --to=webdataset --input=/data/photos --output=/data/tars
    dc_tf convert --to=folder --input=/data/view --output=/data/images

Every file becomes a row, or a line of `rejected.jsonl` in the output with the reason. An
interrupted call resumes when it is repeated; SIGTERM and Ctrl-C end it with exit code 42.

--to is the other way: it writes a data set or view of dc_tf as tar files (KEY.jpg, KEY.cls,
KEY.json) or as image files in a folder for each class, with images.jsonl beside them. Images are
copied as they are. Converting OUTPUT/*.tar or OUTPUT/images.jsonl gives the same rows, labels,
classes and metadata again.
"""

from dc_tf.commands.flags.define import CommandFlags
from dc_tf.data import convert
from dc_tf.distributed import stop_request

FLAGS = CommandFlags()
INPUT = FLAGS.path(
    "input",
    None,
    "Folder of images with its sub-folders, or a zip file of one; CSV, TSV or JSONL list with a "
    "`path` for each, or text file with a path per line; tar files, Parquet or Arrow tables, or "
    "images, as a path or pattern; or tfds:NAME or tfds:NAME:SPLIT.",
    required=True,
)
OUTPUT = FLAGS.path("output", None, "Folder of the data set.", required=True)
LABELS = FLAGS.bool("labels_from_folders", False, "First-level sub-folders are the classes.")
SPLIT = FLAGS.string(
    "split",
    None,
    "Sub-folder of the folder or zip file to convert, such as train. Classes of the other splits "
    "count as well, so that all splits number them alike. None: all.",
)
ENCODING = FLAGS.string(
    "encoding",
    None,
    "Encoding of a list, and of the texts in tar files, such as cp1252; None: UTF-8. A byte-order "
    "mark has precedence.",
)
IMAGE_COLUMN = FLAGS.string(
    "image_column",
    None,
    "Of Parquet and Arrow tables: the column with the images, as bytes or structs of bytes and "
    "path. None: the only one with bytes.",
)
LABEL_COLUMN = FLAGS.string(
    "label_column",
    None,
    "Of Parquet and Arrow tables: the column with the labels; empty for none. None: `label`, else "
    "the only one whose class names the tables state (ClassLabel).",
)
SHORT_SIDE = FLAGS.integer(
    "short_side",
    None,
    "Pixels; images with a longer short side are downscaled to it. None: no limit.",
    lower_bound=1,
)
FORMAT = FLAGS.enum(
    "format",
    "keep",
    convert.FORMATS,
    "Format of the output; keep: PNG stays PNG, everything else becomes JPEG.",
)
QUALITY = FLAGS.integer(
    "quality", 92, "JPEG quality of re-encoded images.", lower_bound=1, upper_bound=95
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
    "Reject images whose pixels, as they are written, all equal those of an earlier one. A copy "
    "that was compressed, scaled or cut differently has other pixels and is kept: `dc_tf "
    "duplicates` finds those.",
)
DROP_BLANK = FLAGS.bool("drop_blank", False, "Reject images of a single colour.")
VALUE_RANGE = FLAGS.string(
    "value_range",
    None,
    "For images of more than 8 bits per channel: HIGH or LOW,HIGH, the values that become black "
    "and white, such as 4095 for 12 bits. None: what the file states, else 0 to 1 for floats and "
    "the fewest of 8, 10, 12, 14 and 16 bits that hold the largest value of the image.",
)
ROWS_PER_SHARD = FLAGS.integer(
    "rows_per_shard", None, "Images in each shard; None: shards of 256 MiB.", lower_bound=1
)
WORKERS = FLAGS.integer("workers", None, "Processes; None: one per core.", lower_bound=1)
OVERWRITE = FLAGS.bool(
    "overwrite",
    False,
    "Replace a data set in the output, and discard an unfinished one of another input or other "
    "settings.",
)
TO = FLAGS.enum(
    "to",
    None,
    convert.TO,
    "The other way: write the data set --input in this format; --rows_per_shard are images of a "
    "tar.",
)
TFDS_DATA_DIR = FLAGS.path(
    "tfds_data_dir", None, "Folder of TensorFlow data sets; None: their default."
)


_ONE_WAY = set(FLAGS) - {"input", "output", "overwrite", "rows_per_shard", "to"}


def run() -> dict:
    """Runs the command; returns what was written and how many files were rejected."""
    convert.check_settings_of(TO.value, {name: FLAGS[name].present for name in _ONE_WAY})
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
            split=SPLIT.value,
            encoding=ENCODING.value,
            value_range=VALUE_RANGE.value,
            image_column=IMAGE_COLUMN.value,
            label_column=LABEL_COLUMN.value,
            to=TO.value,
        )
