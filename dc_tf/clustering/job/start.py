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

from dc_tf.atomic import locked
from dc_tf.clustering.job.checks import Asked, checked_start
from dc_tf.clustering.job.output import KMeansDir
from dc_tf.clustering.job.table import ClusterTable, check_id_column
from dc_tf.clustering.store.embeddings import Embeddings, find_files
from dc_tf.clustering.store.feature_files import files_of_only_layer
from dc_tf.distributed.ports import check_own_port
from dc_tf.distributed.task import TaskSpec, task_from_environment
from dc_tf.errors import ConfigError, DataError
from dc_tf.kmeans_options import AUTO, INITS
from dc_tf.paths import check_folder

if typing.TYPE_CHECKING:
    from dc_tf.clustering.lloyd import KMeansResult


def prepare(**asked) -> Start:
    """Checks the settings as far as possible without TensorFlow.

    Args:
        asked: as of `Asked.of`.

    Raises:
        ConfigError: for a value that its setting cannot hold; if this is the only worker, also for
            settings and files that cannot work. One of several workers raises these on all, in
            `Start.run`.
    """
    asked = Asked.of(**asked)
    output = KMeansDir(asked.output)
    task = task_from_environment()
    check_own_port(task)
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
                with leaving(cluster, watchdog, output.tidy):
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
    check_folder(output.path, "--output")
    paths = _files(asked.input)
    is_file = asked.init not in INITS
    if is_file:
        asked = dataclasses.replace(asked, init=os.path.expanduser(asked.init))
    output.check_inputs([*paths, asked.init] if is_file else paths)
    embeddings = Embeddings.open(paths, asked.column)
    check_id_column(embeddings.files, asked.id_column)
    start = checked_start(asked, embeddings.rows, embeddings.dim, asked.input)
    settings = _settings(asked, start, embeddings, output)
    output.check_settings(settings, asked.overwrite)
    return {
        "input": asked.input,
        "embeddings": embeddings,
        "output": output,
        "options": dataclasses.replace(
            asked.options, init=start.init, precision=settings["precision"]
        ),
        "settings": settings,
        "overwrite": asked.overwrite,
        "save_every_s": asked.save_every_s,
        "table": ClusterTable(output.table, embeddings.files, asked.id_column)
        if asked.format == "parquet" or asked.id_column
        else None,
    }


def names_files(x) -> bool:
    """Whether this is a path or pattern, or a list of paths, and not an array."""
    paths = x if isinstance(x, list | tuple) and len(x) else [x]
    return all(isinstance(path, str | os.PathLike) for path in paths)


def _files(given) -> list[str]:
    """In row order; of a folder of `dc_tf embed` those of its layer."""
    if isinstance(given, list | tuple):
        paths = [os.path.expanduser(path) for path in given]
    else:
        paths = find_files(os.fspath(given))
    return [
        file
        for path in paths
        for file in (files_of_only_layer(path, "--input") if os.path.isdir(path) else [path])
    ]


def _settings(asked, start, embeddings, output) -> dict:
    """All that the result depends on, except the values of the rows."""
    init, options = start.init, asked.options
    if not isinstance(init, str):  # whatever the path of their file
        init = f"sha256:{hashlib.sha256(init.tobytes()).hexdigest()[:16]}"
    return {
        "k": start.k,
        "iterations": options.iterations,
        "init": init,
        "seed": asked.seed,
        "precision": output.precision_before() if options.precision == AUTO else options.precision,
        "backend": options.backend,
        "spherical": options.spherical,
        "normalize": asked.normalize,
        "tolerance": options.tolerance,
        "rows": embeddings.rows,
        "dim": embeddings.dim,
        "dtype": embeddings.dtype.name,
        **({"column": asked.column} if asked.column else {}),
    }


def cluster_in_memory(x, **asked) -> KMeansResult:
    """k-means by this process alone, with the result in memory only.

    Args:
        x: (rows, dim) floating array; or files, as `Asked.input`.
        asked: as of `Asked.of`; `init` may also be a (k, dim) array.

    Raises:
        ConfigError: for a setting that cannot work.
        DataError: for files that cannot be used, and rows that are not finite.
    """
    asked = Asked.of(input=x, output="", **asked)
    from dc_tf.clustering.kmeans import kmeans
    from dc_tf.clustering.store.embeddings import UnitRows
    from dc_tf.clustering.store.points import as_points
    from dc_tf.clustering.validate import validate
    from dc_tf.distributed.collectives import Solo

    is_files = names_files(x)
    points = as_points(Embeddings.open(_files(x), asked.column) if is_files else x)
    start = checked_start(asked, points.rows, points.dim, x if is_files else "x")
    if is_files:
        validate(points, Solo(), any_size=asked.normalize)
    options = dataclasses.replace(asked.options, init=start.init)
    rows = UnitRows(points) if asked.normalize else points
    return kmeans(rows, start.k, seed=asked.seed, options=options)
