"""Gradients that leave while the backward pass runs, between the exchanges of batch norm.

    overlap = Overlap(comm)
    trunk.share_statistics(overlap)         # in place of comm
    with overlap.of_a_pass(exchanges):
        ...                                 # trace the forward pass
        overlap.begin_backward()
        ...                                 # trace the backward pass

The gradients of the last layers are ready first, and the dense ones and wide convolutions among
these are most of the bytes. Collectives run in the order in which they are traced, the same on all
workers, as NCCL needs it. So after each exchange of batch norm in the backward pass some messages
of what is ready are launched. Their size and number spread them evenly over the exchanges that are
left: they travel while the gradients of a block of layers are computed, and batch norm waits for a
few at most.
"""

import contextlib
from collections.abc import Iterator

import tensorflow as tf

from dc_tf.distributed.collectives import Communicator, direct_sum


class Overlap:
    """The communicator of batch norm, which launches messages of gradients in between.

    Args:
        comm: `Communicator` of the workers that share batch statistics.
        enabled: whether messages are launched at all. Not where the passes are traced into a loop
            or compiled, which messages cannot leave.
        direct: whether statistics are summed by `direct_sum`, and not in a ring.

    Attributes:
        rank, size: of `comm`.
    """

    def __init__(self, comm: Communicator, enabled: bool = True, direct: bool = False):
        self.rank, self.size = comm.rank, comm.size
        self._comm = comm
        self._direct = direct
        self._exchanges = ()
        self._enabled = enabled
        self._begun = []
        self._calls = 0  # of the forward pass that the backward pass has not repeated
        self._is_tracing = self._is_backward = False

    @contextlib.contextmanager
    def of_a_pass(self, exchanges) -> Iterator[None]:
        """Inside, messages are launched; each pass is traced within its own.

        Args:
            exchanges: list of Exchange of the weights. They are not kept, since layers of the
                network keep this object.
        """
        self._exchanges = exchanges
        self._begun, self._calls = [], 0
        self._is_tracing, self._is_backward = self._enabled, False
        try:
            yield
        finally:
            self._is_tracing = False
            self._exchanges, self._begun = (), []

    def begin_backward(self) -> None:
        """The forward pass is traced."""
        self._is_backward = True

    def all_sum(self, tensor) -> tf.Tensor:
        """As of `comm`, of a vector of statistics."""
        total = direct_sum(tensor, self._comm) if self._direct else self._comm.all_sum(tensor)
        if self._is_tracing and self._is_backward:
            self._launch()
        elif self._is_tracing:
            self._calls += 1
        return total

    def _launch(self):
        for exchange in self._exchanges:
            self._begun += exchange.begin(parts=max(1, self._calls))
        left = sum(packed.left for packed in self._begun)
        for _ in range(-(-left // max(1, self._calls))):
            next(packed for packed in self._begun if packed.left).launch()
        self._calls -= 1
