"""Runs `dc_tf kmeans` on one worker: validates the rows, clusters them, writes the result.

result = run_job(job, cluster)
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import math
import os
import sys
import time
import zlib

import numpy as np

import dc_tf
from dc_tf.clustering.centring import find_origin
from dc_tf.clustering.cost.hardware import CORE, P4D
from dc_tf.clustering.cost.model import Problem, memory_of
from dc_tf.clustering.job.output import KMeansDir
from dc_tf.clustering.job.table import ClusterTable
from dc_tf.clustering.kmeans import kmeans
from dc_tf.clustering.search.backends import choose_precision, make_backend
from dc_tf.clustering.search.tensors import has_gpu
from dc_tf.clustering.search.tiles import transit_bytes
from dc_tf.clustering.shared_state import SharedState
from dc_tf.clustering.statistics import count_statistics, size_warnings
from dc_tf.clustering.store.embeddings import Embeddings, UnitRows
from dc_tf.clustering.validate import validate
from dc_tf.distributed.blocks import row_block
from dc_tf.distributed.collective_errors import raise_on_all
from dc_tf.distributed.collectives import all_gather, broadcast_number
from dc_tf.errors import ConfigError, DataError
from dc_tf.kmeans_options import KMeansOptions
from dc_tf.memory import free_memory, gpu_memory, size
from dc_tf.precision import AUTO, print_choice
from dc_tf.progress import IterationProgress, Progress


@dataclasses.dataclass(frozen=True)
class KMeansJob:
    """What to cluster, how, and where to; the same on all workers.

    Attributes:
        input: as the user gave it, for messages.
        embeddings: all rows.
        output: the folder.
        options: KMeansOptions, whose `init` is the name of a method, or (k, dim) float32 or float64
            centroids.
        settings: JSON-ready dict of what the result depends on, without the values of the rows:
            k, iterations, init, seed, precision, backend, spherical, normalize, tolerance, rows,
            dim, dtype.
        overwrite: replace what is in the output.
        save_every_s: seconds from one save to the next; 0 saves after every iteration.
        table: ClusterTable to write at the end, or None.
    """

    input: str
    embeddings: Embeddings
    output: KMeansDir
    options: KMeansOptions
    settings: dict
    overwrite: bool
    save_every_s: float
    table: ClusterTable | None = None

    @property
    def only_assigns(self) -> bool:
        """Whether rows are assigned to given centroids, which stay as they are."""
        return isinstance(self.options.init, np.ndarray) and not self.options.iterations

    def in_precision(self, dtype) -> KMeansJob:
        """The same, with products of this dtype."""
        return dataclasses.replace(
            self,
            options=dataclasses.replace(self.options, precision=dtype),
            settings=self.settings | {"precision": dtype},
        )

    def share(self, rank, size) -> Embeddings:
        """The contiguous block of rows of one of `size` workers."""
        own = row_block(self.embeddings.rows, rank, size)
        return self.embeddings.part(own.start, own.stop)

    def rows_of(self, share) -> Embeddings | UnitRows:
        """The rows that k-means gets of a share of the embeddings."""
        return UnitRows(share) if self.settings["normalize"] else share

    def disk_bytes(self) -> int:
        """Upper bound of what the output takes while it is made: three saves, parts, result."""
        copies = 5 if self.embeddings.dtype == np.float64 else 4  # their centroids may be float64
        numbers = 5 * self.embeddings.rows + copies * self.settings["k"] * self.embeddings.dim
        return 4 * numbers + (1 << 20)


def run_job(job, cluster) -> dict:
    """Clusters this worker's share; an error of the user on one worker ends all.

    Args:
        job: `KMeansJob`.
        cluster: `distributed.cluster.Cluster`.

    Returns:
        On the chief, the result for the user: inertia, iterations, seconds_per_iteration,
        rows_per_second, empty_clusters, backend, rows, output.
    """
    own = job.share(cluster.rank, cluster.size)
    with raise_on_all(cluster.world):
        _check_alike(job, cluster)
    precision = _precision(job, cluster)
    if precision.asked == AUTO:
        job = job.in_precision(precision.dtype)
    _check_start(job, cluster)
    settings = {**job.settings, "input_checksum": _validated(own, job, cluster)}
    _check_distances(own, job, cluster)
    finished = _begin(job, settings, cluster)
    if finished is not None:
        _write_table(job, cluster)
        return finished
    if cluster.is_chief:
        print_choice(precision, "kmeans")
    clock = _Clock()
    result = _cluster_rows(own, job, cluster, clock)
    about = _about(job, settings, result, cluster.size, clock)
    for warning in about["warnings"] if cluster.is_chief else ():
        _note(warning)
    with raise_on_all(cluster.world):
        job.output.write_part(cluster.rank, cluster.size, result.assignments)
    with raise_on_all(cluster.world):
        if cluster.is_chief:
            job.output.finish(job.embeddings.rows, cluster.size, result.centroids, about)
    _write_table(job, cluster)
    return about["result"]


def _write_table(job, cluster):
    """Writes the finished clusters as Parquet, if that is asked for."""
    with raise_on_all(cluster.world):
        if cluster.is_chief and job.table:
            job.table.write(job.output.assignments)


def _check_start(job, cluster):
    """Checks what is known before the rows are read."""
    with raise_on_all(cluster.world):
        # On all workers, since faiss may be installed on some of them only.
        settings = job.settings
        make_backend(
            settings["backend"], settings["k"], settings["dim"], settings["precision"], 1 << 20
        )
        _check_memory(job, cluster.size)
        if cluster.is_chief:
            job.output.check_writable(job.disk_bytes(), job.overwrite)


def _precision(job, cluster):
    """The Choice of a precision that all workers agree on."""
    settings = job.settings
    return choose_precision(
        settings["precision"], settings["backend"], settings["k"], settings["dim"], cluster.world
    )


def _check_memory(job, workers):
    """ConfigError if this worker has too little memory for so many clusters."""
    settings = job.settings
    problem = Problem(
        rows=job.embeddings.rows,
        dim=settings["dim"],
        clusters=settings["k"],
        workers=workers,
        precision=settings["precision"],
        memory_bytes=transit_bytes(has_gpu()),
        cache_bytes=job.options.cache_bytes,
    )
    memory = memory_of(problem, P4D if has_gpu() else CORE)
    for what, needed, free in (
        ("memory", memory.host - memory.runtime, free_memory()),  # TensorFlow runs already
        ("GPU memory", memory.device, min(gpu_memory("total"), default=math.inf)),
    ):
        if needed > free:
            raise ConfigError(
                f"--k={settings['k']} of {settings['dim']} components takes about {size(needed)} "
                f"of {what} on each worker, {size(free)} are free; lower --k, shorten the rows, "
                "give --precision=bfloat16 or --cache_gb=0, or use a larger machine."
            )


def _check_alike(job, cluster):
    """ConfigError on each worker whose flags or files differ from those of the chief.

    With files of other rows, a worker would take a wrong share.
    """
    shapes = [(file.rows, str(file.dtype)) for file in job.embeddings.files]
    digest = zlib.crc32(json.dumps([job.settings, shapes]).encode())
    if digest != all_gather(digest, cluster.world)[0]:
        raise ConfigError(
            f"worker {cluster.rank} has other flags than the chief, or finds other files in "
            f"--input={job.input}; start all workers with the same flags and shared files."
        )


def _validated(own, job, cluster) -> str:
    """Checksum of all rows, each of them checked; ConfigError on all workers for a bad one."""
    total = own.rows * cluster.size  # shares are equal: the chief's shows the progress of all
    shown = Progress(total, "check", enabled=cluster.is_chief)
    with raise_on_all(cluster.world), shown as progress:
        try:
            return validate(
                own,
                cluster.world,
                lambda rows: progress.update(rows * cluster.size),
                any_size=job.settings["normalize"],
            )
        except DataError as error:
            raise ConfigError(str(error)) from error  # Nothing was started.


def _check_distances(own, job, cluster):
    """ConfigError on all workers for rows whose distances float32 cannot compute."""
    with raise_on_all(cluster.world):
        try:
            find_origin(
                job.rows_of(own), cluster.world, job.settings["seed"], job.settings["spherical"]
            )
        except DataError as error:
            raise ConfigError(str(error)) from error  # Nothing was started.


def _begin(job, settings, cluster) -> dict | None:
    """Claims the output; returns the result if it is finished, {} on other workers, else None."""
    finished = None
    with raise_on_all(cluster.world):
        if cluster.is_chief:
            finished = job.output.begin(settings, job.overwrite)
    if broadcast_number(finished is not None, cluster.world):
        return _again(finished, job.output.path) if cluster.is_chief else {}
    with raise_on_all(cluster.world):
        job.output.write_mark(cluster.rank)
    with raise_on_all(cluster.world):
        missing = job.output.missing_marks(cluster.size) if cluster.is_chief else []
        if missing:
            raise ConfigError(
                f"--output={job.output.path} is another folder on worker {missing[0]}; use one "
                "that all workers share."
            )
    return None


def _again(finished, path) -> dict:
    _note(f"{path} is finished; this is its result again.")
    return finished["result"] | {"output": path}


def _note(text):
    print(f"kmeans: {text}", file=sys.stderr, flush=True)


def _cluster_rows(own, job, cluster, clock):
    """`KMeansResult` of the rows of all workers; resumes if it was begun."""
    shared = SharedState(job.output.state, cluster.world, job.save_every_s)
    state = shared.newest(job.settings["k"], own.dim)
    done = state.iteration if state else 0

    def on_iteration(state):
        clock.lap()
        shared.save_if_due(state)
        clock.start()

    with IterationProgress(
        job.options.iterations,
        job.embeddings.rows,
        "kmeans",
        own.rows,
        enabled=cluster.is_chief,
        iterations_done=done,
    ) as progress:
        clock.start()
        result = kmeans(
            job.rows_of(own),
            job.settings["k"],
            cluster.world,
            job.settings["seed"],
            job.options,
            on_iteration=on_iteration,
            on_progress=progress.update,
            state=state,
        )
        progress.update(0, iteration=result.iterations, objective=result.objective[-1])
    return result


class _Clock:
    """Times the iterations of this process, without saving."""

    def __init__(self):
        self._made = self._started = time.monotonic()
        self._laps = []

    def start(self):
        self._started = time.monotonic()

    def lap(self):
        self._laps.append(time.monotonic() - self._started)

    def seconds(self) -> float:
        """Since it was made."""
        return time.monotonic() - self._made

    def seconds_per_iteration(self) -> float | None:
        """The mean; without the first, which includes start-up, unless it is the only one."""
        laps = self._laps[1:] or self._laps
        return sum(laps) / len(laps) if laps else None


def _about(job, settings, result, workers, clock) -> dict:
    """What `clustering.json` holds; `result` in it is also what the command prints."""
    clusters = count_statistics(result.counts)
    per_iteration = clock.seconds_per_iteration()
    rows = job.embeddings.rows
    return {
        "result": {
            "inertia": result.objective[-1],
            "iterations": result.iterations,
            "seconds_per_iteration": per_iteration,
            "rows_per_second": per_iteration and rows / per_iteration,
            "empty_clusters": clusters["empty"],
            "backend": result.backend,
            "precision": result.precision,
            "rows": rows,
            "output": job.output.path,
        },
        "settings": settings,
        "input": [
            {"path": os.path.abspath(file.path), "rows": file.rows} for file in job.embeddings.files
        ],
        "objective": list(result.objective),
        "clusters": clusters,
        "warnings": [] if job.only_assigns else size_warnings(result.counts),
        "reseeded": result.reseeded,
        "exchanged_bytes_per_iteration": result.exchanged_bytes,
        "seconds": clock.seconds(),
        "workers": workers,
        "versions": _versions(),
    }


def _versions() -> dict:
    versions = {"dc_tf": dc_tf.__version__}
    for package in ("tensorflow", "numpy", "faiss-cpu", "faiss-gpu"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
