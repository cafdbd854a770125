"""Computes new cluster assignments from the features of the whole collection.

    reassign(trunk, reader, experiment, stage, folder, scratch, cluster, seed=0)
    assignments = Assignments.open(folder)

Each worker extracts its own block of rows to its own disk; features never leave it. Workers
exchange moments, counts and sums only. All workers write assignments, and all read them.

A repeated call resumes an interrupted one after the last batch on disk, or after the last iteration
that all workers have saved. The assignments are the same, bit for bit where the trunk is
deterministic, as on a CPU. `scratch` holds the intermediate state and a description of its job;
state of another trunk, round, number of workers or setting is discarded.
"""

import contextlib
import hashlib
import os
import time

import numpy as np
import tensorflow as tf
from absl import logging

from dc_tf import atomic
from dc_tf.clustering.assignments import Assignments, write
from dc_tf.clustering.hierarchy import hierarchical_kmeans
from dc_tf.clustering.kept_clustering import NETWORK
from dc_tf.clustering.resume import Snapshots
from dc_tf.clustering.statistics import collapse_warnings, nmi, size_histogram
from dc_tf.distributed.collectives import all_gather
from dc_tf.errors import DataError
from dc_tf.progress import IterationProgress
from dc_tf.training.features.extract import extract, raw_store, whiten

_REPORT = "report.json"
_JOB = "job.json"  # in the scratch folder: what its content depends on


def reassign(
    trunk,
    reader,
    experiment,
    stage,
    folder,
    scratch,
    cluster,
    seed,
    previous=None,
    kept=None,
    projection=None,
    bank=None,
) -> None:
    """Extracts features, whitens them, clusters them and writes assignments and report.

    Args:
        trunk: Trunk, the same weights on all workers, and again after a restart.
        reader: RowReader of the whole collection.
        experiment: experiment.Experiment.
        stage: experiment.Stage.
        folder: output folder of the assignments, shared by all workers.
        scratch: folder for this worker's features and the clustering in progress, on its own disk;
            removed at the end.
        cluster: Cluster.
        seed: int, draws the initial centroids.
        previous: Assignments of the last round, for `init: previous`; None in the first.
        kept: KeptClustering that gets centroids, whitening and network, or None.
        projection: nn.projection.Projection of the stage, or None; as `trunk`.
        bank: RoundBank, whose features are clustered where it has them; None extracts.

    Raises:
        DataError: on all workers, when the features have fewer distinct values than clusters.
    """
    network = {"trunk": trunk} | ({"projection": projection} if projection else {})
    job = _job(network, reader, experiment, stage, cluster, seed)
    atomic.reset_foreign(os.path.join(scratch, _JOB), job)
    started = time.monotonic()
    store, moments, source = _features(
        bank, trunk, reader, experiment, stage, scratch, cluster, projection
    )
    extracted = time.monotonic()
    store, whitening = whiten(store, moments, stage, scratch, cluster.world)
    del moments  # (dim, dim) float64: frees its memory for k-means
    result = _cluster(store, stage, scratch, cluster, seed, previous, kept and kept.write)
    if cluster.is_chief:
        seconds = extracted - started, time.monotonic() - extracted
        _write_report(folder, result, source, *seconds)
    if kept:  # before the assignments, with which the round is complete
        kept.write_nearness(store, store.first_row, result)
        _keep(kept, network, job, reader.dataset.rows, stage, whitening, result)
    levels = result.cluster, result.sub, stage.clusters, stage.sub_clusters
    write(folder, cluster.world, store.first_row, *levels, result.further)
    atomic.remove_tree(scratch)


def read_report(folder: str) -> dict:
    """The report of the clustering whose assignments are in `folder`.

    Returns:
        dict: `level1` and `level2` as in `hierarchy.Hierarchy`; `sizes` of both levels as in
        `statistics.size_histogram`; `warnings`, sentences; `features`, where they came from,
        "extract" or "bank"; `extract_seconds`, to get them, and `cluster_seconds`, counted from the
        last restart.
    """
    return atomic.read_json(os.path.join(folder, _REPORT))


def describe(assignments: Assignments, previous: Assignments | None, labels) -> dict:
    """Evenness of the clusters, and their agreement with the previous ones and with labels.

    Args:
        assignments: Assignments of this round.
        previous: Assignments of the round before, or None.
        labels: (N,) int32, -1 for a row without label; never used in training.

    Returns:
        flat dict of floats, e.g. "sub_clusters/entropy", "nmi_previous", "nmi_labels".
    """
    metrics = {
        f"{level}/{name}": value
        for level, statistics in assignments.statistics().items()
        for name, value in statistics.items()
        if np.isscalar(value)
    }
    if previous is not None:
        metrics["nmi_previous"] = nmi(assignments.flat(), previous.flat())
    known = labels >= 0
    if known.any():
        metrics["nmi_labels"] = nmi(assignments.flat()[known], labels[known])
    return metrics


