"""Opens a clustering with its data set: of a round of a run, or of `dc_tf kmeans`.

    clustering = open_clustering(run="/runs/mine")                 # the last round
    clustering = open_clustering(clusters="CLUSTERS", data="/data/mine")
    clustering.flat([7, 0]), clustering.distance, clustering.title(12)

A cluster, in all of `curation` and `report`, is a sub-cluster of a cluster where a clustering has
two levels. It is numbered `cluster * sub_clusters + sub`, and its title is "CLUSTER.SUB".
"""

import dataclasses
import os
from collections.abc import Iterator

import numpy as np

from dc_tf import experiment
from dc_tf.atomic import read_json
from dc_tf.clustering.assignments import Assignments
from dc_tf.clustering.cluster_model import ClusterModel
from dc_tf.clustering.kept_clustering import kept_rounds
from dc_tf.data.storage.manifest import Dataset
from dc_tf.errors import ConfigError, DataError
from dc_tf.evaluation.clusters import clusterings
from dc_tf.run_dir import RunDir, check_run

BLOCK = 1 << 20  # rows that a pass looks at together


@dataclasses.dataclass(frozen=True)
class Clustering:
    """Which cluster each row of a data set is in.

    Attributes:
        name: for people.
        path: of the run, or of the output of `dc_tf kmeans`.
        dataset: Dataset.
        cluster, sub: (N,) integers.
        clusters, sub_clusters: how many; sub_clusters is 1 for one level.
        distance: (N,) float32, of each row to its centroid; None where it is not known: in rounds
            of a run of which nothing is kept, and of k-means until `with_distances`.
        ratio: (N,) float32, `distance` over the distance to the nearest other centroid of the same
            level; None where it is not known.
        centroids: (clusters * sub_clusters, d) float32, or None.
        stage, round: index of the stage of a run and of the round in it; None for k-means.
    """

    name: str
    path: str
    dataset: Dataset
    cluster: np.ndarray
    sub: np.ndarray
    clusters: int
    sub_clusters: int
    distance: np.ndarray | None = None
    ratio: np.ndarray | None = None
    centroids: np.ndarray | None = None
    stage: int | None = None
    round: int | None = None

    @property
    def count(self) -> int:
        """Number of clusters of both levels."""
        return self.clusters * self.sub_clusters

    def flat(self, rows) -> np.ndarray:
        """(n,) int64 cluster of each row; `rows` are (n,) row ids or a slice."""
        return np.asarray(self.cluster[rows], np.int64) * self.sub_clusters + self.sub[rows]

    def blocks(self) -> Iterator:
        """Yields (first row, (n,) clusters of the block's rows, their (n,) distances or None)."""
        for first in range(0, self.dataset.rows, BLOCK):
            rows = slice(first, min(first + BLOCK, self.dataset.rows))
            yield first, self.flat(rows), None if self.distance is None else self.distance[rows]

    def sizes(self) -> np.ndarray:
        """(count,) int64 rows of each cluster."""
        sizes = np.zeros(self.count, np.int64)
        for _, flat, _ in self.blocks():
            sizes += np.bincount(flat, minlength=self.count)
        return sizes

    def title(self, cluster: int) -> str:
        """The name of a cluster: "7", or "3.2" for sub-cluster 2 of cluster 3."""
        if self.sub_clusters == 1:
            return str(cluster)
        return f"{cluster // self.sub_clusters}.{cluster % self.sub_clusters}"


@dataclasses.dataclass(frozen=True)
class Run:
    """A run and the clustering of it that is shown.

    Attributes:
        folder: RunDir.
        experiment: Experiment.
        dataset: Dataset that it was trained on.
        rounds: list of `clusterings.RunClustering`, oldest first.
        shown: Clustering, or None for a run that has none, such as RotNet's.
    """

    folder: RunDir
    experiment: experiment.Experiment
    dataset: Dataset
    rounds: list
    shown: Clustering | None

    def stage_name(self, stage: int) -> str:
        return self.experiment.stages[stage].name


def open_clustering(
    run=None, clusters=None, data=None, stage: str = "", round_index: int | None = None
) -> Clustering:
    """Opens what the flags --run, --stage and --round, or --clusters and --data mean.

    Args:
        run: run folder.
        clusters: output folder of `dc_tf kmeans`.
        data: data set; with `run` only where it was moved.
        stage, round_index: of a run, as in `of_run`.

    Raises:
        ConfigError: not one of `run` and `clusters`, no data set, or the run has no clustering.
        DataError: a file is corrupt, or of another data set.
    """
    if (run is None) == (clusters is None):
        raise ConfigError("give --run=RUN, or --clusters=CLUSTERS with --data=DATA.")
    if run is not None:
        shown = of_run(os.fspath(run), data and os.fspath(data), stage, round_index).shown
        if shown is None:
            raise ConfigError(
                f"--run={run} has no clustering yet; wait for its first stage with clusters, or "
                "cluster the output of `dc_tf embed` with `dc_tf kmeans`."
            )
        return shown
    if stage or round_index is not None:
        raise ConfigError("--stage and --round are of a run; --clusters has one clustering.")
    if data is None:
        raise ConfigError("--clusters needs the data set that was embedded; give --data=DATA.")
    return of_kmeans(os.fspath(clusters), Dataset.open(data))


