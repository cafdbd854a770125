"""Composition of the global batch and its partition over workers."""

import dataclasses

from dc_tf.distributed.topology import Topology


@dataclasses.dataclass(frozen=True)
class BatchPlan:
    """Composition of the global batch and its partition over workers.

    Super-class s = cluster * rotations + rotation; every super-class has the same number of images
    in every batch.

    Attributes:
        clusters, rotations: m and R; S = m * R super-classes.
        batch_size: images per step over all workers.
        together: whether the R rotations of an image are in the same batch (one cluster only).
        topology: which worker serves which super-classes.

    Raises:
        ConfigError: the batch does not split evenly.
    """

    clusters: int
    rotations: int
    batch_size: int
    topology: Topology
    together: bool = False

    def __post_init__(self):
        self.topology.images_per_super_class(self.batch_size)

    @property
    def per_super_class(self) -> int:
        """Images of one super-class in a global batch."""
        return self.batch_size // self.topology.super_classes

    @property
    def per_served(self) -> int:
        """Images of one super-class in the batch of a worker that serves it."""
        return self.per_super_class // self.topology.workers_per_super_class

    @property
    def per_worker(self) -> int:
        """Images per worker and step, divided equally among the super-classes that it serves."""
        return self.batch_size // self.topology.workers

    def steps(self, rows: int) -> int:
        """Steps per epoch of about `rows` images; at least 1."""
        return max(1, rows // self.batch_size)
