"""Sums over a named group of workers, the only way in which workers exchange numbers.

An algorithm takes a communicator and never asks what is behind it. All members of a group
must make the same calls in the same order, eagerly or while tracing a `tf.function`.

    total = comm.all_sum(count)     # the same tensor on every member
"""

import itertools
from typing import Protocol

import numpy as np
import tensorflow as tf


class Communicator(Protocol):
    """A group of workers.

    Attributes:
        rank: place of this worker in the group, in [0, size).
        size: number of members.
    """

    rank: int
    size: int

    def all_sum(self, tensor) -> tf.Tensor:
        """Elementwise sum over the group; same shape and dtype; differentiable."""

    def broadcast(self, tensor, root: int = 0) -> tf.Tensor:
        """The root's tensor; others pass one of the same shape and dtype."""

    def barrier(self) -> None:
        """Returns when every member has called it."""


class Solo:
    """The group of one: every exchange is the identity."""

    rank = 0
    size = 1

    def all_sum(self, tensor) -> tf.Tensor:
        return tf.convert_to_tensor(tensor)

    def broadcast(self, tensor, root: int = 0) -> tf.Tensor:
        del root
        return tf.convert_to_tensor(tensor)

    def barrier(self) -> None:
        return


class Collective:
    """A group on TensorFlow's collective ops: NCCL between GPUs, ring between CPUs.

    It uses group and instance keys of its own, so it works beside the collectives of
    `tf.distribute` inside one cluster, and groups do not disturb one another.

    Args:
        rank: place of this worker in the group.
        size: members of the group, at least 2.
        group_key: the same on all members, of no other group.
        device: full name of this worker's device, e.g. "/job:worker/task:0/device:CPU:0".
    """

    def __init__(self, rank: int, size: int, group_key: int, device: str):
        self.rank = rank
        self.size = size
        self._group_key = group_key
        self._device = device
        self._instance_keys = itertools.count(1)

    def all_sum(self, tensor) -> tf.Tensor:
        tensor = tf.convert_to_tensor(tensor)

        @tf.custom_gradient
        def summed(x):
            # Every member's loss depends on the sum, so the gradients are summed as well.
            return self._reduce(x), self.all_sum

        if tensor.dtype.is_floating:
            return summed(tensor)
        return self._reduce(tensor)

    def broadcast(self, tensor, root: int = 0) -> tf.Tensor:
        tensor = tf.convert_to_tensor(tensor)
        return self._reduce(tensor if self.rank == root else tf.zeros_like(tensor))

    def barrier(self) -> None:
        arrived = int(self._reduce(tf.constant(1, tf.int32)))
        if arrived != self.size:
            raise RuntimeError(f"barrier met {arrived} workers, expected {self.size}.")

    def _reduce(self, tensor: tf.Tensor) -> tf.Tensor:
        # A fresh instance key per call (per trace in a graph) keeps consecutive calls apart.
        with tf.device(self._device):
            return tf.raw_ops.CollectiveReduceV2(
                input=tensor,
                group_size=self.size,
                group_key=self._group_key,
                instance_key=next(self._instance_keys),
                ordering_token=[],
                merge_op="Add",
                final_op="Id",
                communication_hint="auto",
            )


def all_gather_counts(count: int, comm: Communicator) -> np.ndarray:
    """(size,) int64: every member's `count`, by rank."""
    mine = np.zeros(comm.size, np.int64)
    mine[comm.rank] = count
    return comm.all_sum(mine).numpy()
