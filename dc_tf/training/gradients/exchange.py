"""The gradients of the weights that a group of workers holds, summed over the group.

    exchanges = [Exchange(weights, layers, comm, model.exchange_dtype), ...]
    with recording(exchanges):
        with tf.GradientTape() as tape:
            loss = ...
        local = local_gradients(tape, loss, exchanges)
    gradients, _ = exchanges[0].all_sum(local[0])       # in the order of the weights

The kernel's gradient of one of the dense `layers` is the product of the layer's inputs with its
output gradients over all rows. Workers gather these two and multiply, which gives the sum of their
gradients to rounding; `planning.exchange` says where that is cheaper. Alone nothing is exchanged;
what is tapped then has its factors formed for an update without the whole gradient.
"""

import contextlib
import itertools
from collections.abc import Iterator
from typing import NamedTuple

import tensorflow as tf

from dc_tf.distributed.blocks import MESSAGE_BYTES, blocks
from dc_tf.distributed.collectives import Communicator, PackedGather, PackedSum, all_sum_packed
from dc_tf.distributed.wire import wire
from dc_tf.training.gradients.factors import Factors, KernelGradient, KernelTap, Tap

# Smaller messages of a layer are not worth their latency.
_LEAST_PART_BYTES = 1 << 20


class Local(NamedTuple):
    """The gradients of one worker's images, or of a part of them.

    Attributes:
        dense: list of gradients, of `Exchange.sources`.
        factors: list of what the taps recorded.
    """

    dense: list[tf.Tensor]
    factors: list[Factors | KernelGradient]


class Exchange:
    """Sums gradients over the workers that hold the weights.

    Args:
        weights: list of trainable weights.
        layers: dense layers, with weights among these, whose gradients travel as factors, or of one
            holder are taken as factors.
        comm: `Communicator` of the workers that hold the weights.
        dtype: that float32 numbers have on the wire, "float32" or "bfloat16".
        early: further dense layers, whose gradients may leave while the backward pass runs.
        early_convs: `nn.conv.Conv2D` whose kernels' gradients may; not with `accumulated`.

    Attributes:
        sources: the weights whose gradients a tape computes: all but those of the layers given.
        taps: list of Tap, of `layers`, then of `early`, and of KernelTap; of `layers` alone where
            there is no other holder.
        size: number of workers that hold the weights.
    """

    def __init__(
        self,
        weights,
        layers,
        comm: Communicator,
        dtype: str = "float32",
        early=(),
        early_convs=(),
    ):
        self.size = comm.size
        self._comm = comm
        self._wire = wire(comm, dtype)
        self._weights = list(weights)
        self.taps = [*map(Tap, layers)]
        if comm.size > 1:
            self.taps += [*map(Tap, early), *map(KernelTap, early_convs)]
        self._as_factors = [tap in self.taps[: len(layers)] for tap in self.taps]
        self._places = [[_place(weights, w) for w in tap.weights] for tap in self.taps]
        tapped = set(sum(self._places, []))
        self._source_places = [i for i in range(len(self._weights)) if i not in tapped]
        self.sources = [self._weights[i] for i in self._source_places]
        self._begun = {}

    def begin(self, parts: int) -> list:
        """Begins the exchange of each tapped layer that the backward pass is through with.

        Args:
            parts: number of messages that a layer is cut into, fewer if they would be small.

        Returns:
            list of PackedSum and PackedGather, of which no message is launched.
        """
        ready = [i for i, tap in enumerate(self.taps) if tap.complete and i not in self._begun]
        self._begun |= {i: self._packed(i, self.taps[i].take(), parts) for i in ready}
        return [self._begun[i] for i in ready]

    def forget(self) -> None:
        """Forgets what was begun, before another backward pass is traced."""
        self._begun = {}

    def gather(self, local: Local) -> list[Factors]:
        """The factors of all workers' rows, where all tapped layers' gradients travel so."""
        return [Factors(*results) for results in self._results(local)]

    def all_sum(self, local: Local, scale=1.0, flags=()) -> tuple[list, list]:
        """The sums over all workers.

        Args:
            local: of this worker.
            scale: of the loss, by which gradients are divided.
            flags: float32 scalars to be summed as well; a rounded wire keeps whether they are zero.

        Returns:
            (list of gradients in the order of the weights, list of the sums of `flags`).
        """
        gradients = {}
        for i, results in enumerate(self._results(local)):
            if self._as_factors[i]:
                results = Factors(*results).gradients(with_bias=len(self.taps[i].weights) == 2)
            gradients |= zip(self._places[i], (result / scale for result in results), strict=True)
        dense = [gradient / scale for gradient in local.dense]
        sums = all_sum_packed([*dense, *flags], self._wire)
        gradients |= zip(self._source_places, sums[: len(dense)], strict=True)
        return [gradients[place] for place in range(len(self._weights))], sums[len(dense) :]

    def _results(self, local):
        """What came of each tapped layer's exchange.

        Messages of the last layers are traced first. Where `begin` was not called, they then leave
        as their gradients become ready, since nothing of the backward pass waits for them.
        """
        found = {}
        for i in sorted(range(len(local.factors)), key=self._places.__getitem__, reverse=True):
            found[i] = (self._begun.get(i) or self._packed(i, local.factors[i])).results()
        return [found[i] for i in range(len(found))]

    def _packed(self, i, factors, parts=1):
        if self._as_factors[i]:
            # A message has what all workers put into it.
            return PackedGather(factors, self._wire, _part_bytes(factors, parts, self.size))
        gradients = factors.gradients(with_bias=len(self.taps[i].weights) == 2)
        return PackedSum(gradients, self._wire, _part_bytes(gradients, parts))

    def align(self, variables) -> None:
        """Gives variables the first holder's values, where they may differ by rounding.

        Each worker multiplies the factors itself, and processors of different kinds may round a
        product differently. On equal ones nothing changes.

        Args:
            variables: list of tf.Variable of the tapped layers, with their optimizer's.
        """
        for variable in variables if self.size > 1 else ():
            _broadcast(variable, self._comm)

    @property
    def factored_weights(self) -> list[tf.Variable]:
        """The weights whose gradients every worker forms from factors."""
        taps = itertools.compress(self.taps, self._as_factors)
        return [weight for tap in taps for weight in tap.weights]


