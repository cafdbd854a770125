"""PCA whitening of features in one pass, the same on every worker.

Each worker accumulates the first and second moments of its own rows; one d x d all-reduce gives
the covariance; the chief decomposes it and broadcasts the map. No row leaves its worker.

    moments = Moments.of(store)                      # or `update` with rows as they are made
    whitening = Whitening.fit(moments, comm, dim=256)
    store = whiten_store(store, whitening, path)     # without a path in place

Reference: Caron et al. 2019; eigenvalues floored at 1e-5 of the largest, rows L2-normalised.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os

import numpy as np
import tensorflow as tf

from dc_tf.atomic import write_file
from dc_tf.clustering.store.feature_store import FeatureStore
from dc_tf.clustering.store.in_place import map_in_place
from dc_tf.clustering.store.points import Points, chunks
from dc_tf.distributed import heartbeat
from dc_tf.distributed.blocks import summed_blocks
from dc_tf.errors import ConfigError, DataError

# Of rows in one product or in one chunk of the map.
_CHUNK_BYTES = 32 << 20
_MAX_BLOCK = 4096
_FLUSH_BYTES = 256 << 20
# Variance of the strongest direction, as a share of the mean square of the rows, below which the
# rows are equal as far as float16 features can tell.
_CONSTANT = 1e-10


class Moments:
    """Running mean and second moment of one worker's rows.

    Rows are multiplied in blocks of a fixed number, so the same rows give the same bits however
    they are divided into updates, and an extraction that resumes after row r starts from
    `Moments.of(store, r)`. All in float64: float32 products are twice as fast, but leave the
    weakest directions three digits, and next to the network that made the rows neither takes long.

    Args:
        dim: components of a row.
    """

    def __init__(self, dim: int):
        self.dim = dim
        self.rows = 0
        self._block = min(_MAX_BLOCK, max(1, _CHUNK_BYTES // (8 * dim)))
        self._waiting = []
        # Moments about a first guess of the mean: those about 0 would lose digits to it.
        self._shift = None
        self._first = np.zeros(dim)
        self._second = tf.Variable(tf.zeros((dim, dim), tf.float64), trainable=False)

    @classmethod
    def of(cls, points: Points, rows=None) -> Moments:
        """The moments of the first rows of `points`, by default of all."""
        moments = cls(points.dim)
        for _, block in chunks(points, moments._block, stop=rows):
            moments.update(block)
            heartbeat.beat("moments")
        return moments

    def update(self, rows) -> None:
        """Adds rows: (n, dim) floating array or tensor, as they are stored."""
        rows = np.asarray(rows)
        while len(rows):
            room = self._block - self.rows % self._block
            self._waiting.append(np.array(rows[:room]))
            self.rows += len(self._waiting[-1])
            rows = rows[room:]
            if self.rows % self._block == 0:
                self._add_waiting()

    def reduce(self, comm) -> tuple[int, np.ndarray, np.ndarray]:
        """Rows, (dim,) mean and (dim, dim) covariance of the group's rows, float64.

        No rows can be added afterwards.

        Raises:
            DataError: on every worker, for fewer than two rows or rows that are not finite.
        """
        self._add_waiting()
        off_shift = self._first / max(1, self.rows)
        mean = off_shift + (0.0 if self._shift is None else self._shift)
        total = comm.all_sum(np.append(mean * self.rows, float(self.rows))).numpy()
        rows = int(total[-1]) if np.isfinite(total[-1]) else 0
        if rows < 2:
            raise DataError(f"whitening needs at least 2 rows and has {rows}.")
        all_mean = total[:-1] / rows
        off_all = mean - all_mean

        def own_scatter(block):
            # About the common mean: S - n (m - s)(m - s)' + n (m - M)(m - M)'.
            scatter = self._second[block].numpy()
            if self.rows:
                scatter -= np.outer(self.rows * off_shift[block], off_shift)
                scatter += np.outer(self.rows * off_all[block], off_all)
            return scatter

        covariance = np.empty((self.dim, self.dim))
        for block, scatter in summed_blocks(self.dim, 8 * self.dim, own_scatter, comm):
            covariance[block] = scatter / rows
        if not np.isfinite(np.trace(covariance)) or not np.isfinite(all_mean).all():
            raise DataError("whitening needs finite features; some are not finite.")
        return rows, all_mean, covariance

    def _add_waiting(self):
        if not self._waiting:
            return
        rows, self._waiting = np.concatenate(self._waiting), []
        if self._shift is None:
            self._shift = np.mean(rows, axis=0, dtype=np.float64)
        self._first += _compiled(_add_moments)(rows, self._shift, self._second).numpy()


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
    def fit(cls, moments: Moments, comm, dim: int, floor: float = 1e-5) -> Whitening:
        """The map for the rows of all workers.

        At d_in = d_out = 4096, moments, this and the map in place together add 0.76 GB to the peak
        of the process (`benchmarks/feature_store.py`).

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
            with heartbeat.slow_operation("eigenvectors"):
                basis = _basis(covariance, dim, floor)
        return cls(mean.astype(np.float32), comm.broadcast(basis).numpy())

    @property
    def name(self) -> str:
        """A name derived from the values; `made_by` of a mapped store."""
        values = hashlib.blake2b(digest_size=8)
        for part in (self.mean, self.basis):
            values.update(np.ascontiguousarray(part, np.float32))
        return f"whitening {self.basis.shape[0]}x{self.basis.shape[1]} {values.hexdigest()}"

    def apply(self, x) -> np.ndarray:
        """(n, d_out) float32 whitened rows of L2 norm 1, from (n, d_in) floating ones.

        A row equal to the mean becomes zero.
        """
        return _compiled(_whiten)(x, self.mean, self.basis).numpy()

    def save(self, path) -> None:
        """Writes an `.npz` file, which is whole or absent, on a local disk."""
        write_file(path, lambda file: np.savez(file, mean=self.mean, basis=self.basis))

    @classmethod
    def load(cls, path) -> Whitening:
        """Reads what `save` wrote."""
        with np.load(path, allow_pickle=False) as data:
            return cls(data["mean"], data["basis"])


