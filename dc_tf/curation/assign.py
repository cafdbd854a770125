"""Assigns the images of a data set to the clusters of a run, or of `dc_tf kmeans`.

    clustering = assign_images(DATA, "/scratch/new", run="RUN")            # its last kept round
    clustering = assign_images(DATA, "/scratch/new", clusters="CLUSTERS")
    write_cluster_table(clustering, "new.parquet")

Images go through the network whose features were clustered, and through the same whitening. The
images that were clustered get the clusters they have, but for ties. An interrupted call resumes
from its scratch folder.
"""

import dataclasses
import os
import re

import numpy as np

from dc_tf import experiment as experiment_lib
from dc_tf.clustering.cluster_model import ClusterModel, load_clustering
from dc_tf.clustering.nearness import CHUNK_BYTES, two_nearest
from dc_tf.clustering.search.tensors import exact_float32
from dc_tf.clustering.store.embeddings import UnitRows
from dc_tf.clustering.store.points import chunks
from dc_tf.curation.clusters import Clustering
from dc_tf.curation.feature_files import open_folder
from dc_tf.curation.features import open_features
from dc_tf.curation.network import network_of
from dc_tf.data.storage.manifest import Dataset
from dc_tf.data.storage.reader import RowReader
from dc_tf.errors import ConfigError
from dc_tf.evaluation.clusters.clusterings import KMeansClustering, is_kmeans
from dc_tf.evaluation.frozen.embed import embed
from dc_tf.progress import Progress
from dc_tf.run_dir import RunDir
from dc_tf.training.checkpoint import load_trunk_of_clustering
from dc_tf.training.extract import extract
from dc_tf.training.projection import projection_of_clustering

_EMBEDDED = re.compile(r"(\w+)-\d+-of-\d+\.npy$")  # a file of `dc_tf embed`


def assign_images(
    data, scratch: str, run=None, clusters=None, stage: str = "", round_index=None, features=None
) -> Clustering:
    """Assigns every image of a data set.

    Args:
        data: path of the data set, or a Dataset.
        scratch: folder for features; the caller removes it.
        run: run folder, with `keep_clusterings` above 0.
        clusters: output folder of `dc_tf kmeans`.
        stage: name of a stage of the run; "" for the last one with a kept clustering.
        round_index: of the clustering in the stage; None for the last.
        features: with `clusters` of vectors that `dc_tf embed` has not made: the features of
            `data`, as of `open_features`.

    Raises:
        ConfigError: not one of `run` and `clusters`; the run has kept no clustering; the network
            of the features is not known.
        DataError: a corrupt file, or features of another length.
        Preempted: after Ctrl-C; the same call resumes.
    """
    if (run is None) == (clusters is None):
        raise ConfigError("give --run=RUN or --clusters=CLUSTERS, the clusters to assign to.")
    dataset = data if isinstance(data, Dataset) else Dataset.open(data)
    if run is not None:
        return _to_run(dataset, scratch, os.fspath(run), stage, round_index)
    return _to_kmeans(dataset, scratch, os.fspath(clusters), features)


@dataclasses.dataclass(frozen=True)
class _Alone:
    """The view of `extract` on a process that has no others."""

    rank: int = 0
    size: int = 1
    is_chief: bool = True


def _to_run(dataset, scratch, path, stage, round_index) -> Clustering:
    folder = RunDir(path)
    if not os.path.isfile(folder.config):
        raise ConfigError(f"--run={path} is not a run folder: it has no experiment.yaml.")
    settings = experiment_lib.load([folder.config])
    model = load_clustering(folder, round_index, _stage_index(settings, stage))
    trunk, settings = load_trunk_of_clustering(path, model.round, model.stage)
    scratch = os.path.join(scratch, f"stage-{model.stage}-round-{model.round}")
    store = _extracted(trunk, dataset, settings, model, scratch)
    found = model.assign(store)
    return Clustering(
        name=f"{settings.stages[model.stage].name}, round {model.round}",
        path=path,
        dataset=dataset,
        cluster=found.cluster,
        sub=found.sub,
        clusters=len(model.counts),
        sub_clusters=model.counts.shape[1],
        distance=found.distance,
        ratio=found.ratio,
        stage=model.stage,
        round=model.round,
    )


