"""Assigns the images of a data set to the clusters of a run, or of `dc_tf kmeans`.

    clustering = assign_images(DATA, "/scratch/new", run="RUN")            # its last kept round
    clustering = assign_images(DATA, "/scratch/new", clusters="CLUSTERS")
    write_cluster_table(clustering, "new.parquet")

Images go through the network whose features were clustered, and through the same whitening. The
images that were clustered get the clusters they have, but for ties. Several workers share the
images. An interrupted call resumes from its scratch folder.
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
from dc_tf.clustering.store.feature_files import open_folder
from dc_tf.clustering.store.points import Block, chunks
from dc_tf.curation.clusters.open import Clustering
from dc_tf.curation.features.open import open_features
from dc_tf.curation.shared_columns import joined_columns
from dc_tf.data.storage.manifest import Dataset
from dc_tf.data.storage.reader import RowReader
from dc_tf.distributed import stop_request
from dc_tf.distributed.blocks import row_block
from dc_tf.distributed.collective_errors import raise_on_all
from dc_tf.distributed.collectives import ALONE
from dc_tf.errors import ConfigError
from dc_tf.evaluation.clusters.clusterings import KMeansClustering, is_kmeans
from dc_tf.progress import Progress
from dc_tf.run_dir import RunDir, check_run

_EMBEDDED = re.compile(r"(.+)-\d+-of-\d+\.npy$")  # a file of `dc_tf embed`


def assign_images(
    data,
    scratch: str,
    run=None,
    clusters=None,
    stage: str = "",
    round_index=None,
    features=None,
    comm=None,
    column=None,
) -> Clustering:
    """Assigns every image of a data set.

    Args:
        data: path of the data set, or a Dataset.
        scratch: folder for features; the caller removes it.
        run: run folder, with `keep_clusterings` above 0; or None.
        clusters: without `run`, the output folder of `dc_tf kmeans`.
        stage: name of a stage of the run; "" for the last one with a kept clustering.
        round_index: of the clustering in the stage; None for the last.
        features: with `clusters` of vectors that `dc_tf embed` has not made: the features of
            `data`, as of `open_features`.
        comm: Communicator of the workers, which see `scratch` and all make the call.
        column: of `features`, as of `open_features`.

    Raises:
        ConfigError: the run has kept no clustering; the network of the features is not known.
        DataError: a corrupt file, or features of another length.
        Preempted: after Ctrl-C; the same call resumes.
    """
    dataset, comm = data if isinstance(data, Dataset) else Dataset.open(data), comm or ALONE
    if run is not None:
        with raise_on_all(comm):
            model, settings, found = _to_run(
                dataset, scratch, os.fspath(run), stage, round_index, comm
            )
        name = f"{settings.stages[model.stage].name}, round {model.round}"
        shape = {"clusters": len(model.counts), "sub_clusters": model.counts.shape[1]}
        place = {"path": os.fspath(run), "stage": model.stage, "round": model.round}
        return _joined(found, scratch, comm, name=name, dataset=dataset, **shape, **place)
    return _to_kmeans(dataset, scratch, os.fspath(clusters), (features, column), comm)


def _joined(found, scratch, comm, **about) -> Clustering:
    """The Clustering of all workers' rows, of which each has `found` its own."""
    names = ("cluster", "sub", "distance", "ratio")
    columns = {name: np.asarray(getattr(found, name)) for name in names}
    return Clustering(**joined_columns(os.path.join(scratch, "columns"), columns, comm), **about)


@dataclasses.dataclass(frozen=True)
class _View:
    """The view of `extract` on the workers."""

    rank: int
    size: int

    @property
    def is_chief(self) -> bool:
        return self.rank == 0


def _to_run(dataset, scratch, path, stage, round_index, comm):
    """(ClusterModel, Experiment, what its `assign` finds for this worker's rows)."""
    check_run(path)
    from dc_tf.training.checkpoint import load_trunk_of_clustering  # brings Keras

    folder = RunDir(path)
    settings = experiment_lib.load([folder.config])
    model = load_clustering(folder, round_index, _stage_index(settings, stage))
    trunk, settings = load_trunk_of_clustering(path, model.round, model.stage)
    scratch = os.path.join(scratch, f"stage-{model.stage}-round-{model.round}")
    if comm.size > 1:
        scratch = os.path.join(scratch, f"worker-{comm.rank:05d}-of-{comm.size:05d}")
    store = _extracted(trunk, dataset, settings, model, scratch, _View(comm.rank, comm.size))
    return model, settings, model.assign(store)


