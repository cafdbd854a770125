"""Pairs of rows whose features have a cosine of at least a threshold.

    for first, second in near_pairs(features, clusters, threshold=0.95): ...

Rows are compared with those of their own cluster and of the clusters next to it, a tile of rows
with a block of others at a time, on the device of TensorFlow, or by NumPy where there are few.
Memory depends on the sizes of tile and block only, also where very many rows are alike: a tile's
pairs are reduced to as many as connect the same rows.
"""

import collections
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from dc_tf.clustering.search.tensors import as_array, as_tensor, exact_float32, has_gpu
from dc_tf.curation.duplicates.groups import connecting
from dc_tf.curation.features.neighbours import unit

_TILE, _BLOCK = 2048, 8192  # rows
_CACHE_BYTES = 256 << 20  # of rows of clusters that are compared several times
_MANY = 10_000  # pairs that are worth reducing
_FEW = 1024  # rows that are compared sooner than TensorFlow is imported


def near_pairs(
    features, clusters, threshold, first=0, stop=None, others=None, progress=None
) -> Iterator:
    """Yields (first, second) int64 row ids of near pairs, or of pairs that connect the same rows.

    Args:
        features: Features.
        clusters: ClusterRows.
        threshold: least cosine.
        first, stop: clusters to compare with themselves and those above; all by default.
        others: `clusters.next_to(neighbours)`; None compares within clusters only.
        progress: Progress of rows, or None.
    """
    others = others or [np.empty(0, np.int64)] * clusters.k
    cache = _Rows(features, clusters)
    above = _above_by_numpy if clusters.starts[-1] <= _FEW else _above
    for cluster in range(first, clusters.k if stop is None else stop):
        count = int(clusters.starts[cluster + 1] - clusters.starts[cluster])
        for start in range(0, count, _TILE):
            blocks = _against(cache, clusters, cluster, start, others)
            yield from _pairs_of(blocks, threshold, above)
            if progress is not None:
                progress.update(min(_TILE, count - start))


def _pairs_of(blocks, threshold, above):
    """Near pairs of the first rows of the first block, a tile, with those after them."""
    tile, vectors, seen = None, None, 0
    for ids, rows in blocks:
        if tile is None:
            tile, vectors = ids[:_TILE], np.ascontiguousarray(rows[:_TILE])
        left, right = above(vectors, rows, threshold)
        later = right + seen > left  # each pair once, and no row with itself
        pairs = tile[left[later]], ids[right[later]]
        seen += len(ids)
        if len(pairs[0]):
            yield connecting(*pairs) if len(pairs[0]) > _MANY else pairs


def _above(a, b, threshold):
    """Positions (left, right) of products of rows that reach the threshold."""
    with exact_float32():
        products = tf.matmul(as_tensor(a), as_tensor(b), transpose_b=True)
    if has_gpu():  # only the few positions leave the device
        return tf.transpose(tf.where(products >= threshold)).numpy()
    return _places(as_array(products), threshold)


def _above_by_numpy(a, b, threshold):
    return _places(a @ b.T, threshold)


def _places(products, threshold):
    return np.divmod(np.flatnonzero(products.ravel() >= np.float32(threshold)), products.shape[1])


def _against(cache, clusters, cluster, start, others):
    """Yields (row ids, unit rows) to compare a tile with: the rest of its cluster, then others."""
    first, offset = divmod(start, _BLOCK)
    for ids, rows in cache.blocks(cluster, first):
        yield ids[offset:], rows[offset:]
        offset = 0
    waiting, count = [], 0
    for ids, rows in (block for other in others[cluster] for block in cache.blocks(other)):
        if count and count + len(ids) > _BLOCK:
            yield _joined(waiting)
            waiting, count = [], 0
        waiting.append((ids, rows))
        count += len(ids)
    if count:
        yield _joined(waiting)


def _joined(blocks):
    ids, rows = zip(*blocks, strict=True)
    return np.concatenate(ids), np.concatenate(rows)


class _Rows:
    """Unit rows of clusters, in blocks; those read last stay in memory up to a bound."""

    def __init__(self, features, clusters):
        self._features = features
        self._clusters = clusters
        self._kept = collections.OrderedDict()
        self._bytes = 0

    def blocks(self, cluster, first=0):
        """Yields (row ids, (n, dim) float32 unit rows) of a cluster, from block `first` on."""
        count = int(self._clusters.starts[cluster + 1] - self._clusters.starts[cluster])
        for number in range(first, -(-count // _BLOCK)):
            yield self._block(cluster, number)

    def _block(self, cluster, number):
        key = cluster, number
        if key not in self._kept:
            part = slice(number * _BLOCK, (number + 1) * _BLOCK)
            ids = self._clusters.rows_of(cluster, part)
            self._kept[key] = ids, unit(self._features.take(ids))
            self._bytes += self._kept[key][1].nbytes
        self._kept.move_to_end(key)
        while self._bytes > _CACHE_BYTES and len(self._kept) > 1:
            _, (_, rows) = self._kept.popitem(last=False)
            self._bytes -= rows.nbytes
        return self._kept[key]
