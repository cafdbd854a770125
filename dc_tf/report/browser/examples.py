"""The images that are most like one: a row, or an image that was dropped on the page.

    examples = Examples(features)
    examples.of_row(7, count=24)                # [(row, cosine)], the nearest first
    examples.of_image(jpeg_bytes).number        # kept for a while, for its page

Features are those that a run or `dc_tf embed` has kept. Few are all compared; of many, the lists of
an inverted file beside them are. An image is embedded by the network that made the features, which
is loaded for the first one.
"""

import collections
import dataclasses
import functools
import glob
import os
import secrets
import threading

import numpy as np

from dc_tf.clustering.store.feature_files import Features, open_folder
from dc_tf.curation.features.open import open_features
from dc_tf.errors import ConfigError, DataError
from dc_tf.report.browser.pictures import thumbnail_of
from dc_tf.run_dir import RunDir

COUNT = 36  # neighbours that are shown
_KEPT = 32  # dropped images
_KEPT_ROWS = 512  # whose neighbours are kept
_EXACT_NUMBERS = 1 << 25  # components of all features that are compared for each search


@dataclasses.dataclass(frozen=True)
class Example:
    """An image that was dropped on the page, and what is like it.

    Attributes:
        number: text that names it in an address.
        thumbnail: bytes of a JPEG.
        neighbours: list of (row, cosine).
    """

    number: str
    thumbnail: bytes
    neighbours: list


class Examples:
    """Search by example; one search at a time.

    Args:
        features: Features of all rows.
        model: run or SavedModel that made them, where its recorded path leads nowhere.
    """

    def __init__(self, features: Features, model: str | None = None):
        self.features = features
        self._model = model
        self._lock = threading.Lock()
        self._kept = collections.OrderedDict()
        self._of_row = functools.lru_cache(_KEPT_ROWS)(self._neighbours_of_row)

    @property
    def how(self) -> str:
        """What is compared, and the recall of an inverted file."""
        layer = self.features.layer or "the vectors"
        return f"{layer}; {self._index.statement}" if self._index is not None else layer

    def prepare(self) -> None:
        """Makes what is missing beside the features, so that searches take no longer.

        Raises:
            ConfigError, DataError, Preempted: as of `InvertedFile.of`.
        """
        _ = self._points, self._index

    def of_row(self, row: int) -> list[tuple[int, float]]:
        """The nearest rows of a row, without itself."""
        with self._lock:
            return self._of_row(row)

    def of_image(self, data: bytes) -> Example:
        """Finds what is like an encoded image of any format that Pillow reads.

        Raises:
            ConfigError: the network that made the features is not known.
            DataError: it is no image.
        """
        from dc_tf.curation.features.network import (  # which import TensorFlow
            embed_images,
            read_image,
        )

        encoded = read_image(data)
        with self._lock:
            vectors = embed_images(self._network, self.features, [encoded])
            neighbours = self._nearest(self._points.apply(vectors), -1)
            example = Example(secrets.token_hex(8), thumbnail_of(encoded), neighbours)
            self._kept[example.number] = example
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return example

    def kept(self, number: str) -> Example | None:
        """An example that was found before, or None."""
        with self._lock:
            return self._kept.get(number)

    @functools.cached_property
    def _network(self):
        from dc_tf.curation.features.network import network_of

        return network_of(self.features, self._model)

    @functools.cached_property
    def _points(self):
        from dc_tf.curation.features.directions import Directions

        return Directions.of(self.features)

    @functools.cached_property
    def _index(self):
        """The InvertedFile; None for few features."""
        from dc_tf.curation.search.inverted_file import InvertedFile

        if self.features.rows * self.features.dim <= _EXACT_NUMBERS:
            return None
        return InvertedFile.of(self._points)

    def _neighbours_of_row(self, row):
        return self._nearest(self._points.take([row]), row)

    def _nearest(self, vectors, own):
        from dc_tf.curation.features.neighbours import nearest_rows, without_row

        count = min(COUNT + 1, self.features.rows)
        if self._index is None:
            found = nearest_rows(self._points, vectors, count, what=None)
        else:
            found = self._index.nearest_rows(vectors, count)
        found = without_row(found, [own], COUNT)
        pairs = zip(found.rows[0].tolist(), found.cosines[0].tolist(), strict=True)
        return [(row, cosine) for row, cosine in pairs if row >= 0 and np.isfinite(cosine)]


def kept_features(clustering, layer: str | None = None) -> Features | None:
    """Features of all rows that a run, or what `dc_tf kmeans` has clustered, has; None without.

    Args:
        clustering: clusters.open.Clustering.
        layer: of a run with features of several; None takes the newest.
    """
    if clustering.stage is None:
        return _clustered(clustering)
    pattern = os.path.join(glob.escape(RunDir(clustering.path).embeddings("")), "*.json")
    for path in sorted(glob.glob(pattern), key=os.path.getmtime, reverse=True):
        folder = path.removesuffix(".json")
        if layer in (None, os.path.basename(folder).partition("-")[0]):
            found = _opened(open_folder, folder, clustering.dataset)
            if found is not None:
                return found
    return None


def _clustered(clustering):
    from dc_tf.evaluation.clusters.clusterings import KMeansClustering

    found = KMeansClustering(clustering.path)
    ids = found.row_ids(clustering.dataset)
    if not np.array_equal(ids, np.arange(len(ids))):
        return None
    paths = [path for path, _ in found.input_files()]
    column = found.settings().get("column")
    return _opened(open_features, features=paths, data=clustering.dataset, column=column)


def _opened(function, *args, **kwargs):
    try:
        return function(*args, **kwargs)
    except (ConfigError, DataError):  # not complete, or of other images
        return None
