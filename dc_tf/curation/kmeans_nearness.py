"""Distances of the rows of a `dc_tf kmeans` to their centroids, measured once and kept beside it.

    nearness = measure(clustering)       # (N, 2) float32: distance, and ratio to the nearest other

One pass over the features that were clustered, which costs about one iteration. It is kept in
`CLUSTERS/nearness`; an interrupted call resumes there.
"""

import hashlib
import os
import time

import numpy as np

from dc_tf import atomic
from dc_tf.clustering.nearness import CHUNK_BYTES, of_labels
from dc_tf.clustering.search.tensors import exact_float32
from dc_tf.clustering.store.embeddings import Embeddings, UnitRows
from dc_tf.clustering.store.points import chunks
from dc_tf.distributed import stop_request
from dc_tf.errors import DataError
from dc_tf.evaluation.clusters.clusterings import KMeansClustering
from dc_tf.progress import Progress

_FOLDER, _JOB, _WHOLE, _PART = "nearness", "job.json", "nearness.npy", "part.npy"
_SAVE_S = 60.0


def measure(clustering) -> np.ndarray:
    """Distance and ratio of every row, by row id.

    Args:
        clustering: clusters.Clustering of `dc_tf kmeans`.

    Returns:
        (N, 2) float32.

    Raises:
        DataError: the files that were clustered are gone, or have other rows than then.
        Preempted: after Ctrl-C; what was measured is kept.
    """
    found = KMeansClustering(clustering.path)
    ids = found.row_ids(clustering.dataset)
    folder = os.path.join(clustering.path, _FOLDER)
    about = os.path.join(clustering.path, "clustering.json")
    with open(about, "rb") as file:
        owner = hashlib.sha256(file.read()).hexdigest()
    with atomic.locked(f"{folder}.lock", folder):
        atomic.reset_foreign(os.path.join(folder, _JOB), {"clustering": owner})
        if not os.path.exists(os.path.join(folder, _WHOLE)):
            _fill(folder, _points(found), clustering, ids)
    whole = np.load(os.path.join(folder, _WHOLE), mmap_mode="r")
    nearness = np.empty(whole.shape, np.float32)
    nearness[ids] = whole
    return nearness


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


@exact_float32()
def _fill(folder, points, clustering, ids):
    """Writes distances in the order of the files, from where an earlier call stopped."""
    labels = np.asarray(clustering.cluster)
    used = np.bincount(labels, minlength=len(clustering.centroids)) > 0
    part = _open_part(os.path.join(folder, _PART), points.rows)
    done = int(np.argmax(np.isnan(part[:, 0]))) if np.isnan(part[-1, 0]) else points.rows
    saved = time.monotonic()
    step = max(1, CHUNK_BYTES // (4 * points.dim))
    with Progress(points.rows, "distances", "rows", done=done) as progress:
        for first, rows in chunks(points, step, done):
            x = np.asarray(rows).astype(np.float32)
            own = labels[ids[first : first + len(x)]]
            found = of_labels(x, own, clustering.centroids, used)
            part[first : first + len(x)] = np.stack(found, 1)
            progress.update(len(x))
            if time.monotonic() - saved > _SAVE_S or stop_request.requested():
                part.flush()
                saved = time.monotonic()
                stop_request.raise_if_requested("the distances so far are kept")
    part.flush()
    os.replace(os.path.join(folder, _PART), os.path.join(folder, _WHOLE))
    atomic.sync(folder)


def _open_part(path, rows):
    """(rows, 2) float32 on disk; NaN in rows that are not measured yet, which are the last."""
    if os.path.exists(path):
        return np.lib.format.open_memmap(path, mode="r+")
    staged = f"{path}.new"
    part = np.lib.format.open_memmap(staged, "w+", np.float32, (rows, 2))
    part[:] = np.nan
    part.flush()
    del part
    os.replace(staged, path)
    return np.lib.format.open_memmap(path, mode="r+")
