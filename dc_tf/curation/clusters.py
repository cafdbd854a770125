"""Opens what a report is about: a clustering with its data set, and what it is compared with.

    shown = of_run("/runs/mine")                  # its last round
    shown.flat([7, 0]), shown.title(12)           # cluster numbers of rows; "3.2"
    shown = of_kmeans("CLUSTERS", data="/data/mine")

A cluster of a report is a sub-cluster of a cluster, where a clustering has two levels. It is
numbered `cluster * sub_clusters + sub`.
"""

import dataclasses
import os

import numpy as np

from dc_tf import experiment
from dc_tf.atomic import read_json
from dc_tf.clustering.assignments import Assignments
from dc_tf.data.storage.manifest import Dataset
from dc_tf.errors import ConfigError, DataError
from dc_tf.evaluation.clusters import clusterings
from dc_tf.run_dir import RunDir

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
        distance: (N,) float32, of each row to its centroid; None where it is not known.
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

    def blocks(self):
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


def of_run(path: str, data: str | None = None, stage: str = "", round_index=None) -> Run:
    """Opens a run and one of its clusterings.

    Args:
        path: run folder.
        data: its data set, if it is no longer where it was.
        stage: name of a stage; "" for the last one that has clusters.
        round_index: of the clustering in the stage; None for the last.

    Raises:
        ConfigError: there is no such run, stage or round.
        DataError: the data set is another one, or damaged.
    """
    folder = RunDir(path)
    if not os.path.isfile(folder.config):
        raise ConfigError(f"--run={path} is not the folder of a run of `dc_tf train`; give one.")
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
        DataError: it is of another data set, or damaged.
    """
    assignments = Assignments.open(run.folder.clustering(chosen.stage, chosen.round))
    if len(assignments.cluster) != run.dataset.rows:
        raise DataError(
            f"{run.folder.path} has clustered {len(assignments.cluster)} images, but the data set "
            f"{run.dataset.path} has {run.dataset.rows}; give the data set of the run as --data."
        )
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
    )


def of_kmeans(path: str, dataset: Dataset) -> Clustering:
    """Opens the output of `dc_tf kmeans`.

    Raises:
        ConfigError: the folder is no such output.
        DataError: its rows are not those of the data set, or a file is damaged.
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
        sub=np.zeros_like(cluster),
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
    has = f"rounds 0 to {found[-1].round}" if found else "no clustering"
    raise ConfigError(f"{stage or 'the last stage'} of {run.folder.path} has {has}.")
