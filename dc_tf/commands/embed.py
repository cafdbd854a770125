"""Writes the features of every image of a data set as `.npy` matrices.

    dc_tf embed --model=MODEL --data=DATA --layer=fc7 --output=DIR
    dc_tf kmeans --input='DIR/fc7-*.npy' --k=1000 --output=CLUSTERS

Without --layer it is the layer that `dc_tf evaluate` has measured as the best of the model, k-NN
before linear probes; fc7 if nothing was measured. The command says which, and why.

OUTPUT/LAYER-00000-of-00003.npy has the features of the images whose row ids are in
OUTPUT/rows-00000-of-00003.npy. Call it again to go on where it was stopped; SIGTERM and Ctrl-C
end it with exit code 42.
"""

import sys

from absl import flags

from dc_tf.distributed import stop_request
from dc_tf.errors import ConfigError

FLAGS = flags.FlagValues()


def _define(kind, name, default, text, **options):
    return getattr(flags, f"DEFINE_{kind}")(name, default, text, flag_values=FLAGS, **options)


MODEL = _define("string", "model", None, "SavedModel or run folder.", required=True)
STAGE = _define("string", "stage", "", "Of a run: take it as it was when this stage ended.")
RANDOM_INIT = _define(
    "bool", "random_init", False, "Of an untrained network of the model's shape, to compare with."
)
SEED = _define("integer", "seed", 0, "Of the untrained network.", lower_bound=0)
DATA = _define("string", "data", None, "Data set folder.", required=True)
OUTPUT = _define("string", "output", None, "Folder for the matrices.", required=True)
LAYER = _define(
    "list",
    "layer",
    None,
    "conv1..conv13, fc6, fc7, comma-separated, or 'all'; without it the one that measured best.",
)
CELLS = _define("integer", "cells", 1, "Maps are averaged over so many parts, each way.")
DTYPE = _define("string", "dtype", "float32", "Of the files: float32 or float16.")
COMPUTE_DTYPE = _define(
    "string",
    "compute_dtype",
    "auto",
    "Of the products: float32, bfloat16, or auto, which measures the faster; features that were "
    "begun keep what they began with.",
)
BATCH_SIZE = _define("integer", "batch_size", 256, "Images at a time.")
ROWS_PER_FILE = _define("integer", "rows_per_file", 1_000_000, "Images of one file, in memory.")
MAX_BAD_SHARE = _define(
    "float", "max_bad_share", 0.0, "Share of damaged images that others may stand in for."
)


def run() -> dict:
    if COMPUTE_DTYPE.value not in ("auto", "float32", "bfloat16"):
        raise ConfigError(
            f"--compute_dtype is {COMPUTE_DTYPE.value!r}; use auto, float32 or bfloat16."
        )
    if not 0 <= MAX_BAD_SHARE.value < 1:
        raise ConfigError(f"--max_bad_share is {MAX_BAD_SHARE.value}; use [0, 1).")
    from dc_tf.data.storage.manifest import Dataset

    dataset = Dataset.open(DATA.value)
    # After all that can be checked without TensorFlow, which takes seconds to import.
    from dc_tf.evaluation.frozen.embed import choose_layers, compute_dtype, embed
    from dc_tf.evaluation.frozen.features import parse_layers
    from dc_tf.evaluation.models import open_model, random_init
    from dc_tf.precision import tell

    layers = LAYER.value and parse_layers(LAYER.value)
    choice = compute_dtype(OUTPUT.value, COMPUTE_DTYPE.value)
    tell(choice, "embed")
    subject = open_model(MODEL.value, choice.dtype, STAGE.value)
    if not layers:
        layers, reason = choose_layers(subject, OUTPUT.value, CELLS.value)
        print(reason, file=sys.stderr, flush=True)
    if RANDOM_INIT.value:
        subject = random_init(subject, SEED.value)
    with stop_request.signals_handled():
        about = embed(
            subject,
            dataset,
            OUTPUT.value,
            layers,
            CELLS.value,
            DTYPE.value,
            BATCH_SIZE.value,
            ROWS_PER_FILE.value,
            MAX_BAD_SHARE.value,
        )
    return {"output": OUTPUT.value, **about}
