"""Rules that choose rows by their cluster: outliers, sparse and rare clusters, quotas, balance.

    selection = Selection(tree, seed=0, choice="random")
    selection.drop_outliers(0.01)
    selection.balance(target=10_000)
    selection.row_ids(), selection.steps

Each rule acts on the rows that the ones before have left.
"""

import numpy as np


class Selection:
    """Rows that are left, and how many each rule has left.

    Attributes:
        kept: (N,) bool.
        steps: list of dict of rule (str) and rows (int), in the order of the rules.
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
        self._tree, self._seed, self._choice = tree, seed, choice

    def row_ids(self) -> np.ndarray:
        """(n,) int64 ids of the rows that are left, ascending."""
        return np.flatnonzero(self.kept)

    def keep(self, rule, mask) -> None:
        """Keeps the rows that `mask` (N,) bool marks, too."""
        self.kept &= mask
        self.steps.append({"rule": rule, "rows": int(self.kept.sum())})

    def drop_outliers(self, share) -> None:
        """Drops this share of the rows, those farthest from the centroid of their cluster."""
        rows = self.row_ids()
        count = int(share * len(rows))
        order = np.argsort(-self._tree.distances[rows], kind="stable")
        self._drop("drop_outliers", rows[order[:count]])

    def drop_sparsest(self, share) -> None:
        """Drops whole clusters of at most this share of the rows: those spread the widest."""
        rows = self.row_ids()
        labels = self._tree.labels[rows]
        sizes = self._tree.sizes(self.kept)
        sums = np.bincount(labels, self._tree.distances[rows], len(sizes))
        spread = sums / np.maximum(sizes, 1)
        self._drop_clusters("drop_sparsest", np.argsort(-spread, kind="stable"), sizes, share)

    def drop_rarest(self, share) -> None:
        """Drops whole clusters of at most this share of the rows: the smallest."""
        sizes = self._tree.sizes(self.kept)
        self._drop_clusters("drop_rarest", np.argsort(sizes, kind="stable"), sizes, share)

    def at_most(self, count) -> None:
        """Keeps at most so many rows of each cluster."""
        quotas = np.minimum(self._tree.sizes(self.kept), count)
        self._take("max_per_cluster", quotas)

    def balance(self, target) -> None:
        """Keeps `target` rows, of which the branches of the tree have even shares."""
        rng = np.random.default_rng(self._seed)
        shares = self._tree.shares(target, self._tree.sizes(self.kept), rng)
        self._take("target", shares)

    def _take(self, rule, quotas):
        """Keeps so many rows of each cluster, (k,) int64."""
        from dc_tf.curation.choose_rows import as_keys, random_keys, smallest_in_clusters

        rows = self.row_ids()
        labels = np.asarray(self._tree.labels[rows])
        if self._choice == "nearest":
            keys = as_keys(self._tree.distances[rows])
        else:
            keys = random_keys(rows, self._seed)
        mask = np.zeros(len(self.kept), bool)
        mask[rows[smallest_in_clusters(labels, keys, quotas)]] = True
        self.keep(rule, mask)

    def _drop_clusters(self, rule, order, sizes, share):
        """Drops the first clusters of an order, as many as the share of the rows allows."""
        allowed = share * sizes.sum()
        dropped = order[np.cumsum(sizes[order]) <= allowed]
        rows = self.row_ids()
        self._drop(rule, rows[np.isin(self._tree.labels[rows], dropped)])

    def _drop(self, rule, rows):
        mask = np.ones(len(self.kept), bool)
        mask[rows] = False
        self.keep(rule, mask)
