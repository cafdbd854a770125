"""A tree of clusters over rows, and how a number of rows is divided over its branches.

    tree = Tree(labels=(N,), parents=((k1,), (k2,)))     # three levels: k1 clusters, k2, k3
    tree.shares(target=10_000, sizes=tree.sizes(), rng=np.random.default_rng(0))        # (k1,)

A flat clustering is a tree of one level.
"""

import dataclasses

import numpy as np

from dc_tf.curation.tree.water_filling import even_shares

_BLOCK = 1 << 22  # rows


@dataclasses.dataclass(frozen=True)
class Tree:
    """Clusters of rows, clusters of those, and so on.

    Attributes:
        labels: (N,) int32, the cluster of each row on the lowest level; -1 for a row in none.
        parents: for each further level, the cluster on it of each cluster of the level below, (k,)
            int32; -1 for a cluster without rows.
        distances: (N,) float32 of each row to the centroid of its cluster; None if not known.
    """

    labels: np.ndarray
    parents: tuple[np.ndarray, ...] = ()
    distances: np.ndarray | None = None

    @property
    def clusters(self) -> int:
        """Number of clusters on the lowest level."""
        if self.parents:
            return len(self.parents[0])
        return int(self.labels.max(initial=-1)) + 1

    def sizes(self, kept=None) -> np.ndarray:
        """(k,) int64 rows of each cluster of the lowest level.

        Args:
            kept: (N,) bool, the rows that count; None: all.
        """
        return self._per_cluster(kept, None, np.int64)

    def distance_sums(self, kept) -> np.ndarray:
        """(k,) float64 sums of the distances of the rows that `kept`, (N,) bool, marks."""
        return self._per_cluster(kept, self.distances, np.float64)

    def _per_cluster(self, kept, weights, dtype):
        """(k,) sums over the rows of each cluster, a part of the rows at a time."""
        found = np.zeros(self.clusters, dtype)
        for start in range(0, len(self.labels), _BLOCK):
            rows = slice(start, start + _BLOCK)
            counts = self.labels[rows] >= 0
            if kept is not None:
                counts = counts & kept[rows]
            own = None if weights is None else weights[rows][counts]
            labels = self.labels[rows][counts]
            found += np.bincount(labels, own, minlength=len(found)).astype(dtype)
        return found

    def shares(self, target, sizes, rng) -> np.ndarray:
        """Rows to take from each cluster of the lowest level, so that branches get even shares.

        From the top down, each node divides its share over its children by `even_shares`.

        Args:
            target: rows to take together.
            sizes: (k,) int64, as of `sizes`.
            rng: np.random.Generator.

        Returns:
            (k,) int64 of sum `min(target, sum(sizes))`.
        """
        levels = [np.asarray(sizes, np.int64)]
        # Of the level above; of the top, those that it has.
        clusters = [*(len(parents) for parents in self.parents), 0][1:]
        for parents, count in zip(self.parents, clusters, strict=True):
            has_rows = parents >= 0
            sums = np.bincount(parents[has_rows], levels[-1][has_rows], count)
            levels.append(sums.astype(np.int64))
        shares = even_shares(levels[-1], target, rng)
        for parents, below in zip(reversed(self.parents), reversed(levels[:-1]), strict=True):
            shares = _divide(shares, parents, below, rng)
        return shares


def _divide(shares, parents, sizes, rng):
    """(k,) shares of the children of nodes that have `shares`."""
    found = np.zeros(len(parents), np.int64)
    order = np.argsort(parents, kind="stable")
    nodes, starts = np.unique(parents[order], return_index=True)
    for node, children in zip(nodes, np.split(order, starts[1:]), strict=True):
        if node >= 0:
            found[children] = even_shares(sizes[children], shares[node], rng)
    return found