def whiten_store(store: FeatureStore, whitening: Whitening, path=None) -> FeatureStore:
    """Maps all rows, into the store at `path` (another one's) or, without it, in place.

    A repeated call with the same map resumes an interrupted one, and does nothing after a finished
    one. In place, d_out is d_in, and one block of rows is on the disk twice (see `map_in_place`).
    The rows before cannot be restored, so save the map first.

    Args:
        store: complete, or half mapped in place by an earlier call.
        whitening: the same on all workers.
        path: folder of the mapped rows. A store of an interrupted call, or an empty one of that
            shape, is continued; any other is replaced. None: in place.

    Raises:
        ConfigError: if the rows cannot stay in place, or `path` is that of `store`.
        DataError: if rows are missing or already mapped otherwise, or the disk has no space.
    """
    dim = whitening.basis.shape[1]
    chunk_rows = max(1, _CHUNK_BYTES // (4 * max(store.dim, dim)))
    if path is None:
        if dim != store.dim:
            raise ConfigError(f"rows of {store.dim} cannot become {dim} in place; give a path.")
        map_in_place(store, whitening.apply, whitening.name, chunk_rows)
        return store
    store.check_complete()
    if os.path.realpath(path) == os.path.realpath(store.path):
        raise ConfigError(f"{path} is the store itself; for a change in place give no path.")
    target = _target(path, store, whitening)
    flush_rows = chunk_rows * max(1, _FLUSH_BYTES // (chunk_rows * dim * target.dtype.itemsize))
    # In whole chunks from the first row: a row's last digits can depend on its neighbours.
    done = target.written
    done -= done % chunk_rows if done < target.rows else 0
    for start, rows in chunks(store, chunk_rows, done):
        target.write(start, whitening.apply(rows))
        heartbeat.beat("whiten")
        if target.written % flush_rows == 0:
            target.flush()
    target.flush()
    return target


def _target(path, store, whitening):
    """The store for the mapped rows, as an interrupted call left it or empty."""
    kind = (store.rows, whitening.basis.shape[1], store.first_row)
    try:
        target = FeatureStore.open(path)
        if (target.rows, target.dim, target.first_row) == kind and target.dtype == store.dtype:
            if target.made_by == whitening.name or not target.written:
                target.made_by = whitening.name
                return target
    except DataError:  # none, or a corrupt one
        pass
    return FeatureStore.create(path, *kind, store.dtype, whitening.name)


def _basis(covariance, dim, floor):
    """(d_in, dim) float32: eigenvectors over the square roots of their eigenvalues.

    Overwrites the covariance. LAPACK's divide and conquer takes two more matrices of that
    size, and 5 s for 4096 x 4096 on 2 idle cores; "evr" takes one, and 165 s.
    """
    import scipy.linalg  # takes a fifth of a second to import; what applies it does without

    # Transposed, since LAPACK works in place on columns; the matrix is symmetric.
    values, vectors = scipy.linalg.eigh(
        covariance.T, overwrite_a=True, check_finite=False, driver="evd"
    )
    values, vectors = values[::-1][:dim], vectors[:, ::-1][:, :dim]
    signs = np.where(vectors.max(axis=0) >= -vectors.min(axis=0), 1.0, -1.0)
    vectors *= signs / np.sqrt(np.maximum(values, floor * values[0]))
    return np.ascontiguousarray(vectors, np.float32)


@functools.cache
def _compiled(function):
    """Made at the first call: commands that only read files import this module, too."""
    return tf.function(function, reduce_retracing=True)


def _add_moments(rows, shift, second):
    """Adds the products of rows about `shift` to `second`; (dim,) float64 sum about it."""
    x = tf.cast(rows, tf.float64) - shift
    second.assign_add(tf.matmul(x, x, transpose_a=True))
    return tf.reduce_sum(x, 0)


def _whiten(x, mean, basis):
    y = tf.matmul(tf.cast(x, tf.float32) - mean, basis)
    # The basis can be large; float32 squares are safe, and a zero row stays zero.
    return tf.math.l2_normalize(y, axis=1, epsilon=1e-30)
