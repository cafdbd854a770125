"""What the browser shows, opened: a clustering with its index, pictures, table and features.

site = open_site(Source(run="/runs/mine"), workdir="/runs/mine/browser")
"""

import dataclasses
import os

import numpy as np

from dc_tf import atomic
from dc_tf.curation.clusters.open import Clustering, Run, of_kmeans, of_run, with_distances
from dc_tf.curation.clusters.table import write_cluster_table
from dc_tf.curation.features.open import for_run, open_features
from dc_tf.data.storage.manifest import Dataset
from dc_tf.errors import ConfigError
from dc_tf.report.browser.examples import Examples, kept_features
from dc_tf.report.browser.index import ClusterIndex
from dc_tf.report.browser.pictures import Pictures
from dc_tf.report.browser.rounds import Rounds
from dc_tf.report.browser.selections import Selections
from dc_tf.report.browser.single_sources import single_sources
from dc_tf.report.browser.text_search import TextTable


@dataclasses.dataclass(frozen=True)
class Source:
    """What to browse: the flags --run, --stage, --round, --clusters, --data, and of features.

    Attributes:
        run, clusters, data, stage, round_index: as of `clusters.open.open_clustering`.
        features, column: as of `open_features`; None takes what is kept.
        layer: of `features` or of the run's.
        model: run or SavedModel that made `features`, where it was moved.
        embed: of a run: make features if there are none.
        table: make the table that search by text needs, if there is none.
    """

    run: str | None = None
    clusters: str | None = None
    data: str | None = None
    stage: str = ""
    round_index: int | None = None
    features: str | None = None
    column: str | None = None
    layer: str | None = None
    model: str | None = None
    embed: bool = False
    table: bool = True


@dataclasses.dataclass(frozen=True)
class Site:
    """All that pages are made of.

    Attributes:
        name: of the run, or of the output of `dc_tf kmeans`.
        dataset: Dataset.
        clustering: Clustering without labels and distances, which `index` has.
        index: ClusterIndex.
        pictures: Pictures.
        rounds: Rounds.
        table: TextTable, or None.
        examples: Examples, or None without features.
        selections: Selections.
        single: (count,) bool, clusters of a single source, or None where that is not known.
        version: text that changes with the data set, for addresses of pictures.
    """

    name: str
    dataset: Dataset
    clustering: Clustering
    index: ClusterIndex
    pictures: Pictures
    rounds: Rounds
    table: TextTable | None
    examples: Examples | None
    selections: Selections
    single: np.ndarray | None
    version: str

    def label_name(self, cluster: int) -> str:
        """The most frequent class of a cluster; "" without labels."""
        return self.pictures.name_of(int(self.index.label[cluster]))


def open_site(source: Source, workdir: str) -> Site:
    """Opens what is asked for, and makes what is missing in the work folder.

    Args:
        source: Source.
        workdir: folder for the index, the table and selections.

    Raises:
        ConfigError: what cannot work.
        DataError: data that cannot be used.
        Preempted: after Ctrl-C; the same call resumes.
    """
    run, clustering = _open(source)
    if source.features is not None:  # refused before what takes long
        _given_features(source, clustering.dataset)
    atomic.make_folder(workdir)
    with atomic.locked(os.path.join(workdir, "browser.lock"), workdir):
        clustering = with_distances(clustering)
        index = ClusterIndex.of(clustering, os.path.join(workdir, "index"))
        rounds = Rounds.of(run, os.path.join(workdir, "rounds"))
        table = _table(source, run, clustering, workdir)
        single = single_sources(
            table, index, clustering.sub_clusters, os.path.join(workdir, "single")
        )
        features = _features(source, clustering)
        examples = None if features is None else Examples(features, source.model)
        if examples is not None:
            examples.prepare()
    about = {"clustering": clustering.name, "source": clustering.path}
    fingerprint = clustering.dataset.fingerprint()
    return Site(
        name=_name(clustering.path),
        dataset=clustering.dataset,
        clustering=_without_rows(clustering),
        index=index,
        pictures=Pictures(clustering.dataset),
        rounds=rounds,
        table=table,
        examples=examples,
        selections=Selections(os.path.join(workdir, "selections"), clustering.dataset, about),
        single=single,
        version=fingerprint[-12:],
    )


def check_source(source: Source) -> None:
    """Refuses what can be refused before anything is opened.

    Raises:
        ConfigError: says what to give.
    """
    if (source.run is None) == (source.clusters is None):
        both = ", not both" if source.run is not None else ""
        raise ConfigError(f"give --run=RUN, or --clusters=CLUSTERS with --data=DATA{both}.")
    if source.clusters is not None and source.data is None:
        raise ConfigError("--clusters needs the data set that was embedded; give --data=DATA.")
    if source.clusters is not None and (source.stage or source.round_index is not None):
        raise ConfigError("--stage and --round are of a run; --clusters has one clustering.")
    if source.column is not None and source.features is None:
        raise ConfigError(f"--column={source.column} is of --features; give both, or none.")
    if source.embed and (source.run is None or source.features is not None):
        raise ConfigError("--embed makes features of --run; it has no use with others.")


def _open(source) -> tuple[Run | None, Clustering]:
    if source.clusters is not None:
        return None, of_kmeans(source.clusters, Dataset.open(source.data))
    run = of_run(source.run, source.data, source.stage, source.round_index)
    if run.shown is None:
        raise ConfigError(
            f"--run={source.run} has no clustering yet; wait for its first stage with clusters, or "
            "cluster the output of `dc_tf embed` with `dc_tf kmeans`."
        )
    return run, run.shown


def _table(source, run, clustering, workdir):
    """The table of the run or of the work folder; made if that is asked for."""
    rows, own = clustering.dataset.rows, os.path.join(workdir, "clusters.parquet")
    paths = [own] if run is None else [run.folder.table, own]
    for path in paths:
        table = TextTable.open(path, rows)
        if table is not None:
            return table
    if not source.table:
        return None
    write_cluster_table(clustering, own)
    return TextTable.open(own, rows)


def _features(source, clustering):
    dataset = clustering.dataset
    if source.features is not None:
        return _given_features(source, dataset)
    if source.embed:
        return for_run(source.run, source.layer, source.data)
    return kept_features(clustering, source.layer)


def _given_features(source, dataset):
    return open_features(
        features=source.features, data=dataset, layer=source.layer, column=source.column
    )


def _without_rows(clustering):
    none = np.zeros(0, np.int32)
    return dataclasses.replace(clustering, cluster=none, sub=none, distance=None, ratio=None)


def _name(path):
    """The last two names of a path: many runs are a folder `run` of something."""
    head, name = os.path.split(os.path.abspath(path))
    return os.path.join(os.path.basename(head), name)
