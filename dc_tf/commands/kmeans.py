"""Clusters the rows of .npy files, on one or many workers, as TF_CONFIG says.

    dc_tf kmeans --input='embeddings/*.npy' --k=1000 --output=CLUSTERS

Any matrices of float16, bfloat16, float32 or float64, larger than memory if need be; several files
are one matrix. Writes centroids.npy (k, dim), assignments.npy (the cluster of every row) and
clustering.json (settings, objective of each iteration, sizes of the clusters). Started again with
the same settings, it goes on where it was stopped; once finished, it prints its result again.
SIGTERM and Ctrl-C save after the iteration and end with exit code 42; a second Ctrl-C ends at once.
"""

import contextlib
import hashlib

from absl import flags

from dc_tf.commands.results import Result
from dc_tf.errors import ConfigError, DataError

INITS = ("random", "k-means++", "k-means||")

FLAGS = flags.FlagValues()


def _define(kind, name, default, *text, **options):
    return getattr(flags, f"DEFINE_{kind}")(name, default, *text, flag_values=FLAGS, **options)


INPUT = _define(
    "string",
    "input",
    None,
    "A .npy file, a pattern in quotes ('shards/*.npy', in sorted order), or several with commas "
    "between them.",
    required=True,
)
OUTPUT = _define("string", "output", None, "Folder, shared by all workers.", required=True)
K = _define("integer", "k", None, "Number of clusters.", lower_bound=1, required=True)
ITERATIONS = _define("integer", "iterations", 10, "Of Lloyd, at most.", lower_bound=0)
INIT = _define(
    "string",
    "init",
    "random",
    "Where to start: distinct random rows; k-means++ or (in quotes, for large k) k-means|| draw "
    "rows far from one another; or a .npy file with (k, dim) centroids.",
)
SEED = _define("integer", "seed", 0, "Of everything that is drawn.", lower_bound=0)
PRECISION = _define(
    "enum",
    "precision",
    "auto",
    ["auto", "float32", "bfloat16"],
    "Of the products; auto measures which is faster on all workers. A clustering that was begun "
    "keeps what it began with.",
)
BACKEND = _define(
    "enum", "backend", "auto", ["auto", "tensorflow", "faiss"], "What finds the nearest centroids."
)
SPHERICAL = _define("bool", "spherical", False, "Keep centroids at length 1, for --normalize.")
NORMALIZE = _define("bool", "normalize", False, "Scale every row to length 1.")
TOLERANCE = _define(
    "float", "tolerance", 0.0, "Stop once an iteration gains no more than this share (0: never)."
)
OVERWRITE = _define(
    "bool", "overwrite", False, "Replace a clustering in the output that is finished or another."
)
SAVE_EVERY_S = _define(
    "float",
    "save_every_s",
    60.0,
    "Seconds between saves of what a restart goes on from; 0: after every iteration.",
    lower_bound=0,
)
CACHE_GB = _define(
    "float",
    "cache_gb",
    0.25,
    "Keep a worker's rows in device memory if they take no more than this.",
    lower_bound=0,
)

TIMEOUT_S = _define(
    "float",
    "timeout_s",
    600.0,
    "Seconds that a worker may be silent or do nothing before the others end, and say so; 0: for "
    "ever.",
    lower_bound=0,
)


def run() -> dict | None:
    """Clusters; returns the result on the chief."""
    from dc_tf.clustering.job.output import KMeansDir
    from dc_tf.distributed.task import task_from_environment

    output = KMeansDir(OUTPUT.value)
    task = task_from_environment()
    checked = refusal = None
    try:
        checked = _checked(output)
    except (ConfigError, DataError) as error:
        refusal = ConfigError(str(error))  # Nothing was started, whatever is wrong.
    if refusal and task.size == 1:
        raise refusal
    # After flags and files are known to be right, since TensorFlow takes seconds to import.
    from dc_tf.commands.quick_tensorflow import import_tensorflow

    import_tensorflow()
    from dc_tf.clustering.job.run import KMeansJob, run_job
    from dc_tf.distributed.collective_errors import raise_if_any
    from dc_tf.distributed.session import join, leaving, watched

    setting = f"--output={output.path}"
    with contextlib.ExitStack() as end:
        if task.size == 1:
            end.callback(output.tidy)  # Nobody else looks there, however it ends.
        with watched(setting, output.heartbeats, output.stacks, task, TIMEOUT_S.value) as watchdog:
            if task.rank == 0:
                _lock(output, setting, end)
            cluster = join(watchdog)
            end.enter_context(leaving(cluster, output.tidy))
            raise_if_any(refusal, cluster.world)
            result = run_job(KMeansJob(**checked), cluster)
    return Result(result, path=output.about) if cluster.is_chief else None


