"""Which worker serves which super-classes: pure arithmetic on counts, no devices.

With W workers and S super-classes either p = W/S neighbours share one super-class, or one
worker serves S/W of them. So the same experiment runs on any divisor or multiple of S.

    topology = Topology(workers=8, super_classes=4)
    topology.served(3)    # (1,)
    topology.sharers(3)   # (2, 3)
"""

import dataclasses

from dc_tf.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Topology:
    """The assignment of S super-classes to W workers.

    Attributes:
        workers: W, at least 1.
        super_classes: S, at least 1.

    Raises:
        ConfigError: neither of W and S divides the other.
    """

    workers: int
    super_classes: int

    def __post_init__(self):
        if self.workers < 1 or self.super_classes < 1:
            raise ConfigError(
                f"a topology needs at least one worker and one super-class, not "
                f"{self.workers} and {self.super_classes}."
            )
        if self.workers % self.super_classes and self.super_classes % self.workers:
            raise ConfigError(
                f"{self.workers} workers cannot share {self.super_classes} super-classes evenly; "
                f"use a divisor or a multiple of {self.super_classes} "
                f"(nearest: {' or '.join(map(str, self._nearest_workers()))})."
            )

    @property
    def workers_per_super_class(self) -> int:
        """p, the workers that share one super-class (1 where a worker serves several)."""
        return max(1, self.workers // self.super_classes)

    @property
    def super_classes_per_worker(self) -> int:
        """How many super-classes one worker serves (1 where several workers share one)."""
        return max(1, self.super_classes // self.workers)

    def served(self, rank: int) -> tuple[int, ...]:
        """The super-classes whose images and heads worker `rank` holds, ascending."""
        first = rank * self.super_classes // self.workers
        return tuple(range(first, first + self.super_classes_per_worker))

    def sharers(self, rank: int) -> tuple[int, ...]:
        """The ranks that serve the same super-classes as `rank`, itself included."""
        first = rank - self.position(rank)
        return tuple(range(first, first + self.workers_per_super_class))

    def position(self, rank: int) -> int:
        """Place of `rank` among its sharers; 0 is the one that saves their heads."""
        return rank % self.workers_per_super_class

    def images_per_super_class(self, global_batch: int) -> int:
        """Images of one super-class in a global batch: every super-class has equal weight.

        Raises:
            ConfigError: the batch does not split evenly over super-classes and workers.
        """
        parts = self.super_classes * self.workers_per_super_class
        if global_batch < 1 or global_batch % parts:
            above = (global_batch // parts + 1) * parts
            raise ConfigError(
                f"batch_size={global_batch} does not split over {self.super_classes} "
                f"super-classes on {self.workers} workers; use a multiple of {parts} "
                f"(nearest above: {above})."
            )
        return global_batch // self.super_classes

    def _nearest_workers(self) -> list[int]:
        """The largest worker count below W that works, and the smallest above it."""
        s = self.super_classes
        divisors = [n for n in range(1, s + 1) if s % n == 0]
        works = divisors + [s * (self.workers // s), s * (self.workers // s + 1)]
        below = max(n for n in works if 0 < n < self.workers)
        return [below, min(n for n in works if n > self.workers)]