def _stage_index(settings, stage):
    names = [each.name for each in settings.stages]
    if stage and stage not in names:
        raise ConfigError(f"--stage={stage}: the run has no such stage; it has {', '.join(names)}.")
    return names.index(stage) if stage else None


def _extracted(trunk, dataset, settings, model: ClusterModel, scratch, view):
    """The features of this worker's images, as the run extracts them; resumes from `scratch`."""
    from dc_tf.training.features.extract import extract
    from dc_tf.training.step.projection import projection_of_clustering

    stage = settings.stages[model.stage]
    clustering = stage.clustering.replace(whitening_dim=0)  # no room for whitened rows
    stage_without = stage.replace(clustering=clustering)
    projection = projection_of_clustering(model, trunk, stage)
    reader = RowReader(dataset)
    store, _ = extract(trunk, reader, settings, stage_without, scratch, view, projection)
    return store


def _to_kmeans(dataset, scratch, path, given, comm) -> Clustering:
    with raise_on_all(comm):
        if not is_kmeans(path):
            raise ConfigError(
                f"--clusters={path} is not the --output of a `dc_tf kmeans` that has finished."
            )
        made = KMeansClustering(path)
        centroids = np.load(os.path.join(path, "centroids.npy"), mmap_mode="r")
        labels = np.load(os.path.join(path, "assignments.npy"), mmap_mode="r")
        counts = np.bincount(labels, minlength=len(centroids))
    rows = _embedded(dataset, scratch, made, given, comm)
    with raise_on_all(comm):
        if rows.dim != centroids.shape[1]:
            raise ConfigError(
                f"the features of {dataset.path} have {rows.dim} components and the centroids of "
                f"{path} have {centroids.shape[1]}; give features of the same network and layer."
            )
        rows = UnitRows(rows) if made.settings()["normalize"] else rows
        found = _nearest(rows, centroids, counts > 0, comm)
    return _joined(
        found,
        scratch,
        comm,
        name=f"k-means, {len(centroids):,} clusters",
        path=path,
        dataset=dataset,
        clusters=len(centroids),
        sub_clusters=1,
        centroids=centroids,
    )


def _embedded(dataset, scratch, made, given, comm):
    """Features of the data set: those given, or of the network that made the clustered ones."""
    with raise_on_all(comm):
        features, column = given
        if features is not None:
            return open_features(features=features, data=dataset, column=column)
        from dc_tf.curation.features.network import network_of  # brings Keras

        clustered = _clustered_features(made)
        about, network = clustered.about, network_of(clustered)
    from dc_tf.evaluation.frozen.embed import embed

    embed(
        network,
        dataset,
        os.path.join(scratch, "embedded"),
        (clustered.layer,),
        cells=about["cells"],
        mirror=about.get("mirror", False),
        dtype=about["dtype"],
        batch_size=about["batch_size"],
        comm=comm,
    )
    return open_folder(os.path.join(scratch, "embedded"), dataset, clustered.layer)


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


@dataclasses.dataclass(frozen=True)
class _Found:
    """Columns of this worker's rows, (n,) each."""

    cluster: np.ndarray
    sub: np.ndarray
    distance: np.ndarray
    ratio: np.ndarray


@exact_float32()
def _nearest(points, centroids, used, comm) -> _Found:
    """Labels, distances and ratios of this worker's rows."""
    own = row_block(points.rows, comm.rank, comm.size)
    points = Block(points, own.start, own.stop)
    cluster = np.empty(points.rows, np.int32)
    distance, ratio = np.empty((2, points.rows), np.float32)
    step = max(1, CHUNK_BYTES // (4 * points.dim))
    with Progress(points.rows, "assign", "rows", enabled=comm.rank == 0) as progress:
        for first, rows in chunks(points, step):
            part = slice(first, first + len(rows))
            x = np.asarray(rows).astype(np.float32)
            cluster[part], distance[part], ratio[part] = two_nearest(x, centroids, used)
            progress.update(len(x))
            stop_request.raise_if_requested("the features are kept")
    return _Found(cluster, np.zeros_like(cluster), distance, ratio)