def _lock(output, setting, end):
    """Keeps other jobs from the output for as long as the ExitStack `end` lasts."""
    from dc_tf.atomic import locked
    from dc_tf.distributed.session import writable

    try:
        with writable(setting):
            end.enter_context(locked(output.lock, setting))
    except ConfigError:
        end.pop_all()  # What is there is another's.
        raise


def _checked(output) -> dict:
    """Attributes of a `KMeansJob`, checked as far as they can be without reading all rows."""
    from dc_tf.clustering.store.embeddings import Embeddings, find_files

    paths = find_files(INPUT.value)
    output.check_inputs(paths if INIT.value in INITS else [*paths, INIT.value])
    embeddings = Embeddings.open(paths)
    _check_numbers(embeddings.rows)
    centroids = None if INIT.value in INITS else _read_centroids(embeddings.dim)
    settings = _settings(embeddings, centroids, output)
    output.check_settings(settings, OVERWRITE.value)
    return {
        "input": INPUT.value,
        "embeddings": embeddings,
        "output": output,
        "init": INIT.value if centroids is None else centroids,
        "settings": settings,
        "overwrite": OVERWRITE.value,
        "save_every_s": SAVE_EVERY_S.value,
        "cache_bytes": int(CACHE_GB.value * 1e9),
    }


def _settings(embeddings, centroids, output) -> dict:
    """What the result depends on, without the values of the rows."""
    init = INIT.value
    if centroids is not None:  # Wherever their file lies.
        init = f"sha256:{hashlib.sha256(centroids.tobytes()).hexdigest()[:16]}"
    return {
        "k": K.value,
        "iterations": ITERATIONS.value,
        "init": init,
        "seed": SEED.value,
        "precision": output.precision_before() if PRECISION.value == "auto" else PRECISION.value,
        "backend": BACKEND.value,
        "spherical": SPHERICAL.value,
        "normalize": NORMALIZE.value,
        "tolerance": TOLERANCE.value,
        "rows": embeddings.rows,
        "dim": embeddings.dim,
        "dtype": embeddings.dtype.name,
    }


def _check_numbers(rows):
    if not rows:
        raise DataError(f"{INPUT.value} has no rows.")
    if K.value > rows:
        raise ConfigError(
            f"--k={K.value} clusters need as many rows and {INPUT.value} has {rows}; use "
            f"--k={rows} or less."
        )
    if not 0 <= TOLERANCE.value < 1:
        raise ConfigError(f"--tolerance={TOLERANCE.value}; use a share from 0 to less than 1.")


def _read_centroids(dim):
    """(k, dim) float32 of --init=FILE.npy."""
    import numpy as np

    from dc_tf.clustering.store.embeddings import NpyFile

    if not INIT.value.endswith(".npy"):
        raise ConfigError(
            f"--init={INIT.value}; use {', '.join(INITS)}, or a .npy file with (k, dim) centroids."
        )
    file = NpyFile.open(INIT.value)
    if (file.rows, file.dim) != (K.value, dim):
        raise ConfigError(
            f"--init={INIT.value} has shape {(file.rows, file.dim)}; --k={K.value} and rows of "
            f"{dim} need {(K.value, dim)}."
        )
    with np.errstate(over="ignore"):
        centroids = file.open_rows().read(0, file.rows).astype(np.float32)
    if not np.isfinite(centroids).all():
        raise DataError(f"--init={INIT.value} has values that are not finite in float32.")
    return centroids