def of_run(path: str, data: str | None = None, stage: str = "", round_index=None) -> Run:
    """Opens a run and one of its clusterings.

    Args:
        path: run folder.
        data: its data set, if it is no longer where it was.
        stage: name of a stage; "" for the last one that has clusters.
        round_index: of the clustering in the stage; None for the last.

    Raises:
        ConfigError: there is no such run, stage or round.
        DataError: the data set is another one, or corrupt.
    """
    folder = RunDir(path)
    check_run(path)
    settings = experiment.load([folder.config])
    dataset = Dataset.open(data or settings.data.path)
    rounds = clusterings.find(path) if os.path.isdir(folder.clusterings) else []
    rounds = [one for one in rounds if _count(settings, one) > 1]
    run = Run(folder, settings, dataset, rounds, None)
    chosen = _choose(run, stage, round_index)
    return dataclasses.replace(run, shown=chosen and open_round(run, chosen))


def open_round(run: Run, chosen) -> Clustering:
    """The Clustering of a `clusterings.RunClustering` of the run.

    Raises:
        DataError: it is of another data set, or corrupt.
    """
    assignments = Assignments.open(run.folder.clustering(chosen.stage, chosen.round))
    if len(assignments.cluster) != run.dataset.rows:
        raise DataError(
            f"{run.folder.path} has clustered {len(assignments.cluster)} images, but the data set "
            f"{run.dataset.path} has {run.dataset.rows}; give the data set of the run as --data."
        )
    distance, ratio = _kept_nearness(run, chosen)
    return Clustering(
        name=f"{run.stage_name(chosen.stage)}, round {chosen.round}",
        path=run.folder.path,
        dataset=run.dataset,
        cluster=assignments.cluster,
        sub=assignments.sub,
        clusters=assignments.clusters,
        sub_clusters=assignments.sub_clusters,
        stage=chosen.stage,
        round=chosen.round,
        distance=distance,
        ratio=ratio,
    )


def with_distances(clustering: Clustering, comm=None) -> Clustering:
    """The same with distances, where they can be had; measures those of `dc_tf kmeans` once.

    Args:
        clustering: Clustering.
        comm: Communicator of the workers that measure together, which all make the call.

    Raises:
        DataError: the files that were clustered have changed or are gone.
        Preempted: after Ctrl-C; what was measured is kept.
    """
    if clustering.distance is not None or clustering.stage is not None:
        return clustering
    from dc_tf.curation.clusters.kmeans_nearness import measure

    nearness = measure(clustering, comm)
    return dataclasses.replace(clustering, distance=nearness[:, 0], ratio=nearness[:, 1])


def of_kmeans(path: str, dataset: Dataset) -> Clustering:
    """Opens the output of `dc_tf kmeans`.

    Raises:
        ConfigError: the folder is no such output.
        DataError: its rows are not those of the data set, or a file is corrupt.
    """
    if not clusterings.is_kmeans(path):
        raise ConfigError(
            f"--clusters={path} is not the --output of a `dc_tf kmeans` that has finished; give "
            "one, or a run as --run."
        )
    (found,) = clusterings.find(path)
    cluster = found.levels(dataset)["clusters"]
    centroids = np.load(os.path.join(found.path, "centroids.npy"), mmap_mode="r")
    return Clustering(
        name=f"k-means, {len(centroids):,} clusters",
        path=found.path,
        dataset=dataset,
        cluster=cluster,
        sub=np.broadcast_to(np.int32(0), len(cluster)),
        clusters=len(centroids),
        sub_clusters=1,
        centroids=centroids,
    )


def of_either(path: str, dataset: Dataset) -> Clustering:
    """The last clustering of a run, or a clustering of `dc_tf kmeans`, of the same data set."""
    name = os.path.basename(os.path.abspath(path))
    if clusterings.is_kmeans(path):
        return dataclasses.replace(of_kmeans(path, dataset), name=name)
    run = of_run(path, data=dataset.path)
    if run.shown is None:
        raise ConfigError(f"--compare={path} has no clustering yet; give another run.")
    recorded = read_json(run.folder.data) if os.path.exists(run.folder.data) else {}
    if recorded.get("fingerprint") not in (None, dataset.fingerprint()):
        raise ConfigError(f"--compare={path} was trained on other images than {dataset.path}.")
    return dataclasses.replace(run.shown, name=name)


def _kept_nearness(run, chosen):
    """(N,) distances and ratios of a round, or None for each where the run has not kept them."""
    kept = kept_rounds(run.folder.clusterings)
    if (chosen.stage, chosen.round) not in kept:
        return None, None
    nearness = ClusterModel.load(kept[chosen.stage, chosen.round]).nearness()
    return (None, None) if nearness is None else (nearness[:, 0], nearness[:, 1])


def _count(settings, found):
    stage = settings.stages[found.stage]
    return stage.clusters * max(1, stage.sub_clusters)


def _choose(run, stage, round_index):
    """The clustering that is asked for, or None if nothing is asked for and there is none."""
    names = [one.name for one in run.experiment.stages]
    if stage and stage not in names:
        raise ConfigError(f"the run has no stage {stage!r}; it has {', '.join(names)}.")
    found = [one for one in run.rounds if not stage or names[one.stage] == stage]
    if not found and not stage and round_index is None:
        return None
    last = found[-1:] and found[-1].stage
    found = [one for one in found if one.stage == last]
    for one in reversed(found):
        if round_index in (None, one.round):
            return one
    if not found:
        asked = f"--stage={stage}" if stage else f"--round={round_index}"
        raise ConfigError(f"{asked}: {run.folder.path} has no clustering of it; use another one.")
    raise ConfigError(
        f"--round={round_index}: {stage or 'the last stage'} of {run.folder.path} has rounds "
        f"{found[0].round} to {found[-1].round}; use one of these."
    )
