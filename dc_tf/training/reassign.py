"""From the trunk's features of the whole collection to new cluster assignments.

    reassign(trunk, reader, experiment, stage, folder, scratch, cluster, seed=0)
    assignments = Assignments.open(folder)

Each worker extracts its own block of rows to its own disk; features never leave it. Only moments,
counts and sums are exchanged. The assignments are written by all and read by all.
"""

import os
import time

import tensorflow as tf

from dc_tf import run_dir
from dc_tf.clustering.assignments import Assignments, nmi, write
from dc_tf.clustering.feature_store import FeatureStore
from dc_tf.clustering.hierarchy import hierarchical_kmeans, passes
from dc_tf.clustering.whitening import Moments, Whitening, whiten_store
from dc_tf.data.pipeline import evaluation_batches
from dc_tf.data.reader import data_errors
from dc_tf.errors import DataError
from dc_tf.progress import Progress

_REPORT = "report.json"


def block_of(rows: int, rank: int, size: int) -> range:
    """The row ids that a worker owns: the rank-th of `size` nearly equal runs."""
    return range(rows * rank // size, rows * (rank + 1) // size)


def reassign(trunk, reader, experiment, stage, folder, scratch, cluster, seed):
    """Extracts, whitens, clusters and writes; assignments and report are then in `folder`.

    Args:
        trunk: VGG16.
        reader: RowReader of the whole collection.
        experiment: experiment.Experiment.
        stage: experiment.Stage.
        folder: of the assignments, shared by all workers.
        scratch: of this worker's features; removed at the end.
        cluster: Cluster.
        seed: int, of the initial centroids.

    Raises:
        DataError: on all workers, when the features cannot be told apart into that many clusters.
    """
    started = time.monotonic()
    store, moments = _extract(trunk, reader, experiment, stage, scratch, cluster)
    extracted = time.monotonic()
    dim = stage.clustering.whitening_dim or trunk.settings["fc"]
    whitening = Whitening.fit(moments, cluster.world, dim)
    in_place = dim == store.dim
    path = None if in_place else os.path.join(scratch, "whitened")
    store = whiten_store(store, whitening, path)
    ids, sub_ids, report = _cluster(store, stage, cluster, seed)
    seconds = {
        "extract_seconds": extracted - started,
        "cluster_seconds": time.monotonic() - extracted,
    }
    if cluster.is_chief:
        os.makedirs(folder, exist_ok=True)
        run_dir.write_json(os.path.join(folder, _REPORT), report | seconds)
    write(folder, cluster.world, store.first_row, ids, sub_ids, stage.clusters, stage.sub_clusters)
    run_dir.remove_tree(scratch)


def read_report(folder: str) -> dict:
    """What k-means said about the assignments in `folder`: objectives, empties, seconds."""
    return run_dir.read_json(os.path.join(folder, _REPORT))


def _cluster(store, stage, cluster, seed):
    """Both levels of k-means, with progress on the chief; see `hierarchical_kmeans`."""
    iterations = stage.clustering.iterations
    total = passes(stage.clusters, stage.sub_clusters, iterations) * store.rows
    with Progress(total, "cluster", "rows", enabled=cluster.is_chief) as progress:
        result = hierarchical_kmeans(
            store,
            stage.clusters,
            stage.sub_clusters,
            cluster.world,
            iterations=iterations,
            seed=seed,
            on_progress=progress.update,
        )
    level1 = result.report["level1"]
    if level1 and level1["empty"]:
        raise DataError(
            f"{level1['empty']} of {stage.clusters} clusters are empty, since the features have "
            "fewer distinct values; the network has collapsed (lower the learning rate) or the "
            "images are all alike (lower clusters)."
        )
    return result


def describe(assignments: Assignments, previous: Assignments | None, labels) -> dict:
    """How even the clusters are, and how they agree with the last ones and with labels.

    Args:
        assignments: of this round.
        previous: of the round before, or None.
        labels: (N,) int32, -1 where a row has none; they are never trained on.

    Returns:
        flat dict of floats, e.g. "sub_clusters/entropy", "nmi_previous", "nmi_labels".
    """
    figures = {
        f"{level}/{name}": value
        for level, statistics in assignments.statistics().items()
        for name, value in statistics.items()
    }
    if previous is not None:
        figures["nmi_previous"] = nmi(assignments.flat(), previous.flat())
    known = labels >= 0
    if known.any():
        figures["nmi_labels"] = nmi(assignments.flat()[known], labels[known])
    return figures


def _extract(trunk, reader, experiment, stage, scratch, cluster):
    """This worker's features on its disk, and their moments."""
    rows = block_of(reader.dataset.rows, cluster.rank, cluster.size)
    resolution = experiment.model.resolution
    batches = evaluation_batches(
        reader,
        range(rows.start, rows.stop),
        stage.clustering.batch_size,
        resolution,
        experiment.data.resize or round(resolution * 256 / 224),
        threads=experiment.threads or None,
    )
    run_dir.remove_tree(scratch)
    dim = trunk.settings["fc"]
    store = FeatureStore.create(os.path.join(scratch, "raw"), len(rows), dim, first_row=rows.start)
    moments = Moments(dim)
    forward = tf.function(lambda images: trunk(images, training=False)["fc7"])
    done = 0
    chief = cluster.is_chief
    with Progress(len(rows), "extract", "images", enabled=chief) as progress, data_errors():
        for batch in batches:
            features = forward(batch["image"]).numpy()
            store.write(done, features)
            moments.update(features)
            done += len(features)
            progress.update(len(features))
    store.flush()
    return store, moments