def _features(bank, trunk, reader, experiment, stage, scratch, cluster, projection):
    """(store of this worker's rows, moments), as of `extract`, and where they are from.

    Returns:
        Of a bank that has features: (store, None, "bank"). Else (store, moments, "extract"), and
        the bank, if any, gets them.
    """
    if bank and bank.has_features:
        store = raw_store(stage.feature_dim(trunk.feature_dim), reader, stage, scratch, cluster)
        if store.written < store.rows:
            bank.fill(store)
        return store, None, "bank"
    found = extract(trunk, reader, experiment, stage, scratch, cluster, projection)
    if bank:
        bank.keep(found[0])  # before they are whitened in place
    return *found, "extract"


def _job(network, reader, experiment, stage, cluster, seed):
    """All inputs that determine this worker's part of the result."""
    return {
        **{name: _fingerprint(part) for name, part in network.items()},
        "data": reader.dataset.fingerprint(),
        "model": experiment.model.as_dict(),
        "resize": experiment.data.resize,
        "features": stage.features,
        "clusters": stage.clusters,
        "sub_clusters": stage.sub_clusters,
        "clusterings": stage.clusterings,
        "clustering": stage.clustering.result_settings(),
        "seed": seed,  # depends on the stage and the round
        "worker": [cluster.rank, cluster.size],
    }


def _fingerprint(network):
    digest = hashlib.blake2b(digest_size=16)
    for variable in network.weights:
        digest.update(np.ascontiguousarray(variable.numpy()))
    return digest.hexdigest()


def _keep(kept, network, job, rows, stage, whitening, result):
    """Completes what is kept of a clustering."""
    settings = stage.clustering
    description = {
        "rows": rows,
        "data": job["data"],
        "layer": network["trunk"].feature_layer,
        "network": {"weights": NETWORK, "digest": job["trunk"]},
        "projection": stage.projection.as_dict(),
        "clusters": stage.clusters,
        "sub_clusters": stage.sub_clusters,
        "store_dtype": settings.store_dtype,
        "spherical": settings.spherical,
        "precision": settings.precision,
    }
    if whitening is None:
        dim = stage.feature_dim(network["trunk"].feature_dim)
        description |= {"dim": dim, "raw_dim": dim}
    kept.commit(
        description,
        whitening,
        np.concatenate([result.counts, result.further_counts]),
        tf.train.Checkpoint(**network).write,
        stage.clusterings,
    )


def _cluster(store, stage, scratch, cluster, seed, previous, on_centroids=None):
    """Runs both levels of k-means; the chief shows progress. See `hierarchical_kmeans`."""
    settings = stage.clustering
    rows = slice(store.first_row, store.first_row + store.rows)
    all_rows = int(all_gather(store.rows, cluster.world).sum())
    problems = {1: 1, 2: stage.clusters * stage.clusterings}
    with _LevelProgress(
        settings.iterations, all_rows, store.rows, problems, cluster.is_chief
    ) as progress:
        result = hierarchical_kmeans(
            store,
            stage.clusters,
            stage.sub_clusters,
            cluster.world,
            seed,
            settings.kmeans_options(),
            previous=(previous.cluster[rows], previous.subs[rows]) if previous else None,
            snapshots=Snapshots(
                os.path.join(scratch, "kmeans"), cluster.world, settings.save_every_s
            ),
            on_progress=progress.update,
            on_centroids=on_centroids,
            clusterings=stage.clusterings,
        )
    level1 = result.report["level1"]
    if level1 and level1["empty"]:
        raise DataError(
            f"{level1['empty']} of {stage.clusters} clusters are empty, since the features have "
            "fewer distinct values; lower the learning rate if the network has collapsed, or the "
            "number of clusters if the images are near-duplicates."
        )
    return result


class _LevelProgress:
    """One progress line per level, since a row costs far more in the second than in the first.

    Args:
        iterations, rows, own_rows, enabled: as in `IterationProgress`.
        problems: {level: number of clusterings}.
    """

    def __init__(self, iterations, rows, own_rows, problems, enabled):
        self._settings = iterations, rows
        self._own_rows = own_rows
        self._problems = problems
        self._enabled = enabled
        self._level = None
        self._line = None
        self._stack = contextlib.ExitStack()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return self._stack.__exit__(*error)

    def update(self, rows, level, skipped, **metrics) -> None:
        if level != self._level:
            self._stack.close()
            line = IterationProgress(
                *self._settings,
                f"cluster, level {level}",
                self._own_rows,
                self._problems[level],
                self._enabled,
            )
            self._level, self._line = level, self._stack.enter_context(line)
        if skipped:
            self._line.skip(rows, **metrics)
        else:
            self._line.update(rows, **metrics)


def _write_report(folder, result, source, extract_s, cluster_s):
    """Writes the report of a clustering, as of `read_report`; its warnings also go to the log."""
    warnings = collapse_warnings(result.counts)
    for warning in warnings:
        logging.warning("clustering: %s", warning)
    sizes = {
        "clusters": size_histogram(result.counts.sum(axis=1)),
        "sub_clusters": size_histogram(result.counts.ravel()),
    }
    report = result.report | {"sizes": sizes, "warnings": warnings, "features": source}
    report |= {"extract_seconds": extract_s, "cluster_seconds": cluster_s}
    os.makedirs(folder, exist_ok=True)
    atomic.write_json(os.path.join(folder, _REPORT), report)