def _stage_index(settings, stage):
    names = [each.name for each in settings.stages]
    if stage and stage not in names:
        raise ConfigError(f"--stage={stage}: the run has no such stage; it has {', '.join(names)}.")
    return names.index(stage) if stage else None


def _extracted(trunk, dataset, settings, model: ClusterModel, scratch):
    """The features of all images, as the run extracts them; resumes from `scratch`."""
    stage = settings.stages[model.stage]
    clustering = stage.clustering.replace(whitening_dim=0)  # no room for whitened rows
    store, _ = extract(
        trunk,
        RowReader(dataset),
        settings,
        stage.replace(clustering=clustering),
        scratch,
        _Alone(),
        projection_of_clustering(model, trunk, stage),
    )
    return store


def _to_kmeans(dataset, scratch, path, features) -> Clustering:
    if not is_kmeans(path):
        raise ConfigError(
            f"--clusters={path} is not the --output of a `dc_tf kmeans` that has finished."
        )
    found = KMeansClustering(path)
    centroids = np.load(os.path.join(path, "centroids.npy"), mmap_mode="r")
    counts = np.bincount(np.load(os.path.join(path, "assignments.npy")), minlength=len(centroids))
    rows = _embedded(dataset, scratch, found, features)
    if rows.dim != centroids.shape[1]:
        raise ConfigError(
            f"the features of {dataset.path} have {rows.dim} components and the centroids of "
            f"{path} have {centroids.shape[1]}; give features of the same network and layer."
        )
    rows = UnitRows(rows) if found.settings()["normalize"] else rows
    cluster, distance, ratio = _nearest(rows, centroids, counts > 0)
    return Clustering(
        name=f"k-means, {len(centroids):,} clusters",
        path=path,
        dataset=dataset,
        cluster=cluster,
        sub=np.zeros_like(cluster),
        clusters=len(centroids),
        sub_clusters=1,
        distance=distance,
        ratio=ratio,
        centroids=centroids,
    )


def _embedded(dataset, scratch, found, features):
    """Features of the data set: those given, or of the network that made the clustered ones."""
    if features is not None:
        return open_features(features=features, data=dataset)
    clustered = _clustered_features(found)
    about, network = clustered.about, network_of(clustered)
    embed(
        network,
        dataset,
        scratch,
        (clustered.layer,),
        cells=about["cells"],
        mirror=about.get("mirror", False),
        dtype=about["dtype"],
        batch_size=about["batch_size"],
    )
    return open_folder(scratch, dataset, clustered.layer)


def _clustered_features(found):
    """The Features that were clustered; ConfigError if `dc_tf embed` has not made them."""
    first = found.input_files()[0][0]
    layer = _EMBEDDED.match(os.path.basename(first))
    try:
        return open_folder(os.path.dirname(first), layer=layer and layer[1])
    except ConfigError as error:
        raise ConfigError(
            f"{first}, which was clustered, is not of `dc_tf embed`, so its network is not known; "
            "give the features of the images to assign as --features=FEATURES."
        ) from error


@exact_float32()
def _nearest(points, centroids, used):
    """(n,) labels, distances and ratios of all rows."""
    cluster = np.empty(points.rows, np.int32)
    distance, ratio = np.empty((2, points.rows), np.float32)
    step = max(1, CHUNK_BYTES // (4 * points.dim))
    with Progress(points.rows, "assign", "rows") as progress:
        for first, rows in chunks(points, step):
            part = slice(first, first + len(rows))
            x = np.asarray(rows).astype(np.float32)
            cluster[part], distance[part], ratio[part] = two_nearest(x, centroids, used)
            progress.update(len(x))
    return cluster, distance, ratio
