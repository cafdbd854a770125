"""Writes the features of every image of a data set as `.npy` matrices.

    dc_tf embed --model=MODEL --data=DATA --layer=fc7 --output=DIR
    dc_tf kmeans --input=DIR --k=1000 --output=CLUSTERS
    dc_tf embed --model=theirs.onnx --preprocessing=imagenet --images=photos --output=DIR

The default layer is the model's best one as measured by `dc_tf evaluate`, by k-NN before linear
probe; the one that is clustered, fc7 or a ResNet's pool, if nothing was measured. The command says
which, and why.

The model may be of any program: a SavedModel, a Keras file (.keras or .h5, of Keras 2 or 3), an
ONNX file, or a TensorFlow Hub address. --layer names one of its outputs, or of Keras files any
layer, and is not needed where there is one output; of tokens the mean is taken, or with LAYER.first
the first. --preprocessing states how its images are prepared, unless the network or a file beside
it does (preprocessor_config.json of transformers, config.json of timm): a preset (imagenet, clip,
inception, caffe, 0-1, -1-1, 0-255), settings over one (imagenet,size=299,crop=0.9), or a YAML file.
Settings: size, short_side, crop (share of the short side; 0: whole image), interpolation (bilinear,
bicubic), scale, mean, deviation, order (rgb, bgr), layout (channels_last, channels_first).

--images=FOLDER converts the images first, to the data set OUTPUT.data, which stays.

OUTPUT/LAYER-00000-of-00003.npy has the features of the images whose row ids are in
OUTPUT/rows-00000-of-00003.npy. OUTPUT/sources-00000-of-00003.jsonl names the file of each of these
images, a line for each row: {"row": 7, "source": "dogs/rex.jpg"}. With TF_CONFIG, many workers
share the images and write the files that one would, in a folder that all see. An interrupted call
resumes when it is repeated; SIGTERM and Ctrl-C end it with exit code 42.
"""

from dc_tf.commands.flags.define import CommandFlags

FLAGS = CommandFlags()

MODEL = FLAGS.path(
    "model",
    None,
    "SavedModel or run folder; or a SavedModel, Keras or ONNX file of another program, or a "
    "TensorFlow Hub address.",
    required=True,
)
STAGE = FLAGS.string("stage", "", "Of a run: use the network as it was at the end of this stage.")
RANDOM_INIT = FLAGS.bool(
    "random_init", False, "Use an untrained network of the model's shape, for comparison."
)
SEED = FLAGS.integer("seed", 0, "Seed of the untrained network.", lower_bound=0)
DATA = FLAGS.path("data", None, "Data set folder.")
IMAGES = FLAGS.path(
    "images",
    None,
    "Without --data: folder of images, or what else dc_tf convert takes as --input.",
)
PREPROCESSING = FLAGS.string(
    "preprocessing", None, "Of networks of other programs: a preset, or settings; see above."
)
SIGNATURE = FLAGS.string(
    "signature",
    "",
    "Of SavedModels of other programs: the signature to call, or 'call' for the object itself; "
    "default: the one that takes images alone.",
)
OUTPUT = FLAGS.path("output", None, "Folder for the matrices.", required=True)
LAYER = FLAGS.list(
    "layer",
    None,
    "conv1..conv13, fc6, fc7 of VGG-16; conv1, block1_1..block4_2 (ResNet-50: block4_3), pool of a "
    "ResNet; of other networks, outputs, which 'list' shows; comma-separated, or 'all'; default: "
    "the best one measured, or the only output.",
)
CELLS = FLAGS.integer(
    "cells", 1, "Feature maps are averaged over a grid of cells x cells.", lower_bound=1
)
MIRROR = FLAGS.bool("mirror", False, "Average the features of each image and of its mirror image.")
DTYPE = FLAGS.string("dtype", "float32", "Type of the files: float32 or float16.")
COMPUTE_DTYPE = FLAGS.string(
    "compute_dtype",
    "auto",
    "Type of the products: float32, bfloat16, or auto: of a run its own, but no bfloat16 that is "
    "slower here; else the faster one, measured. A resumed call keeps the type that it began with.",
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
    """Writes the features; returns what they are, on the chief."""
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
        images=IMAGES.value,
        preprocessing=PREPROCESSING.value,
        signature=SIGNATURE.value,
    )
