"""Numbers on the wire in bfloat16, half the bytes of float32.

    comm = wire(comm, "bfloat16")
    gradients = all_sum_packed(gradients, comm)      # float32, rounded twice
    rows = PackedGather(rows, comm).results()        # rounded once

A ring that adds up in bfloat16 would round at every worker. Here each member gets all terms of its
share of the elements, adds them up in float32, and sends the rounded sum to all. So a sum s of
terms g_i has an error of at most u (1 + u) |g_1| + ... + u (1 + u) |g_W| + u |s|, u = 2^-8, beside
the rounding of float32, whatever W is, and all members have the same bits.

Over NCCL, where members cannot exchange shares, two or three get all terms whole and add them up,
without the second rounding. Of more members that would be more bytes than a ring in float32, which
sums then, unrounded; what is gathered is still halved.
"""

import tensorflow as tf

from dc_tf.distributed.collectives import Communicator

# Members up to which gathering all terms in bfloat16 sends less than a ring in float32.
_MOST_WHOLE = 3


def wire(comm: Communicator, dtype: str) -> Communicator:
    """The communicator that sends float32 tensors in `dtype`, "float32" or "bfloat16"."""
    return comm if dtype == "float32" or comm.size == 1 else Bfloat16Wire(comm)


class Bfloat16Wire:
    """`all_sum` and `gather` of a group, with float32 tensors sent in bfloat16.

    Tensors of other types pass as they are. There is no gradient.

    Attributes:
        rank, size: of the group.
    """

    def __init__(self, comm: Communicator):
        self.rank, self.size = comm.rank, comm.size
        self._comm = comm

    def all_sum(self, tensor) -> tf.Tensor:
        """Elementwise sum over the group, rounded as the module says; same shape and dtype."""
        if tensor.dtype != tf.float32:
            return self._comm.all_sum(tensor)
        if not self._comm.has_all_to_all:
            if self.size > _MOST_WHOLE:
                return self._comm.all_sum(tensor)
            return tf.reduce_sum(self.gather(tensor), 0)
        terms = self._comm.all_to_all(tf.cast(self._shares(tensor), tf.bfloat16))
        own = tf.reduce_sum(tf.cast(terms, tf.float32), 0)
        sums = tf.reshape(self._comm.gather(tf.cast(own, tf.bfloat16)), [-1])
        return tf.reshape(tf.cast(sums[: tf.size(tensor)], tf.float32), tensor.shape)

    def gather(self, tensor) -> tf.Tensor:
        """(size, ...): every member's tensor, rounded to bfloat16, by rank."""
        if tensor.dtype != tf.float32:
            return self._comm.gather(tensor)
        return tf.cast(self._comm.gather(tf.cast(tensor, tf.bfloat16)), tf.float32)

    def _shares(self, tensor):
        """(size, share): the elements in order, with zeros at the end if they do not divide."""
        length = tensor.shape.num_elements()
        share = -(-length // self.size)
        padded = tf.pad(tf.reshape(tensor, [-1]), [[0, share * self.size - length]])
        return tf.reshape(padded, [self.size, share])
