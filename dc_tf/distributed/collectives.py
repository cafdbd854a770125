"""Exchanges in a named group of workers, the only way in which workers exchange numbers.

An algorithm takes a communicator and never asks what is behind it. All members of a group
must make the same calls in the same order, eagerly or while tracing a `tf.function`.

    total = comm.all_sum(count)                   # the same tensor on every member
    gradients = all_sum_packed(gradients, comm)   # many tensors in few messages
    rows = PackedGather(rows, comm).results()     # the rows of all members
    total = direct_sum(few, comm)                 # a short vector, in one latency
    counts = all_sum_array(counts, comm)          # of NumPy arrays, in `blocks`
    number = broadcast_number(number, comm)       # what the chief has

One worker exchanges NumPy arrays and numbers without TensorFlow, whose import takes seconds.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from dc_tf.distributed import heartbeat
from dc_tf.distributed.blocks import MESSAGE_BYTES


class Communicator(Protocol):
    """A group of workers.

    Attributes:
        rank: place of this worker in the group, in [0, size).
        size: number of members.
        has_all_to_all: whether it can; not over NCCL.
    """

    rank: int
    size: int
    has_all_to_all: bool

    def all_sum(self, tensor) -> tf.Tensor:
        """Elementwise sum over the group; same shape and dtype; differentiable."""

    def gather(self, tensor) -> tf.Tensor:
        """(size, ...): every member's tensor, by rank; all of one static shape and dtype."""

    def all_to_all(self, tensor) -> tf.Tensor:
        """(size, ...): row i is what member i had in its row `rank` of a (size, ...) tensor."""

    def broadcast(self, tensor, root: int = 0) -> tf.Tensor:
        """The root's tensor; others pass one of the same shape and dtype."""

    def barrier(self) -> None:
        """Returns when every member has called it."""


class Solo:
    """The group of one: every exchange is the identity."""

    rank = 0
    size = 1
    has_all_to_all = True

    def all_sum(self, tensor) -> tf.Tensor:
        return tf.convert_to_tensor(tensor)

    def gather(self, tensor) -> tf.Tensor:
        return tf.convert_to_tensor(tensor)[tf.newaxis]

    def all_to_all(self, tensor) -> tf.Tensor:
        return tf.convert_to_tensor(tensor)

    def broadcast(self, tensor, root: int = 0) -> tf.Tensor:
        del root
        return tf.convert_to_tensor(tensor)

    def barrier(self) -> None:
        return


ALONE = Solo()


@dataclasses.dataclass(frozen=True)
class Link:
    """How this worker takes part in collective ops, the same for all its groups.

    Attributes:
        device: full name, e.g. "/job:worker/replica:0/task:0/device:CPU:0".
        hint: "nccl" between GPUs, "ring" between CPUs.
        order: variable on the device that every exchange names, so that inside a `tf.function` all
            run in the order of the program. NCCL needs the same order on all devices.
    """

    device: str
    hint: str
    order: tf.Variable


