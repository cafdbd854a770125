"""Indexes existing TFRecord files as a data set, whatever the names of their features.

    dc_tf index --input='/data/imagenet/train-*' --label_offset=-1
    dc_tf index --input='/data/coco/*.tfrecord' --image_feature=img --label_feature= --output=DATA

No record is rewritten: an index of each file and a manifest are written beside the files, or to
--output. Bad records are listed in `rejected.jsonl`. An interrupted call resumes when it is
repeated; SIGTERM and Ctrl-C end it with exit code 42. On a complete data set, missing or corrupt
indexes are rebuilt.
"""

import os

from dc_tf.commands.flags.define import CommandFlags
from dc_tf.data.sources import encodings
from dc_tf.distributed import stop_request
from dc_tf.errors import ConfigError

FLAGS = CommandFlags()
INPUT = FLAGS.path("input", None, "TFRecord files: a pattern, or a folder.", required=True)
OUTPUT = FLAGS.path("output", None, "Folder of the data set; None: the folder of the files.")
IMAGE_FEATURE = FLAGS.string(
    "image_feature", "image/encoded", "Feature with the encoded image: JPEG, PNG, GIF or BMP."
)
LABEL_FEATURE = FLAGS.string(
    "label_feature", "image/class/label", "Feature with the label, an integer; empty: no labels."
)
LABEL_OFFSET = FLAGS.integer(
    "label_offset",
    0,
    "Added to the labels; -1 if classes are numbered from 1, as in the usual ImageNet TFRecords. "
    "A result of -1 means no label.",
)
SOURCE_FEATURE = FLAGS.string(
    "source_feature",
    "image/filename",
    "Feature with a text that describes the image's origin; empty: none.",
)
CLASS_NAMES = FLAGS.path(
    "class_names",
    None,
    "Text file with the names of classes 0, 1, ..., one per line.",
)
ENCODING = FLAGS.string(
    "encoding", None, "Encoding of --class_names; None: UTF-8. A byte-order mark has precedence."
)
MAX_BAD_SHARE = FLAGS.float(
    "max_bad_share",
    0.0,
    "Largest accepted fraction of bad records, which are left out. With more, nothing is written.",
    lower_bound=0.0,
    upper_bound=1.0,
)
WORKERS = FLAGS.integer("workers", None, "Processes; None: one per core.", lower_bound=1)
OVERWRITE = FLAGS.bool(
    "overwrite",
    False,
    "Replace a data set in the output; TFRecord files indexed in place are never removed.",
)


def run() -> dict:
    """Runs the command; returns what was found."""
    from dc_tf.data.storage import index_tfrecords, scan
    from dc_tf.data.storage.manifest import MANIFEST
    from dc_tf.data.storage.schema import Features

    if os.path.exists(os.path.join(INPUT.value, MANIFEST)) and not OVERWRITE.value:
        return scan.repair(INPUT.value, WORKERS.value)
    features = Features(
        image=IMAGE_FEATURE.value,
        label=LABEL_FEATURE.value,
        source=SOURCE_FEATURE.value,
        meta="",
        label_offset=LABEL_OFFSET.value,
    )
    class_names = _class_names()
    with stop_request.signals_handled():
        return index_tfrecords.index_tfrecords(
            INPUT.value,
            OUTPUT.value,
            features,
            class_names,
            MAX_BAD_SHARE.value,
            WORKERS.value,
            OVERWRITE.value,
        )


def _class_names():
    if CLASS_NAMES.value is None:
        return None
    path, encoding = CLASS_NAMES.value, ENCODING.value
    encodings.check_encoding(encoding)
    names = []
    try:
        for number, line in encodings.lines(path, encoding):
            encodings.raise_if_undecodable(path, number, line, encoding)
            names.append(line.strip())
    except OSError as error:
        raise ConfigError(
            f"--class_names={path} cannot be read: {error.strerror}; give a text file with a name "
            "a line."
        ) from error
    return [name for name in names if name]
