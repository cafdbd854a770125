"""Features as directions, whitened as for clustering, so that cosines tell images apart.

    directions = Directions.of(features, whiten=256)
    directions.read(0, 4096)              # (4096, 256) float32, length 1
    directions.apply(vectors)             # further vectors, in the same way

Raw features share a large mean and a few strong directions, so the cosine of any two images is
close to 1. The mean and the basis come from at most `_SAMPLED` rows, evenly spread, and are kept
beside the features; rows are mapped when they are read.
"""

import dataclasses
import os
import re

import numpy as np
from absl import logging

from dc_tf import atomic
from dc_tf.clustering.search.tensors import exact_float32
from dc_tf.clustering.store.feature_files import Features
from dc_tf.clustering.store.points import Subset
from dc_tf.clustering.store.whitening import Moments, Whitening
from dc_tf.curation.features.neighbours import checked_finite, unit
from dc_tf.data.storage.manifest import Dataset
from dc_tf.distributed.collective_errors import raise_on_all
from dc_tf.distributed.collectives import ALONE, broadcast_number
from dc_tf.errors import ConfigError
from dc_tf.progress import Progress

DIM = 256  # directions that are kept, the strongest
_SAMPLED = 65_536
# So few are mapped by NumPy: TensorFlow's import takes longer.
_FEW = 1024
# So few rows do not tell strong directions from weak ones, and are compared as they are.
_ROWS_PER_DIRECTION, _LEAST_DIM = 4, 16


@dataclasses.dataclass(frozen=True)
class Directions:
    """Rows of features, of length 1; `clustering.store.points.Points`.

    Attributes:
        features: Features.
        whitening: Whitening; None scales rows only.
    """

    features: Features
    whitening: Whitening | None

    @classmethod
    def of(cls, features, whiten=DIM, comm=None) -> "Directions":
        """Fits the map, or reads it where it was kept beside the features.

        Args:
            features: Features.
            whiten: directions to keep; less if the features or their number allow no more. 0
                takes the features as they are, and so do fewer than 64 rows.
            comm: Communicator of the workers that open them together; the first fits the map.

        Raises:
            ConfigError: a negative number.
            DataError: rows that are not finite or all equal.
        """
        if whiten < 0:
            raise ConfigError(f"--whiten={whiten}; use 0 or more.")
        dim = min(whiten, features.dim)
        if not whiten or features.rows < _ROWS_PER_DIRECTION * min(dim, _LEAST_DIM):
            return cls(features, None)
        dim = min(dim, features.rows // _ROWS_PER_DIRECTION)
        comm = comm or ALONE
        path = os.path.join(folder_of(features), f"whitening-{dim}.npz")
        with raise_on_all(comm):
            kept = comm.rank == 0 and _keep(features, dim, path)
        kept = bool(broadcast_number(kept, comm))
        return cls(features, Whitening.load(path) if kept else _fit(features, dim))

    @property
    def rows(self) -> int:
        return self.features.rows

    @property
    def dim(self) -> int:
        return self.whitening.basis.shape[1] if self.whitening else self.features.dim

    @property
    def whitened(self) -> int:
        """Number of directions of the whitening; 0 without."""
        return self.dim if self.whitening else 0

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.float32)

    @property
    def dataset(self) -> Dataset | None:
        return self.features.dataset

    @property
    def files(self) -> tuple:
        return self.features.files

    @property
    def layer(self) -> str | None:
        return self.features.layer

    @property
    def column(self) -> str | None:
        return self.features.column

    def fingerprint(self) -> str:
        """Identifies the features and the map."""
        name = self.whitening.name if self.whitening else "as they are"
        return f"{self.features.fingerprint()} {name}"

    def apply(self, vectors) -> np.ndarray:
        """(n, dim) float32 of length 1, from (n, features.dim)."""
        if self.whitening is None:
            return unit(vectors)
        if len(vectors) <= _FEW:
            rows = np.asarray(vectors, np.float32)
            return unit((rows - self.whitening.mean) @ self.whitening.basis)
        with exact_float32():
            return self.whitening.apply(np.ascontiguousarray(vectors))

    def read(self, start, stop) -> np.ndarray:
        """(stop - start, dim) float32 of length 1: rows [start, stop)."""
        return self.apply(self.features.read(start, stop))

    def take(self, row_ids) -> np.ndarray:
        """(n, dim) float32 of length 1: the rows `row_ids`, in that order."""
        return self.apply(self.features.take(row_ids))

    def where(self, row_id) -> str:
        return self.features.where(row_id)


def folder_of(features) -> str:
    """Where what is computed from features is kept: `LAYER.index` beside their first file.

    Of files of another origin it has the file's name, and the column's where one was named.
    """
    folder, name = os.path.split(os.path.abspath(os.path.expanduser(features.files[0])))
    if features.layer:
        return os.path.join(folder, f"{features.layer}.index")
    column = re.sub(r"[^\w.-]", "_", f"-{features.column}") if features.column else ""
    return os.path.join(folder, f"{os.path.splitext(name)[0]}{column}.index")


def own_folder(features, folder) -> None:
    """Makes the folder, empty unless it belongs to these features."""
    atomic.reset_foreign(os.path.join(folder, "owner.json"), {"features": features.fingerprint()})


def _keep(features, dim, path) -> bool:
    """Makes sure that a file has the map; False where none can be written."""
    folder = os.path.dirname(path)
    try:
        own_folder(features, folder)
    except OSError as error:  # a read-only disk
        logging.info("%s cannot be written, so nothing is kept there: %s", folder, error)
        return False
    if not os.path.isfile(path):
        _fit(features, dim).save(path)
    return True


def _fit(features, dim) -> Whitening:
    count = min(features.rows, _SAMPLED)
    spread = np.linspace(0, features.rows - 1, count).astype(np.int64)
    sample, moments = Subset(features, spread), Moments(features.dim)
    step = max(1, (64 << 20) // (4 * features.dim))
    with Progress(count, "whitening", "rows") as progress:
        for start in range(0, count, step):
            block = sample.read(start, min(start + step, count))
            checked_finite(features, spread[start : start + step], block)
            moments.update(block)
            progress.update(len(block))
    return Whitening.fit(moments, ALONE, dim)