class Collective:
    """A group on TensorFlow's collective ops.

    It uses group and instance keys of its own, so it works beside the collectives of
    `tf.distribute` inside one cluster, and groups are independent.

    Args:
        rank: place of this worker in the group.
        size: members of the group, at least 2.
        group_key: the same on all members, used by no other group.
        link: of this worker.
    """

    def __init__(self, rank: int, size: int, group_key: int, link: Link):
        self.rank = rank
        self.size = size
        self._group_key = group_key
        self._link = link
        self._instance_keys = itertools.count(1)

    @property
    def has_all_to_all(self) -> bool:
        # TensorFlow's kernel for NCCL divides a tensor by the number of the process's own devices,
        # not of the members (nccl_manager.cc), so with one a process it would exchange nothing.
        return self._link.hint != "nccl"

    def all_sum(self, tensor) -> tf.Tensor:
        tensor = tf.convert_to_tensor(tensor)

        @tf.custom_gradient
        def summed(x):
            # Every member's loss depends on the sum, so the gradients are summed as well.
            return self._reduce(x), self.all_sum

        if tensor.dtype.is_floating:
            return summed(tensor)
        return self._reduce(tensor)

    def gather(self, tensor) -> tf.Tensor:
        tensor = tf.convert_to_tensor(tensor)
        shape = [self.size, *tensor.shape]
        if tensor.dtype == tf.bfloat16:  # which TensorFlow's gather does not take
            return tf.bitcast(self.gather(tf.bitcast(tensor, tf.float16)), tf.bfloat16)
        return tf.reshape(self._exchange(tf.raw_ops.CollectiveGatherV2, tensor[tf.newaxis]), shape)

    def all_to_all(self, tensor) -> tf.Tensor:
        if not self.has_all_to_all:
            raise RuntimeError("there is no all-to-all over NCCL; use all_sum or gather.")
        tensor = tf.convert_to_tensor(tensor)
        parts = self._exchange(tf.raw_ops.CollectiveAllToAllV2, tensor)
        return tf.reshape(parts, tensor.shape)

    def broadcast(self, tensor, root: int = 0) -> tf.Tensor:
        tensor = tf.convert_to_tensor(tensor)
        return self._reduce(tensor if self.rank == root else tf.zeros_like(tensor))

    def barrier(self) -> None:
        arrived = int(self._reduce(tf.constant(1, tf.int64)))
        if arrived != self.size:
            raise RuntimeError(f"barrier counted {arrived} workers, expected {self.size}.")

    def _reduce(self, tensor: tf.Tensor) -> tf.Tensor:
        # TensorFlow keeps int32 in host memory even on a GPU.
        if tensor.dtype == tf.int32 and "GPU" in self._link.device:
            return tf.cast(self._reduce(tf.cast(tensor, tf.int64)), tf.int32)
        reduce = tf.raw_ops.CollectiveReduceV2
        return self._exchange(reduce, tensor, merge_op="Add", final_op="Id")

    def _exchange(self, op, tensor, **arguments) -> tf.Tensor:
        # A new instance key per call (per trace in a graph) separates consecutive calls.
        with heartbeat.waiting(), tf.device(self._link.device):
            return op(
                input=tensor,
                group_size=self.size,
                group_key=self._group_key,
                instance_key=next(self._instance_keys),
                ordering_token=[self._link.order.handle],
                communication_hint=self._link.hint,
                **arguments,
            )


def direct_sum(tensor, comm: Communicator) -> tf.Tensor:
    """The elementwise sum over the group, of few numbers; same shape, dtype and bits on all.

    Every member sends its own to every other at once and adds up what comes by rank: one latency
    and size - 1 messages instead of the 2 (size - 1) of a ring, one after the other. It has no
    gradient, and needs a group that `has_all_to_all`.
    """
    if comm.size == 1:
        return tf.convert_to_tensor(tensor)
    copies = tf.repeat(tensor[tf.newaxis], comm.size, 0)
    return tf.add_n(tf.unstack(comm.all_to_all(copies)))


def all_sum_packed(tensors, comm: Communicator, pack_bytes=MESSAGE_BYTES) -> list[tf.Tensor]:
    """Sums of many tensors over the group, in messages of at most `pack_bytes`.

    Small tensors are joined and large ones split: every message has a fixed cost, and one of
    several hundred megabytes takes more than its share of time (`benchmarks/step.py`).

    Args:
        tensors: list of tensors of one dtype and static shapes, the same list on every member.
        comm: the group.
        pack_bytes: largest size of a message; an element that is larger is sent alone.
    """
    if comm.size == 1 or not tensors:
        return list(tensors)
    return PackedSum(tensors, comm, pack_bytes).results()


