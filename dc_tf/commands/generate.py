"""Writes the embedded data set: procedural scenes with up and down, classes and metadata.

dc_tf generate --output=/tmp/scenes
dc_tf generate --output=/tmp/scenes_test --split=test --images=1000
"""

from absl import flags

from dc_tf.data.synthetic import generate

FLAGS = flags.FlagValues()
OUTPUT = flags.DEFINE_string(
    "output", None, "Folder of the data set to write.", flag_values=FLAGS, required=True
)
IMAGES = flags.DEFINE_integer("images", 4000, "How many images.", flag_values=FLAGS)
SIZE = flags.DEFINE_integer("size", 64, "Pixels of a side; 64 to 96 look best.", flag_values=FLAGS)
SEED = flags.DEFINE_integer("seed", 0, "The same seed, the same images.", flag_values=FLAGS)
SPLIT = flags.DEFINE_enum(
    "split",
    "train",
    list(generate.SPLITS),
    "Two sets of one seed that share people and places but no image.",
    flag_values=FLAGS,
)
CLASSES = flags.DEFINE_integer(
    "classes",
    len(generate.CLASS_NAMES),
    f"Only the most frequent of {', '.join(generate.CLASS_NAMES)}.",
    flag_values=FLAGS,
)
ROWS_PER_SHARD = flags.DEFINE_integer("rows_per_shard", 1000, "Shard size.", flag_values=FLAGS)
OVERWRITE = flags.DEFINE_bool(
    "overwrite", False, "Replace a data set that is already in --output.", flag_values=FLAGS
)


def run():
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
