"""Distances of the rows of a `dc_tf kmeans` to their centroids, measured once and kept beside it.

    nearness = measure(clustering)       # (N, 2) float32: distance, and ratio to the nearest other

One pass over the features that were clustered, which costs about one iteration. It is kept in
`CLUSTERS/nearness`, in parts until all are there: several workers share them, and an interrupted
call resumes with those that are missing.
"""

import contextlib
import hashlib
import os

import numpy as np

from dc_tf import atomic
from dc_tf.clustering.nearness import CHUNK_BYTES, of_labels
from dc_tf.clustering.search.tensors import exact_float32
from dc_tf.clustering.store.embeddings import Embeddings, UnitRows
from dc_tf.clustering.store.joined_file import write_joined
from dc_tf.clustering.store.points import chunks
from dc_tf.distributed import stop_request
from dc_tf.distributed.blocks import row_block
from dc_tf.distributed.collective_errors import raise_on_all
from dc_tf.distributed.collectives import ALONE
from dc_tf.distributed.parts import all_missing, part_rows
from dc_tf.errors import DataError
from dc_tf.evaluation.clusters.clusterings import KMeansClustering
from dc_tf.progress import Progress

_FOLDER, _JOB, _WHOLE = "nearness", "job.json", "nearness.npy"
_MOST_ROWS, _LEAST_ROWS = 1 << 20, 1 << 14  # of a part


def measure(clustering, comm=None) -> np.ndarray:
    """Distance and ratio of every row, by row id.

    Args:
        clustering: clusters.open.Clustering of `dc_tf kmeans`.
        comm: Communicator of the workers that share the rows, which all make the call.

    Returns:
        (N, 2) float32, mapped from disk where rows were clustered in the order of their ids.

    Raises:
        DataError: the files that were clustered are gone, or have other rows than then.
        Preempted: after Ctrl-C; what was measured is kept.
    """
    comm, found = comm or ALONE, KMeansClustering(clustering.path)
    ids = found.row_ids(clustering.dataset)
    folder = os.path.join(clustering.path, _FOLDER)
    with contextlib.ExitStack() as end:
        with raise_on_all(comm):
            if comm.rank == 0:
                end.enter_context(atomic.locked(f"{folder}.lock", folder))
                _claim(clustering, folder)
        if len(all_missing([[os.path.join(folder, _WHOLE)]], comm)):
            _fill(folder, found, clustering, ids, comm)
    whole = np.load(os.path.join(folder, _WHOLE), mmap_mode="r")
    if _in_order(ids):
        return whole
    nearness = np.empty(whole.shape, np.float32)
    nearness[ids] = whole
    return nearness


def _in_order(ids):
    """Whether row ids are 0, 1, 2, ..., as of one run of `dc_tf embed`."""
    blocks = range(0, len(ids), _MOST_ROWS)
    parts = ((start, ids[start : start + _MOST_ROWS]) for start in blocks)
    return all(np.array_equal(part, np.arange(start, start + len(part))) for start, part in parts)


def _claim(clustering, folder):
    with open(os.path.join(clustering.path, "clustering.json"), "rb") as file:
        owner = hashlib.sha256(file.read()).hexdigest()
    atomic.reset_foreign(os.path.join(folder, _JOB), {"clustering": owner})


def _points(found):
    """The rows that were clustered, as they were clustered."""
    files = found.input_files()
    try:
        column = found.settings().get("column")
        rows = Embeddings.open([path for path, _ in files], column)
    except DataError as error:
        raise DataError(
            f"{found.path}: distances need the features that were clustered: {error}"
        ) from error
    if [file.rows for file in rows.files] != [count for _, count in files]:
        raise DataError(
            f"{found.path}: the files that were clustered have other rows now; cluster them again."
        )
    return UnitRows(rows) if found.settings()["normalize"] else rows


def _fill(folder, found, clustering, ids, comm):
    """Writes distances in the order of the files, a part at a time."""
    with raise_on_all(comm):
        points = _points(found)
    labels = np.asarray(clustering.cluster)
    used = np.bincount(labels, minlength=len(clustering.centroids)) > 0
    step = part_rows(points.rows, _MOST_ROWS, least=_LEAST_ROWS)
    starts = range(0, points.rows, step)
    paths = [os.path.join(folder, f"rows-{start:012d}.npy") for start in starts]
    missing = all_missing([[path] for path in paths], comm)
    own = row_block(len(missing), comm.rank, comm.size)
    done = (len(paths) - len(missing)) * step if comm.size == 1 else 0
    shown = Progress(done + len(own) * step, "distances", "rows", comm.rank == 0, done=done)
    with raise_on_all(comm), shown as progress:
        for number in missing[own.start : own.stop]:
            stop = min(starts[number] + step, points.rows)
            part = _of_rows(points, starts[number], stop, labels, ids, clustering, used, progress)
            atomic.write_file(paths[number], lambda file, part=part: np.save(file, part))
    with raise_on_all(comm):
        if comm.rank == 0:
            path = os.path.join(folder, _WHOLE)
            atomic.write_file(path, lambda file: write_joined(file, paths))
            for path in paths:
                os.remove(path)


@exact_float32()
def _of_rows(points, start, stop, labels, ids, clustering, used, progress):
    """(stop - start, 2) float32 of consecutive rows of the files."""
    part = np.empty((stop - start, 2), np.float32)
    step = max(1, CHUNK_BYTES // (4 * points.dim))
    for first, rows in chunks(points, step, start, stop):
        x = np.asarray(rows).astype(np.float32)
        own = labels[ids[first : first + len(x)]]
        found = of_labels(x, own, clustering.centroids, used)
        part[first - start : first - start + len(x)] = np.stack(found, 1)
        progress.update(len(x))
        stop_request.raise_if_requested("the distances so far are kept")
    return part
