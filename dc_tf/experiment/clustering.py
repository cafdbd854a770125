"""How the features of a round are clustered."""

import dataclasses

from dc_tf.errors import ConfigError
from dc_tf.experiment.need import need, need_at_least, need_choice
from dc_tf.hyperparams import Config
from dc_tf.kmeans_options import KMeansOptions, cache_bytes_of
from dc_tf.limits import LONGEST_S, SECONDS

STORE_DTYPES = ("float16", "bfloat16", "float32")


@dataclasses.dataclass
class Clustering(Config):
    """From features to cluster assignments; see `dc_tf.clustering.kmeans`.

    Attributes:
        whiten: whiten features and scale them to length 1, as in the paper; otherwise k-means takes
            them as they are, which suits the unit vectors of a projection.
        whitening_dim: directions kept by the PCA; 0 keeps all.
        iterations: of Lloyd's algorithm, at both levels; the maximum, if `tolerance` is set.
        batch_size: images per worker and step while features are extracted.
        init: "random" rows, as in the paper; "k-means++", good for few clusters; "k-means||", for
            many; "previous", the last round's clusters in this round's features.
        precision: of the products of rows and centroids, "float32", "bfloat16" or "auto", as of
            `Model.compute_dtype`.
        spherical: centroids of length 1, so that rows are compared by their angle only.
        tolerance: relative gain of an iteration below which it is the last; 0 runs all iterations.
        backend: of the search for the nearest centroid, "auto", "tensorflow" or "faiss".
        cache_gb: keep a worker's rows of a k-means in device memory if they take at most this;
            otherwise, and with 0, every pass reads them again. The clusters are the same.
        store_dtype: of the features on disk, "float16", "bfloat16" or "float32".
        save_every_s: seconds between saves of a clustering in progress; 0 saves after every pass.
    """

    whiten: bool = True
    whitening_dim: int = 0
    iterations: int = KMeansOptions.iterations
    batch_size: int = 256
    init: str = KMeansOptions.init
    precision: str = KMeansOptions.precision
    spherical: bool = KMeansOptions.spherical
    tolerance: float = KMeansOptions.tolerance
    backend: str = KMeansOptions.backend
    cache_gb: float = KMeansOptions.cache_bytes / 1e9
    store_dtype: str = "float16"
    save_every_s: float = 60.0

    @property
    def cache_bytes(self) -> int:
        """`cache_gb` in bytes."""
        return cache_bytes_of(self.cache_gb)

    def kmeans_options(self) -> KMeansOptions:
        """These settings as k-means takes them.

        Raises:
            ConfigError: for one that cannot work; begins with its name.
        """
        names = ("iterations", "init", "precision", "spherical", "tolerance", "backend")
        values = {name: getattr(self, name) for name in names}
        return KMeansOptions(cache_bytes=self.cache_bytes, **values)

    def result_settings(self) -> dict:
        """Settings that the clusters depend on."""
        settings = self.as_dict()
        for name in ("cache_gb", "save_every_s"):
            del settings[name]
        return settings


def check_clustering(clustering: Clustering, place: str, dim: int, source: str) -> None:
    """Refuses what cannot work; raises ConfigError.

    Args:
        clustering: its settings.
        place: where they are, as in "stages[0].clustering".
        dim: length of the features.
        source: name of the setting that it follows from.
    """

    def name(setting):
        return f"{place}.{setting}"

    kept = clustering.whitening_dim
    need(0 <= kept <= dim, name("whitening_dim"), kept, f"use 0 to {source} = {dim}")
    need(clustering.whiten or not kept, name("whitening_dim"), kept, "use 0 with whiten = false")
    for setting in ("iterations", "batch_size"):
        need_at_least(name(setting), getattr(clustering, setting), 1)
    try:
        clustering.kmeans_options()
    except ConfigError as error:
        raise ConfigError(name(error)) from error
    need_choice(name("store_dtype"), clustering.store_dtype, STORE_DTYPES)
    seconds = clustering.save_every_s
    need(0 <= seconds <= LONGEST_S, name("save_every_s"), seconds, SECONDS)
