"""Rules that choose rows by their cluster: outliers, sparse and rare clusters, quotas, balance.

    selection = Selection(tree, seed=0, choice="random")
    selection.drop_outliers(0.01)
    selection.balance(target=10_000)
    selection.row_ids(), selection.steps

Each rule acts on the rows that the ones before have left.
"""

import numpy as np

_ROWS_AT_ONCE = 1 << 22


class Selection:
    """Rows that are left, and how many each rule has left.

    Attributes:
        kept: (N,) bool.
        steps: list of dict of rule (str) and rows (int), in the order of the rules.
        tree: Tree of the rows, which rules by cluster need; may be set after the others.
    """

    def __init__(self, rows, tree=None, seed=0, choice="random"):
        """Starts with all rows.

        Args:
            rows: int, N.
            tree: Tree of these rows, None for rules that need none.
            seed: of what is drawn.
            choice: which rows of a cluster are taken, "random" or "nearest" to its centroid.
        """
        self.kept = np.ones(rows, bool)
        self.steps = []
        self.tree, self._seed, self._choice = tree, seed, choice

    def row_ids(self) -> np.ndarray:
        """(n,) int64 ids of the rows that are left, ascending."""
        return np.flatnonzero(self.kept)

    def keep(self, rule, mask) -> None:
        """Drops the rows that `mask`, (N,) bool, does not mark."""
        self.kept &= mask
        self.steps.append({"rule": rule, "rows": int(self.kept.sum())})

    def drop_outliers(self, share) -> None:
        """Drops this share of the rows, those farthest from the centroid of their cluster."""
        count = int(share * np.count_nonzero(self.kept))
        if not count:
            self.keep("drop_outliers", True)
            return
        distances = np.where(self.kept, self.tree.distances, np.float32(-1))
        bound = np.partition(distances, -count)[-count]
        outliers = distances > bound
        ties = np.flatnonzero(distances == bound)
        outliers[ties[: count - np.count_nonzero(outliers)]] = True
        self.keep("drop_outliers", ~outliers)

    def drop_sparsest(self, share) -> None:
        """Drops whole clusters of at most this share of the rows: those spread the widest."""
        sizes = self.tree.sizes(self.kept)
        spread = self.tree.distance_sums(self.kept) / np.maximum(sizes, 1)
        self._drop_clusters("drop_sparsest", np.argsort(-spread, kind="stable"), sizes, share)

    def drop_rarest(self, share) -> None:
        """Drops whole clusters of at most this share of the rows: the smallest."""
        sizes = self.tree.sizes(self.kept)
        self._drop_clusters("drop_rarest", np.argsort(sizes, kind="stable"), sizes, share)

    def at_most(self, count) -> None:
        """Keeps at most so many rows of each cluster."""
        quotas = np.minimum(self.tree.sizes(self.kept), count)
        self._take("max_per_cluster", quotas)

    def balance(self, target) -> None:
        """Keeps `target` rows, of which the branches of the tree have even shares."""
        rng = np.random.default_rng(self._seed)
        shares = self.tree.shares(target, self.tree.sizes(self.kept), rng)
        self._take("target", shares)

    def _take(self, rule, quotas):
        """Keeps so many rows of each cluster, (k,) int64."""
        mask = np.zeros(len(self.kept), bool)
        for clusters in _ranges(self.tree.sizes(self.kept)):
            mask[self._chosen(clusters, quotas[clusters.start : clusters.stop])] = True
        self.keep(rule, mask)

    def _chosen(self, clusters, quotas):
        """(n,) int64 rows of a range of clusters, as many of each as its quota."""
        from dc_tf.curation.tree.choose_rows import as_keys, random_keys, smallest_in_clusters

        labels = self.tree.labels
        rows = np.flatnonzero(self.kept & (labels >= clusters.start) & (labels < clusters.stop))
        if self._choice == "nearest":
            keys = as_keys(self.tree.distances[rows])
        else:
            keys = random_keys(rows, self._seed)
        return rows[smallest_in_clusters(labels[rows] - clusters.start, keys, quotas)]

    def _drop_clusters(self, rule, order, sizes, share):
        """Drops the first clusters of an order, as many as the share of the rows allows."""
        stays = np.ones(len(sizes) + 1, bool)  # the last one is for label -1
        stays[order[np.cumsum(sizes[order]) <= share * sizes.sum()]] = False
        self.keep(rule, stays[self.tree.labels])


def _ranges(sizes):
    """Yields ranges of clusters that have about `_ROWS_AT_ONCE` rows together, or one cluster."""
    parts = np.cumsum(sizes) // _ROWS_AT_ONCE
    starts = np.unique(parts, return_index=True)[1].tolist()
    yield from (range(*ends) for ends in zip(starts, [*starts[1:], len(sizes)], strict=True))