@contextlib.contextmanager
def recording(exchanges) -> Iterator[None]:
    """Trace forward and backward pass inside."""
    with contextlib.ExitStack() as stack:
        for exchange in exchanges:
            exchange.forget()
            for tap in exchange.taps:
                stack.enter_context(tap.recording())
        yield


def local_gradients(tape, loss, exchanges) -> list[Local]:
    """This worker's gradients of the weights of each exchange; within `recording`."""
    dense = tape.gradient(loss, [exchange.sources for exchange in exchanges])
    return [
        Local(part, [tap.take() for tap in exchange.taps])
        for part, exchange in zip(dense, exchanges, strict=True)
    ]


def accumulated(
    compute, count: int, exchanges, rows: list[int], zeros
) -> tuple[tf.Tensor, list[Local], tf.Tensor]:
    """Sums over the parts of a batch, one after the other, to save memory.

    Args:
        compute: function from the index of a part to (tensor, `local_gradients`, float32 features).
        count: number of parts.
        exchanges: list of Exchange.
        rows: of each exchange, that enter a dense layer of it in a part.
        zeros: of the shape of the tensor.

    Returns:
        (sum of the tensors, list of Local: sums of gradients, factors of the rows of all parts;
        (count, ...) features of each part).
    """
    dense = [[tf.zeros(weight.shape) for weight in exchange.sources] for exchange in exchanges]
    arrays = [
        [tap.arrays(count, own) for tap in exchange.taps]
        for exchange, own in zip(exchanges, rows, strict=True)
    ]

    def add(i, total, dense, arrays, features):
        more, local, own = compute(i)
        dense = tf.nest.map_structure(tf.add, dense, [part.dense for part in local])
        found = [part.factors for part in local]
        arrays = tf.nest.map_structure(lambda array, x: array.write(i, x), arrays, found)
        return i + 1, total + more, dense, arrays, features.write(i, own)

    begin = (tf.constant(0), zeros, dense, arrays, tf.TensorArray(tf.float32, count))
    _, total, dense, arrays, features = tf.while_loop(
        lambda i, *_: i < count, add, begin, parallel_iterations=1
    )
    factors = [
        tf.nest.map_structure(lambda array, own=own: _joined(array.stack(), count * own), part)
        for part, own in zip(arrays, rows, strict=True)
    ]
    return total, [Local(*part) for part in zip(dense, factors, strict=True)], features.stack()


def _joined(stacked, rows):
    return tf.reshape(stacked, [rows, stacked.shape[-1]])


def _part_bytes(tensors, parts, members=1):
    """Bytes that a worker puts into a message, to which all of `members` add as much."""
    own = sum(tensor.shape.num_elements() * tensor.dtype.size for tensor in tensors)
    most, least = MESSAGE_BYTES // members, _LEAST_PART_BYTES // members
    return min(most, max(least, -(-own // parts)))


def _broadcast(variable, comm):
    """Assigns the first member's values, block by block."""
    for block in blocks(variable.shape[0], variable.dtype.size * variable[0].shape.num_elements()):
        variable[block].assign(comm.broadcast(variable[block]))
    # After an assignment of rows TensorFlow would copy the variable whenever it is read.
    tf.raw_ops.DisableCopyOnRead(resource=variable.handle)


def _place(weights, weight) -> int:
    return next(i for i, other in enumerate(weights) if other is weight)
