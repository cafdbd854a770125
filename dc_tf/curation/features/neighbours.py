"""The rows of highest cosine to some vectors, by comparison with every row.

    found = nearest_rows(features, vectors, count=10)
    found.rows, found.cosines          # (n, 10) each

Rows are read once, in blocks, so memory does not depend on their number. Products are faiss's,
exact in float32, on all cores.
"""

import logging
import typing
from collections.abc import Iterator

import numpy as np

from dc_tf.clustering.store.points import chunks
from dc_tf.distributed import stop_request
from dc_tf.errors import DataError
from dc_tf.progress import Progress

# faiss logs each instruction set that its wheel was not built for.
logging.getLogger("faiss.loader").setLevel(logging.WARNING)

BLOCK_BYTES = 64 << 20  # of float32 rows
_QUERIES = 4096  # at once, in each block


class Neighbours(typing.NamedTuple):
    """Nearest rows of n vectors.

    Attributes:
        rows: (n, count) int64 row ids, the nearest first; of equal cosines the lower row first.
            -1 where there are fewer rows than `count`.
        cosines: (n, count) float32 in [-1, 1], descending; -inf where there is no row.
    """

    rows: np.ndarray
    cosines: np.ndarray


def nearest_rows(features, vectors, count, what="search") -> Neighbours:
    """Compares vectors with every row.

    Args:
        features: Features, or other points.
        vectors: (n, dim) float array.
        count: rows to find for each.
        what: title of the progress; None shows none.

    Raises:
        DataError: a row is not finite; names it.
        Preempted: the process was asked to stop.
    """
    import faiss  # slow to import

    vectors = unit(vectors)
    best = _none(len(vectors), count)
    with Progress(features.rows, what or "search", "rows", enabled=what is not None) as progress:
        for start, block in unit_blocks(features):
            for first in range(0, len(vectors), _QUERIES):
                part = slice(first, first + _QUERIES)
                cosines, places = faiss.knn(
                    vectors[part],
                    block,
                    min(count, len(block)),
                    metric=faiss.METRIC_INNER_PRODUCT,
                )
                best.rows[part], best.cosines[part] = _merged(
                    [best.rows[part], start + places], [best.cosines[part], cosines], count
                )
            progress.update(len(block))
            stop_request.raise_if_requested("nothing was saved")
    np.clip(best.cosines, None, 1, out=best.cosines)
    return best


def without_row(found, own, count) -> Neighbours:
    """Leaves out the row that a vector is itself, and what is beyond `count`.

    Args:
        found: Neighbours of n vectors.
        own: (n,) int64 row ids; -1 of a vector that is no row.
    """
    is_other = found.rows != np.asarray(own)[:, None]
    is_other |= found.rows < 0
    order = np.argsort(~is_other, axis=1, kind="stable")[:, :count]
    return Neighbours(*(np.take_along_axis(array, order, 1) for array in found))


def unit_blocks(features, start=0, stop=None) -> Iterator:
    """Yields (first row, (n, dim) float32 block of rows scaled to length 1), in order.

    Raises:
        DataError: a row is not finite; names it.
    """
    rows = max(1, BLOCK_BYTES // (4 * features.dim))
    for first, block in chunks(features, rows, start, stop):
        checked_finite(features, range(first, first + len(block)), block)
        yield first, unit(block)


def checked_finite(features, row_ids, block) -> None:
    """Refuses rows that are not finite.

    Raises:
        DataError: names the first such row.
    """
    finite = np.isfinite(block.sum(1, dtype=np.float64))
    if not finite.all():
        where = features.where(int(row_ids[int(np.argmin(finite))]))
        raise DataError(f"{where} is not finite; embed it again, or leave it out.")


def unit(vectors) -> np.ndarray:
    """(n, dim) float32, C-ordered: the vectors scaled to length 1; zeros stay zeros."""
    vectors = np.array(vectors, np.float32, order="C")
    lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))
    vectors /= np.where(lengths > 0, lengths, 1).astype(np.float32)[:, None]
    return vectors


def best_of(rows, cosines, count) -> Neighbours:
    """The `count` best of (n, m) candidates by descending cosine, then ascending row."""
    order = np.lexsort((rows, -cosines))[:, :count]
    return Neighbours(np.take_along_axis(rows, order, 1), np.take_along_axis(cosines, order, 1))


def _none(n, count):
    return Neighbours(np.full((n, count), -1, np.int64), np.full((n, count), -np.inf, np.float32))


def _merged(rows, cosines, count):
    return best_of(np.concatenate(rows, axis=1), np.concatenate(cosines, axis=1), count)
