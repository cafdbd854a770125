"""Where k-means starts: rows drawn by their place in the world, alike on all workers.

layout = Layout.agree(points, comm)
centroids = drawn_rows(points, k, comm, layout, seed)
"""

import dataclasses
import hashlib

import numpy as np

from dc_tf.clustering import exchange
from dc_tf.errors import DataError


@dataclasses.dataclass(frozen=True)
class Layout:
    """Which rows are whose: positions run over the workers in rank order.

    Attributes:
        first: position of this worker's first row.
        total: rows of all workers.
    """

    first: int
    total: int

    @classmethod
    def agree(cls, points, comm) -> "Layout":
        """Tells the others what this worker has; DataError on all if the lengths differ."""
        shapes = np.zeros((2, comm.size), np.int64)
        shapes[:, comm.rank] = points.rows, points.dim
        rows, dims = comm.all_sum(shapes).numpy()
        if len(set(dims)) > 1:
            raise DataError(f"rows have {dims.tolist()} components on workers 0, 1, ...")
        return cls(first=int(rows[: comm.rank].sum()), total=int(rows.sum()))


def drawn_rows(points, count, comm, layout, seed) -> np.ndarray:
    """(count, dim) float32: rows at distinct positions, the same on any number of workers.

    Raises:
        DataError: on every worker, for a row that is not finite.
    """
    drawn = np.random.default_rng(seed).choice(layout.total, count, replace=False)
    local = drawn - layout.first
    mine = (0 <= local) & (local < points.rows)

    def my_part(block):
        part = np.zeros((block.stop - block.start, points.dim), np.float32)
        part[mine[block]] = points.take(local[block][mine[block]])
        return part

    rows = np.empty((count, points.dim), np.float32)
    for block, part in exchange.summed_blocks(count, 4 * points.dim, my_part, comm):
        rows[block] = part
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if bad.size:
        raise DataError(f"row {drawn[bad[0]]} is not finite.")
    return rows


def first_of_equals(centroids) -> np.ndarray:
    """(k,) bool: False where an earlier centroid has the same values."""
    seen = set()
    first = np.ones(len(centroids), bool)
    for i, centroid in enumerate(centroids + np.float32(0)):  # -0. and 0. are equal
        digest = hashlib.blake2b(centroid.tobytes(), digest_size=16).digest()
        first[i] = digest not in seen
        seen.add(digest)
    return first
