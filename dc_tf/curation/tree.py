"""A tree of clusters over rows, and how a number of rows is divided over its branches.

    tree = Tree(labels=(N,), parents=((k1,), (k2,)))     # three levels: k1 clusters, k2, k3
    tree.shares(target=10_000, sizes=tree.sizes(), rng=np.random.default_rng(0))        # (k1,)

A flat clustering is a tree of one level.
"""

import dataclasses

import numpy as np

from dc_tf.curation.water_filling import even_shares


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
        labels = self.labels if kept is None else self.labels[kept]
        return np.bincount(labels[labels >= 0], minlength=self.clusters)

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
        clusters = [len(parents) for parents in self.parents[1:]] + [0]  # the top: those it has
        for parents, count in zip(self.parents, clusters):
            has_rows = parents >= 0
            sums = np.bincount(parents[has_rows], levels[-1][has_rows], count)
            levels.append(sums.astype(np.int64))
        shares = even_shares(levels[-1], target, rng)
        for parents, below in zip(reversed(self.parents), reversed(levels[:-1])):
            shares = _divide(shares, parents, below, rng)
        return shares


def _divide(shares, parents, sizes, rng):
    """(k,) shares of the children of nodes that have `shares`."""
    found = np.zeros(len(parents), np.int64)
    order = np.argsort(parents, kind="stable")
    nodes, starts = np.unique(parents[order], return_index=True)
    for node, children in zip(nodes, np.split(order, starts[1:])):
        if node >= 0:
            found[children] = even_shares(sizes[children], shares[node], rng)
    return found
