"""Clusters the rows of .npy, .npz, Parquet or Arrow files, on the workers that TF_CONFIG names.

    dc_tf kmeans --input='embeddings/*.npy' --k=1000 --output=CLUSTERS
    dc_tf kmeans --input=FEATURES --k=1000 --output=CLUSTERS             # of dc_tf embed
    dc_tf kmeans --input=vectors.parquet --column=embedding --id_column=name --k=1000 --output=OUT
    dc_tf kmeans --input=new.npy --init=CLUSTERS/centroids.npy --iterations=0 --output=ASSIGNED

Any matrices of float16, bfloat16, float32 or float64, larger than memory if need be; several files
are one matrix. Writes centroids.npy (k, dim), assignments.npy (the cluster of every row) and
clustering.json (settings, objective of each iteration, sizes of the clusters). Started again with
the same settings, it resumes an interrupted clustering; once finished, it prints its result again.
SIGTERM and Ctrl-C save after the iteration and end with exit code 42; a second Ctrl-C ends at once.
"""

from dc_tf.commands.flags.define import CommandFlags
from dc_tf.commands.flags.features import column_flag
from dc_tf.commands.terminal.results import Result
from dc_tf.kmeans_options import CHOICES, COMMAND_OPTIONS

FLAGS = CommandFlags()
INPUT = FLAGS.paths(
    "input",
    None,
    "A .npy, .npz, Parquet or Arrow file, a pattern in quotes ('shards/*.npy', in sorted order), "
    "an output folder of dc_tf embed with one layer, or several of these with commas between them.",
    required=True,
)
COLUMN = column_flag(FLAGS)
ID_COLUMN = FLAGS.string(
    "id_column", None, "Of a table: written beside the clusters to assignments.parquet."
)
FORMAT = FLAGS.enum(
    "format", "npy", ["npy", "parquet"], "parquet writes assignments.parquet as well."
)
OUTPUT = FLAGS.path("output", None, "Folder, shared by all workers.", required=True)
K = FLAGS.integer(
    "k",
    None,
    "Number of clusters; not needed with --init=FILE.npy, which has it.",
    lower_bound=1,
)
ITERATIONS = FLAGS.integer(
    "iterations",
    COMMAND_OPTIONS.iterations,
    "Of Lloyd, at most. 0 with --init=FILE.npy assigns rows, of any number, to these centroids.",
    lower_bound=0,
)
INIT = FLAGS.path(
    "init",
    COMMAND_OPTIONS.init,
    "Where to start: distinct random rows; k-means++ or (in quotes, for large k) k-means|| draw "
    "rows far from one another; or a .npy file with (k, dim) centroids, such as centroids.npy of "
    "an earlier clustering.",
)
SEED = FLAGS.integer("seed", 0, "Seed of all random draws.", lower_bound=0)
PRECISION = FLAGS.enum(
    "precision",
    COMMAND_OPTIONS.precision,
    list(CHOICES["precision"]),
    "Of the products; auto measures which is faster on all workers. A clustering that was begun "
    "keeps what it began with.",
)
BACKEND = FLAGS.enum(
    "backend",
    COMMAND_OPTIONS.backend,
    list(CHOICES["backend"]),
    "Search for the nearest centroids.",
)
SPHERICAL = FLAGS.bool(
    "spherical", COMMAND_OPTIONS.spherical, "Keep centroids at length 1, for --normalize."
)
NORMALIZE = FLAGS.bool("normalize", False, "Scale every row to length 1.")
TOLERANCE = FLAGS.float(
    "tolerance",
    COMMAND_OPTIONS.tolerance,
    "Stop once an iteration gains no more than this share (0: never).",
)
OVERWRITE = FLAGS.bool(
    "overwrite", False, "Replace a finished or different clustering in the output."
)
SAVE_EVERY_S = FLAGS.float(
    "save_every_s",
    60.0,
    "Seconds between snapshots to resume from; 0: after every iteration.",
    lower_bound=0,
)
CACHE_GB = FLAGS.float(
    "cache_gb",
    COMMAND_OPTIONS.cache_bytes / 1e9,
    "Keep a worker's rows in device memory if they take no more than this.",
    lower_bound=0,
)
TIMEOUT_S = FLAGS.float(
    "timeout_s",
    600.0,
    "Seconds without a heartbeat or progress of a worker before the others end and name it; 0: no "
    "limit.",
    lower_bound=0,
)


def run() -> dict | None:
    """Clusters; returns the result on the chief."""
    from dc_tf.clustering.job.start import prepare

    start = prepare(
        input=INPUT.value,
        output=OUTPUT.value,
        k=K.value,
        iterations=ITERATIONS.value,
        init=INIT.value,
        seed=SEED.value,
        precision=PRECISION.value,
        backend=BACKEND.value,
        spherical=SPHERICAL.value,
        normalize=NORMALIZE.value,
        tolerance=TOLERANCE.value,
        overwrite=OVERWRITE.value,
        save_every_s=SAVE_EVERY_S.value,
        cache_gb=CACHE_GB.value,
        timeout_s=TIMEOUT_S.value,
        column=COLUMN.value,
        id_column=ID_COLUMN.value,
        format=FORMAT.value,
    )
    result = start.run()
    return result and Result(result, path=start.output.about)
