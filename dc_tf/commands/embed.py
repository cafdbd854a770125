"""Writes the features of every image of a data set as `.npy` matrices.

    dc_tf embed --model=MODEL --data=DATA --layer=fc7 --output=DIR
    dc_tf kmeans --input='DIR/fc7-*.npy' --k=1000 --output=CLUSTERS

The default layer is the model's best one as measured by `dc_tf evaluate`, by k-NN before linear
probe; the one that is clustered, fc7 or a ResNet's pool, if nothing was measured. The command says
which, and why.

OUTPUT/LAYER-00000-of-00003.npy has the features of the images whose row ids are in
OUTPUT/rows-00000-of-00003.npy. OUTPUT/sources-00000-of-00003.jsonl names the file of each of these
images, a line for each row: {"row": 7, "source": "dogs/rex.jpg"}. With TF_CONFIG, many workers
share the images and write the files that one would, in a folder that all see. An interrupted call
resumes when it is repeated; SIGTERM and Ctrl-C end it with exit code 42.
"""

from dc_tf.commands.command_flags import CommandFlags

FLAGS = CommandFlags()

MODEL = FLAGS.path("model", None, "SavedModel or run folder.", required=True)
STAGE = FLAGS.string("stage", "", "Of a run: use the network as it was at the end of this stage.")
RANDOM_INIT = FLAGS.bool(
    "random_init", False, "Use an untrained network of the model's shape, for comparison."
)
SEED = FLAGS.integer("seed", 0, "Seed of the untrained network.", lower_bound=0)
DATA = FLAGS.path("data", None, "Data set folder.", required=True)
OUTPUT = FLAGS.path("output", None, "Folder for the matrices.", required=True)
LAYER = FLAGS.list(
    "layer",
    None,
    "conv1..conv13, fc6, fc7 of VGG-16; conv1, block1_1..block4_2 (ResNet-50: block4_3), pool of a "
    "ResNet; comma-separated, or 'all'; default: the best one measured.",
)
CELLS = FLAGS.integer(
    "cells", 1, "Feature maps are averaged over a grid of cells x cells.", lower_bound=1
)
MIRROR = FLAGS.bool("mirror", False, "Average the features of each image and of its mirror image.")
DTYPE = FLAGS.string("dtype", "float32", "Type of the files: float32 or float16.")
COMPUTE_DTYPE = FLAGS.string(
    "compute_dtype",
    "auto",
    "Type of the products: float32, bfloat16, or auto, which measures the faster; a resumed call "
    "keeps the type that it began with.",
)
BATCH_SIZE = FLAGS.integer("batch_size", 256, "Images per batch.", lower_bound=1)
ROWS_PER_FILE = FLAGS.integer("rows_per_file", 1_000_000, "Images per file.", lower_bound=1)
MAX_BAD_SHARE = FLAGS.float(
    "max_bad_share",
    0.0,
    "Largest share of corrupt images; each is replaced by a readable one.",
    lower_bound=0,
)


def run() -> dict | None:
    """Writes the features; returns what they are, on the first worker."""
    from dc_tf.evaluation.frozen.start import embed_files

    return embed_files(
        MODEL.value,
        DATA.value,
        OUTPUT.value,
        layers=LAYER.value,
        stage=STAGE.value,
        random_init=RANDOM_INIT.value,
        seed=SEED.value,
        cells=CELLS.value,
        mirror=MIRROR.value,
        dtype=DTYPE.value,
        compute_dtype=COMPUTE_DTYPE.value,
        batch_size=BATCH_SIZE.value,
        rows_per_file=ROWS_PER_FILE.value,
        max_bad_share=MAX_BAD_SHARE.value,
    )
