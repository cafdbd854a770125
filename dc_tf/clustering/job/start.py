"""`dc_tf kmeans` from its settings to its result: checks, connecting the workers, clustering.

start = prepare(input="x.npy", output="/clusters", k=1000)      # checks; without TensorFlow
result = start.run()                                            # as TF_CONFIG says
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import typing

import numpy as np

from dc_tf.atomic import locked
from dc_tf.clustering.job.output import KMeansDir
from dc_tf.clustering.store.embeddings import Embeddings, find_files
from dc_tf.clustering.store.npy_file import NpyFile
from dc_tf.distributed.task import TaskSpec, task_from_environment
from dc_tf.errors import ConfigError, DataError
from dc_tf.kmeans_options import BACKENDS, INITS, PRECISIONS, KMeansOptions

if typing.TYPE_CHECKING:
    from dc_tf.clustering.lloyd import KMeansResult


@dataclasses.dataclass(frozen=True)
class Asked:
    """Settings of a clustering of files.

    Attributes:
        input: a `.npy` file, a pattern, or several with commas between them; or a list of files.
        output: folder, shared by all workers.
        k, iterations, seed, precision, backend, spherical, tolerance: as of `kmeans`.
        init: name of a method, or a `.npy` file with (k, dim) centroids.
        normalize: scale every row to length 1.
        overwrite: replace a clustering in the output that is finished or another.
        save_every_s: seconds between snapshots; 0: every iteration.
        cache_gb: keep a worker's rows in device memory if they take no more than this.
        timeout_s: as of `distributed.session.watched`; seconds, 0: no limit.
    """

    input: str | os.PathLike | list
    output: str
    k: int
    iterations: int = 10
    init: str = "random"
    seed: int = 0
    precision: str = "auto"
    backend: str = "auto"
    spherical: bool = False
    normalize: bool = False
    tolerance: float = 0.0
    overwrite: bool = False
    save_every_s: float = 60.0
    cache_gb: float = 0.25
    timeout_s: float = 600.0


def prepare(**asked) -> Start:
    """Checks the settings as far as possible without TensorFlow.

    Args:
        asked: attributes of `Asked`.

    Raises:
        ConfigError: for settings that cannot work, if this is the only worker. One of several
            raises it on all workers, in `Start.run`.
    """
    asked = Asked(**asked)
    output = KMeansDir(asked.output)
    task = task_from_environment()
    job = failure = None
    try:
        job = _checked(asked, output)
    except (ConfigError, DataError) as error:
        failure = ConfigError(str(error))  # nothing was started, so never exit code 1
    if failure and task.size == 1:
        raise failure
    return Start(asked, output, task, job, failure)


@dataclasses.dataclass(frozen=True)
class Start:
    """A clustering ready to run.

    Attributes:
        asked: Asked.
        output: KMeansDir.
        task: TaskSpec of this worker.
        job: attributes of a `KMeansJob`; None with an error.
        error: ConfigError of this worker, which `run` raises on all; or None.
    """

    asked: Asked
    output: KMeansDir
    task: TaskSpec
    job: dict | None
    error: ConfigError | None

    def run(self) -> dict | None:
        """Clusters; returns the result of `run_job` on the chief, None on the others.

        Raises:
            ConfigError: for settings that cannot work; nothing was started.
            DataError: for an output that cannot be written.
            Preempted: a worker was asked to stop; the state is saved.
        """
        from dc_tf.clustering.job.run import KMeansJob, run_job
        from dc_tf.distributed.collective_errors import raise_if_any
        from dc_tf.distributed.session import join, leaving, watched

        output, task = self.output, self.task
        setting = f"--output={output.path}"
        with contextlib.ExitStack() as end:
            if task.size == 1:
                end.callback(output.tidy)  # no other worker uses them
            watching = watched(
                setting, output.heartbeats, output.stacks, task, self.asked.timeout_s
            )
            with watching as watchdog:
                if task.rank == 0:
                    _lock(output, setting, end)
                cluster = join(watchdog)
                end.enter_context(leaving(cluster, output.tidy))
                raise_if_any(self.error, cluster.world)
                result = run_job(KMeansJob(**self.job), cluster)
        return result if cluster.is_chief else None


def _lock(output, setting, end):
    """Locks the output until the ExitStack `end` closes."""
    from dc_tf.distributed.session import writable

    try:
        with writable(setting):
            end.enter_context(locked(output.lock, setting))
    except ConfigError:
        end.pop_all()  # the folder belongs to another job: nothing to tidy
        raise


def _checked(asked, output) -> dict:
    """Attributes of a `KMeansJob`, checked as far as they can be without reading all rows."""
    paths = _files(asked.input)
    output.check_inputs(paths if asked.init in INITS else [*paths, asked.init])
    embeddings = Embeddings.open(paths)
    _check_numbers(asked, embeddings.rows)
    centroids = None if asked.init in INITS else read_centroids(asked.init, asked.k, embeddings.dim)
    settings = _settings(asked, embeddings, centroids, output)
    output.check_settings(settings, asked.overwrite)
    return {
        "input": asked.input,
        "embeddings": embeddings,
        "output": output,
        "init": asked.init if centroids is None else centroids,
        "settings": settings,
        "overwrite": asked.overwrite,
        "save_every_s": asked.save_every_s,
        "cache_bytes": int(asked.cache_gb * 1e9),
    }


def names_files(x) -> bool:
    """Whether this is a path or pattern, or a list of paths, and not an array."""
    paths = x if isinstance(x, list | tuple) and len(x) else [x]
    return all(isinstance(path, str | os.PathLike) for path in paths)


def _files(given) -> list[str]:
    if isinstance(given, list | tuple):
        return [os.fspath(path) for path in given]
    return find_files(os.fspath(given))


def _settings(asked, embeddings, centroids, output) -> dict:
    """All that the result depends on, except the values of the rows."""
    init, precision = asked.init, asked.precision
    if centroids is not None:  # whatever the path of their file
        init = f"sha256:{hashlib.sha256(centroids.tobytes()).hexdigest()[:16]}"
    return {
        "k": asked.k,
        "iterations": asked.iterations,
        "init": init,
        "seed": asked.seed,
        "precision": output.precision_before() if precision == "auto" else precision,
        "backend": asked.backend,
        "spherical": asked.spherical,
        "normalize": asked.normalize,
        "tolerance": asked.tolerance,
        "rows": embeddings.rows,
        "dim": embeddings.dim,
        "dtype": embeddings.dtype.name,
    }


def _check_numbers(asked, rows):
    if not rows:
        raise DataError(f"{asked.input} has no rows.")
    if asked.k > rows:
        raise ConfigError(
            f"--k={asked.k} clusters need as many rows and {asked.input} has {rows}; use "
            f"--k={rows} or less."
        )
    if not 0 <= asked.tolerance < 1:
        raise ConfigError(f"--tolerance={asked.tolerance}; use a share from 0 to less than 1.")
    for name, least in (("k", 1), ("iterations", 0), ("seed", 0)):
        if getattr(asked, name) < least:
            raise ConfigError(f"--{name}={getattr(asked, name)}; use at least {least}.")
    for name, choices in (("precision", PRECISIONS), ("backend", BACKENDS)):
        if getattr(asked, name) not in choices:
            raise ConfigError(f"--{name}={getattr(asked, name)}; use {', '.join(choices)}.")


def read_centroids(path, k, dim) -> np.ndarray:
    """(k, dim) float32 of a `.npy` file that --init names.

    Raises:
        ConfigError, DataError: for another kind of file, another shape, or values not finite.
    """
    if not path.endswith(".npy"):
        raise ConfigError(
            f"--init={path}; use {', '.join(INITS)}, or a .npy file with (k, dim) centroids."
        )
    file = NpyFile.open(path)
    if (file.rows, file.dim) != (k, dim):
        raise ConfigError(
            f"--init={path} has shape {(file.rows, file.dim)}; --k={k} and rows of {dim} need "
            f"{(k, dim)}."
        )
    with np.errstate(over="ignore"):
        centroids = file.open_rows().read(0, file.rows).astype(np.float32)
    if not np.isfinite(centroids).all():
        raise DataError(f"--init={path} has values that are not finite in float32.")
    return centroids


def cluster_in_memory(x, k, seed, normalize, cache_gb, init="random", **options) -> KMeansResult:
    """k-means by this process alone, with the result in memory only.

    Args:
        x: (rows, dim) floating array; or files, as `Asked.input`.
        k, seed: as of `kmeans`.
        normalize, cache_gb: as of `Asked`.
        init, options: of `KMeansOptions`; `init` may be a `.npy` file as well.

    Raises:
        ConfigError: for a setting that cannot work.
        DataError: for files that cannot be used, and rows that are not finite.
    """
    from dc_tf.clustering.kmeans import kmeans
    from dc_tf.clustering.store.embeddings import UnitRows
    from dc_tf.clustering.store.points import as_points

    points = as_points(Embeddings.open(_files(x)) if names_files(x) else x)
    if k > points.rows:
        raise ConfigError(f"--k={k} clusters need as many rows and there are {points.rows}.")
    if isinstance(init, str) and init not in INITS:
        init = read_centroids(init, k, points.dim)
    options = KMeansOptions(init=init, cache_bytes=int(cache_gb * 1e9), **options)
    return kmeans(UnitRows(points) if normalize else points, k, seed=seed, options=options)
