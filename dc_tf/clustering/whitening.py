"""PCA whitening of features in one stream, the same on every worker.

Every worker adds up the first and second moments of its own rows; one d x d sum over the group
gives the covariance; rank 0 decomposes it and broadcasts the map. No row leaves its worker.

    moments = Moments(store.dim)
    for _, block in store.chunks(4096):
        moments.update(block)
    whitening = Whitening.fit(moments, comm, dim=256)
    white = whiten_store(store, whitening, path)

Reference: Caron et al. 2019; eigenvalues floored at 1e-5 of the largest, rows L2-normalised.
"""

import dataclasses
import io

import numpy as np
import tensorflow as tf

from dc_tf.clustering import exchange
from dc_tf.clustering.feature_store import FeatureStore
from dc_tf.errors import ConfigError, DataError

_CHUNK_BYTES = 64 << 20
# Variance of the strongest direction, as a share of the mean square of the rows, below which the
# rows are equal as far as float16 features can tell.
_CONSTANT = 1e-10


class Moments:
    """Running mean and second moment of one worker's rows, in float64.

    Args:
        dim: components of a row.
    """

    def __init__(self, dim: int):
        self.dim = dim
        self.rows = 0
        # Moments about a first guess of the mean: those about 0 would lose digits to it.
        self._shift = np.zeros(dim)
        self._first = np.zeros(dim)
        self._second = tf.zeros((dim, dim), tf.float64)

    def update(self, chunk):
        """Adds rows: (n, dim) floating array or tensor."""
        chunk = tf.cast(chunk, tf.float64)
        if not len(chunk):
            return
        if not self.rows:
            self._shift = tf.reduce_mean(chunk, 0).numpy()
        step = max(1, _CHUNK_BYTES // (8 * self.dim))
        for start in range(0, len(chunk), step):
            first, self._second = _add_moments(
                chunk[start : start + step], self._shift, self._second
            )
            self._first += first.numpy()
        self.rows += len(chunk)

    def reduce(self, comm) -> tuple[int, np.ndarray, np.ndarray]:
        """Rows, (dim,) mean and (dim, dim) covariance of the group's rows, float64.

        Raises:
            DataError: on every worker, for fewer than two rows or rows that are not finite.
        """
        mean = self._shift + self._first / max(1, self.rows)
        total = comm.all_sum(np.append(mean * self.rows, float(self.rows))).numpy()
        rows = int(total[-1]) if np.isfinite(total[-1]) else 0
        if rows < 2:
            raise DataError(f"whitening needs at least 2 rows and has {rows}.")
        all_mean = total[:-1] / rows
        # About the common mean: S - n (m - s)(m - s)' + n (m - M)(m - M)'.
        scatter = self._second.numpy()
        if self.rows:
            scatter -= np.outer(self._first, self._first / self.rows)
            scatter += self.rows * np.outer(mean - all_mean, mean - all_mean)
        covariance = exchange.all_sum_array(scatter, comm)
        covariance /= rows
        if not np.isfinite(covariance).all() or not np.isfinite(all_mean).all():
            raise DataError("whitening met features that are not finite.")
        return rows, all_mean, covariance


@dataclasses.dataclass(frozen=True)
class Whitening:
    """Affine map to decorrelated features of variance 1, `(x - mean) @ basis`, then L2 norm 1.

    Every worker holds the same values. Only `fit` communicates.

    Attributes:
        mean: (d_in,) float32.
        basis: (d_in, d_out) float32, strongest direction first; in each column the component of
            largest size is positive.
    """

    mean: np.ndarray
    basis: np.ndarray

    @classmethod
    def fit(cls, moments: Moments, comm, dim: int, floor: float = 1e-5) -> "Whitening":
        """The map for the rows of all workers.

        Args:
            moments: of this worker's own rows, which may be none; not reduced yet.
            comm: the group.
            dim: d_out, directions to keep, at most d_in.
            floor: eigenvalues are taken to be at least this share of the largest.

        Raises:
            ConfigError: for a dim that is not in [1, d_in].
            DataError: if rows are not finite, fewer than 2, or all equal (a collapsed network).
        """
        if not 1 <= dim <= moments.dim:
            raise ConfigError(f"dim={dim}; features of {moments.dim} allow 1 to {moments.dim}.")
        rows, mean, covariance = moments.reduce(comm)
        if np.trace(covariance) <= _CONSTANT * (mean @ mean):
            raise DataError(
                f"all {rows} rows of features are equal: the network has collapsed; "
                "lower the learning rate or start from a pre-trained network."
            )
        # Broadcast, since two kinds of CPU need not agree on the last digits or on the sign.
        basis = np.zeros((moments.dim, dim), np.float32)
        if comm.rank == 0:
            basis = _basis(covariance, dim, floor)
        return cls(mean.astype(np.float32), comm.broadcast(basis).numpy())

    def apply(self, x) -> np.ndarray:
        """(n, d_out) float32 whitened rows of L2 norm 1, from (n, d_in) floating ones.

        A row equal to the mean becomes zero.
        """
        return _whiten(x, self.mean, self.basis).numpy()

    def save(self, path):
        """Writes an `.npz` file, which is complete or absent."""
        data = io.BytesIO()
        np.savez(data, mean=self.mean, basis=self.basis)
        aside = f"{path}.tmp"
        with tf.io.gfile.GFile(aside, "wb") as file:
            file.write(data.getvalue())
        tf.io.gfile.rename(aside, path, overwrite=True)

    @classmethod
    def load(cls, path) -> "Whitening":
        """Reads what `save` wrote."""
        with tf.io.gfile.GFile(path, "rb") as file:
            data = np.load(io.BytesIO(file.read()), allow_pickle=False)
        return cls(data["mean"], data["basis"])


def whiten_store(store: FeatureStore, whitening: Whitening, path=None) -> FeatureStore:
    """Maps all rows, into a new store at `path` (another one's) or, without it, in place.

    In place takes no more disk, but needs d_out = d_in; if it is interrupted the store says that
    nothing is written, and its rows have to be extracted again.

    Raises:
        ConfigError: if the rows cannot stay in place.
        DataError: if `store` is not complete, or the disk has too little space.
    """
    dim = whitening.basis.shape[1]
    store.check_complete()
    if path is not None:
        target = FeatureStore.create(path, store.rows, dim, store.first_row, store.dtype)
    elif dim == store.dim:
        target = store
        target.forget()
    else:
        raise ConfigError(f"rows of {store.dim} cannot become {dim} in place; give a path.")
    step = max(1, _CHUNK_BYTES // (4 * store.dim))
    for start in range(0, store.rows, step):
        block = store.read(start, min(start + step, store.rows))
        target.write(start, whitening.apply(block))
    target.flush()
    return target


def _basis(covariance, dim, floor):
    """(d_in, dim) float32: eigenvectors over the square roots of their eigenvalues."""
    values, vectors = np.linalg.eigh(covariance)
    values, vectors = values[::-1][:dim], vectors[:, ::-1][:, :dim]
    largest = np.argmax(np.abs(vectors), axis=0)
    signs = np.sign(vectors[largest, np.arange(dim)])
    return (vectors * (signs / np.sqrt(np.maximum(values, floor * values[0])))).astype(np.float32)


@tf.function(reduce_retracing=True)
def _add_moments(chunk, shift, second):
    x = chunk - shift
    return tf.reduce_sum(x, 0), second + tf.matmul(x, x, transpose_a=True)


@tf.function(reduce_retracing=True)
def _whiten(x, mean, basis):
    y = tf.matmul(tf.cast(x, tf.float32) - mean, basis)
    # The basis can be large; float32 squares are safe, and a zero row stays zero.
    return tf.math.l2_normalize(y, axis=1, epsilon=1e-30)
