"""Draws the images of each super-class in an epoch, as a pure function of assignments and seeds.

All workers compute the same epoch and take their own part of it, so the global batch of step t is
the same set of (image, rotation, augmentation seed) for any number of workers.

    sampler = Sampler(dataset.rows, plan, assignments.cluster, assignments.sub, seed=0, stage=1)
    draws = sampler.epoch(7, rank=3)     # this worker's images of epoch 7, in order of its steps
"""

import numpy as np

from dc_tf.data.input.draws import Draws
from dc_tf.errors import DataError
from dc_tf.seeds import derive, mix


class Sampler:
    """Draws images uniformly over the non-empty sub-clusters of each cluster.

    Args:
        rows: N.
        plan: BatchPlan.
        cluster: (N,) integer cluster of each row, or None for a single cluster.
        sub: (N,) integer sub-cluster of each row within its cluster, or None without sub-clusters;
            with C clusterings (N, C), of which the first determines what is drawn.
        seed: of the experiment.
        stage: index of the stage; stages draw differently.
        of_images: draw uniformly over the images of each cluster instead.
    """

    def __init__(self, rows, plan, cluster=None, sub=None, seed=0, stage=0, of_images=False):
        self._rows = rows
        self._plan = plan
        self._cluster = cluster
        self._sub = sub
        self._seed = (seed, stage)
        self._of_images = of_images

    @property
    def steps(self) -> int:
        """Steps per epoch."""
        return self._plan.steps(self._rows)

    def epoch(self, epoch: int, rank: int) -> Draws:
        """The draws of worker `rank` in epoch `epoch` of the stage, step by step.

        Within a step they are grouped by served super-class, `plan.per_served` images each.

        Raises:
            DataError: a cluster has no images.
        """
        served = self._plan.topology.served(rank)
        parts = [self._super_class(epoch, s, rank) for s in served]
        # Each part is (steps, per_served, ...); a step holds its rows of all parts.
        return Draws(*(self._interleave(columns) for columns in zip(*parts, strict=True)))

    def _super_class(self, epoch, super_class, rank) -> Draws:
        """The part of worker `rank` in the epoch of one super-class."""
        plan = self._plan
        cluster, rotation = divmod(super_class, plan.rotations)
        # With `together`, all rotations share the draws and the crops of the cluster.
        stream = (epoch, cluster, 0 if plan.together else rotation)
        rows, sub = self._rows_of(cluster, stream)
        positions = np.arange(len(rows)).reshape(self.steps, plan.per_super_class)
        start = plan.topology.position(rank) * plan.per_served
        mine = positions[:, start : start + plan.per_served].ravel()
        return Draws(
            row=rows[mine],
            rotation=np.full(len(mine), rotation * (4 // plan.rotations), np.int32),
            super_id=np.full(len(mine), super_class, np.int32),
            sub_id=sub[mine].astype(np.int32),
            seed=augmentation_seeds(derive("augment", *self._seed, *stream), rows[mine], mine),
        )

    def _rows_of(self, cluster, stream):
        """(n,) int64 rows and (n,) or (n, C) sub-clusters of one super-class's epoch, in order."""
        if self._cluster is None:
            members = np.arange(self._rows, dtype=np.int64)
        else:
            members = np.flatnonzero(np.asarray(self._cluster) == cluster)
        if not len(members):
            raise DataError(
                f"cluster {cluster} has no images; use fewer clusters than {self._plan.clusters}."
            )
        zeros = np.zeros(len(members), np.int32)
        sub = zeros if self._sub is None else np.asarray(self._sub)[members]
        random = np.random.default_rng(derive("draws", *self._seed, *stream))
        first = zeros if self._of_images else sub if sub.ndim == 1 else sub[:, 0]
        picks = draw_uniformly(first, self.steps * self._plan.per_super_class, random)
        return members[picks], sub[picks]

    def _interleave(self, columns) -> np.ndarray:
        shape = (self.steps, self._plan.per_served)
        steps = [c.reshape(*shape, *c.shape[1:]) for c in columns]
        joined = np.concatenate(steps, axis=1)
        return joined.reshape(-1, *joined.shape[2:])


def draw_uniformly(sub_ids, size, random) -> np.ndarray:
    """Draws positions in `sub_ids`, uniform over the non-empty clusters.

    Each of the c non-empty clusters gives ceil(size / c) draws, without replacement if it has that
    many rows and with replacement otherwise; the draws are shuffled and cut to `size`.

    Args:
        sub_ids: (n,) non-negative integer cluster of each row; 1 <= n < 2**32.
        size: number of draws.
        random: np.random.Generator.

    Returns:
        (size,) int64.

    Reference: Caron et al. 2019, section 3.3; uniform sampling is Caron et al. 2018, section 3.3.
    """
    counts = np.bincount(sub_ids)
    starts = (np.cumsum(counts) - counts)[counts > 0]
    counts = counts[counts > 0]
    shuffled = random.permutation(np.arange(len(sub_ids), dtype=np.uint32))
    grouped = _grouped(sub_ids, shuffled) if len(counts) > 1 else shuffled
    draws = draws_per_cluster(size, len(counts))
    offsets = np.tile(np.arange(draws), (len(counts), 1))
    small = counts < draws
    offsets[small] = random.integers(0, counts[small, None], (small.sum(), draws))
    picks = grouped[(starts[:, None] + offsets).ravel()].astype(np.int64)
    random.shuffle(picks)
    return picks[:size]


def draws_per_cluster(size, clusters) -> int:
    """Draws per non-empty cluster that make at least `size` draws in total."""
    return -(-size // clusters)


def _grouped(sub_ids, shuffled) -> np.ndarray:
    """`shuffled` (n,) uint32 positions in `sub_ids`, stably sorted by cluster."""
    # Cluster and position as one integer, sorted in place: at tens of millions of rows a stable
    # argsort takes nearly twice the time and more memory.
    keys = sub_ids[shuffled].astype(np.uint64)
    keys <<= 32
    keys |= np.arange(len(keys), dtype=np.uint32)
    keys.sort()
    places = keys.astype(np.uint32)  # the lower half
    del keys
    return shuffled[places]


def augmentation_seeds(seed, rows, positions) -> np.ndarray:
    """(n, 2) int32 seeds, a hash of `seed`, the row and its position in the epoch.

    The position is included so that repeated draws of an image in one epoch are augmented
    differently.
    """
    hashed = mix(mix(np.uint64(seed) + rows.astype(np.uint64)) + positions.astype(np.uint64))
    return hashed.view(np.int32).reshape(-1, 2)