class _Packed:
    """An exchange of many tensors, whose messages are launched one after the other.

    Attributes:
        left: number of messages that are not launched yet.
    """

    def __init__(self, tensors, comm: Communicator, pack_bytes=MESSAGE_BYTES):
        self._comm = comm
        self._tensors = list(tensors)
        self._pieces = [_cut(tensor, pack_bytes) for tensor in tensors]
        self._packs = list(_packs(itertools.chain(*self._pieces), pack_bytes))
        self._results = []

    @property
    def left(self) -> int:
        return len(self._packs)

    def launch(self) -> None:
        """Exchanges the next message; all members make the same calls."""
        pack = self._packs.pop(0)
        result = self._exchange(tf.concat(pack, 0))
        self._results += tf.split(result, [piece.shape.num_elements() for piece in pack], -1)

    def results(self) -> list[tf.Tensor]:
        """What came of each tensor, after all messages."""
        while self._packs:
            self.launch()
        pieces = iter(self._results)
        joined = [tf.concat(list(itertools.islice(pieces, len(own))), -1) for own in self._pieces]
        return [
            tf.reshape(own, self._shape(tensor))
            for own, tensor in zip(joined, self._tensors, strict=True)
        ]


class PackedSum(_Packed):
    """`all_sum_packed`, a message at a time."""

    def _exchange(self, vector):
        return self._comm.all_sum(vector)

    def _shape(self, tensor):
        return tensor.shape


class PackedGather(_Packed):
    """The rows of many (rows, ...) tensors of all members, a message at a time.

    The results are (size * rows, ...), the rows of the member of rank 0 first.
    """

    def _exchange(self, vector):
        return self._comm.gather(vector)

    def _shape(self, tensor):
        return [self._comm.size * tensor.shape[0], *tensor.shape[1:]]


def _cut(tensor, pack_bytes):
    """The elements in order, in as few equally long pieces as do not exceed `pack_bytes`."""
    length = tensor.shape.num_elements()
    count = max(1, -(-length // max(1, pack_bytes // tensor.dtype.size)))
    ends = [length * i // count for i in range(count + 1)]
    return tf.split(tf.reshape(tensor, [-1]), [b - a for a, b in itertools.pairwise(ends)])


def _packs(pieces, pack_bytes):
    pack, size = [], 0
    for piece in pieces:
        more = piece.shape.num_elements() * piece.dtype.size
        if pack and size + more > pack_bytes:
            yield pack
            pack, size = [], 0
        pack.append(piece)
        size += more
    yield pack


def all_agree(condition: bool, comm: Communicator) -> bool:
    """Whether `condition` is true on every member."""
    return bool(all_gather(bool(condition), comm).all())


def all_gather(values, comm: Communicator) -> np.ndarray:
    """(size, ...) every member's numbers, by rank: int64 for whole numbers and bools, else float64.

    Args:
        values: a number, or numbers in an array of the same shape on every member.
        comm: the group.
    """
    values = np.asarray(values)
    kind = np.float64 if np.issubdtype(values.dtype, np.floating) else np.int64
    gathered = np.zeros((comm.size, *values.shape), kind)
    gathered[comm.rank] = values  # with the others' zeros, a sum is exact
    return gathered if comm.size == 1 else comm.all_sum(gathered).numpy()


def all_gather_json(value, comm: Communicator) -> list:
    """Every member's JSON-ready value, by rank."""
    text = json.dumps(value).encode()
    lengths = all_gather(len(text), comm)
    padded = np.frombuffer(text.ljust(lengths.max()), np.uint8)
    return [json.loads(row.astype(np.uint8).tobytes()) for row in all_gather(padded, comm)]


def broadcast_json(value, comm: Communicator, root=0) -> Any:
    """The root's JSON-ready value, on every member; values of other members are ignored."""
    text = json.dumps(value).encode()
    if comm.size == 1:
        return json.loads(text)
    length = broadcast_number(len(text), comm, root)
    padded = np.frombuffer(text[:length].ljust(length), np.uint8).astype(np.int64)
    return json.loads(comm.broadcast(padded, root).numpy().astype(np.uint8).tobytes())


def broadcast_number(value: int, comm: Communicator, root=0) -> int:
    """The root's whole number, on every member; those of other members are ignored."""
    return int(value) if comm.size == 1 else int(comm.broadcast(np.int64(value), root))
