"""Writes the built-in data set: procedural upright scenes with classes and metadata.

dc_tf generate --output=/tmp/scenes
dc_tf generate --output=/tmp/scenes_test --split=test --images=1000
"""

from dc_tf.commands.flags.define import CommandFlags
from dc_tf.data.synthetic import generate

FLAGS = CommandFlags()
OUTPUT = FLAGS.path("output", None, "Folder of the data set to write.", required=True)
IMAGES = FLAGS.integer("images", 4000, "Number of images.", lower_bound=1)
SIZE = FLAGS.integer("size", 64, "Pixels of a side; 64 to 96 look best.")
SEED = FLAGS.integer("seed", 0, "Seed; equal seeds give equal images.", lower_bound=0)
SPLIT = FLAGS.enum(
    "split",
    "train",
    list(generate.SPLITS),
    "Two splits of one seed share users and places but no image.",
)
CLASSES = FLAGS.integer(
    "classes",
    len(generate.CLASS_NAMES),
    f"Draw only this many of the most frequent classes: {', '.join(generate.CLASS_NAMES)}.",
)
ROWS_PER_SHARD = FLAGS.integer("rows_per_shard", 1000, "Images per shard.", lower_bound=1)
OVERWRITE = FLAGS.bool("overwrite", False, "Replace a data set that is already in --output.")


def run() -> dict:
    return generate.generate(
        output=OUTPUT.value,
        images=IMAGES.value,
        size=SIZE.value,
        seed=SEED.value,
        split=SPLIT.value,
        classes=CLASSES.value,
        rows_per_shard=ROWS_PER_SHARD.value,
        overwrite=OVERWRITE.value,
    )
