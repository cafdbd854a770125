"""The gradients of the weights that a group of workers holds, summed over the group.

    exchanges = [Exchange(weights, layers, comm, model.exchange_dtype), ...]
    with recording(exchanges):
        with tf.GradientTape() as tape:
            loss = ...
        local = local_gradients(tape, loss, exchanges)
    gradients, _ = exchanges[0].all_sum(local[0])       # in the order of the weights

The kernel's gradient of one of the dense `layers` is the product of the layer's inputs with its
output gradients over all rows. Workers gather these two and multiply, which gives the sum of their
gradients to rounding; `planning.exchange` says where that is cheaper. Alone nothing is exchanged,
and no layer is tapped.
"""

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import tensorflow as tf

from dc_tf.distributed.blocks import blocks
from dc_tf.distributed.collectives import Communicator, all_sum_packed, gather_packed
from dc_tf.distributed.wire import wire
from dc_tf.training.factors import Factors, Tap


class Local(NamedTuple):
    """The gradients of one worker's images, or of a part of them.

    Attributes:
        dense: list of gradients, of `Exchange.sources`.
        factors: list of Factors, of the tapped layers.
    """

    dense: list[tf.Tensor]
    factors: list[Factors]


class Exchange:
    """Sums gradients over the workers that hold the weights.

    Args:
        weights: list of trainable weights.
        layers: dense layers, with weights among these, whose gradients travel as factors.
        comm: `Communicator` of the workers that hold the weights.
        dtype: that float32 numbers have on the wire, "float32" or "bfloat16".

    Attributes:
        sources: the weights whose own gradients travel: all but those of `layers`.
        taps: list of Tap, of `layers`; none where there is no other holder.
        size: number of workers that hold the weights.
    """

    def __init__(self, weights, layers, comm: Communicator, dtype: str = "float32"):
        self.size = comm.size
        self._weights = list(weights)
        self.taps = [Tap(layer) for layer in layers] if comm.size > 1 else []
        self._places = [[_place(weights, w) for w in tap.weights] for tap in self.taps]
        tapped = set(sum(self._places, []))
        self.sources = [weight for i, weight in enumerate(weights) if i not in tapped]
        self._source_places = [i for i in range(len(self._weights)) if i not in tapped]
        self._comm = comm
        self._wire = wire(comm, dtype)

    def gather(self, local: Local) -> list[Factors]:
        """The factors of all workers' rows."""
        factors = [factor for pair in local.factors for factor in pair]
        gathered = iter(_by_dtype(gather_packed, factors, self._wire))
        return [Factors(inputs, slopes) for inputs, slopes in zip(gathered, gathered)]

    def all_sum(self, local: Local, scale=1.0, flags=()) -> tuple[list, list]:
        """The sums over all workers.

        Args:
            local: of this worker.
            scale: of the loss, by which gradients are divided.
            flags: float32 scalars to be summed as well; a rounded wire keeps whether they are zero.

        Returns:
            (list of gradients in the order of the weights, list of the sums of `flags`).
        """
        dense = [gradient / scale for gradient in local.dense]
        sums = all_sum_packed([*dense, *flags], self._wire)
        gradients = dict(zip(self._source_places, sums))
        for tap, places, factors in zip(self.taps, self._places, self.gather(local)):
            products = factors.gradients(with_bias=len(tap.weights) == 2)
            gradients |= zip(places, (product / scale for product in products))
        in_order = [gradients[place] for place in range(len(self._weights))]
        return in_order, sums[len(dense) :]

    def align(self, variables) -> None:
        """Gives variables the first holder's values, where they may differ by rounding.

        Each worker multiplies the factors itself, and processors of different kinds may round a
        product differently. On equal ones nothing changes.

        Args:
            variables: list of tf.Variable of the tapped layers, with their optimizer's.
        """
        for variable in variables:
            _broadcast(variable, self._comm)

    @property
    def tapped_weights(self) -> list[tf.Variable]:
        """The weights whose gradients are products of factors."""
        return [weight for tap in self.taps for weight in tap.weights]


@contextlib.contextmanager
def recording(exchanges) -> Iterator[None]:
    """Trace forward and backward pass inside."""
    with contextlib.ExitStack() as stack:
        for exchange in exchanges:
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


def accumulated(compute, count: int, exchanges, rows: int, zeros) -> tuple[tf.Tensor, list[Local]]:
    """Sums over the parts of a batch, one after the other, to save memory.

    Args:
        compute: function from the index of a part to (tensor, `local_gradients`).
        count: number of parts.
        exchanges: list of Exchange.
        rows: that enter a dense layer in a part.
        zeros: of the shape of the tensor.

    Returns:
        (sum of the tensors, list of Local: sums of gradients, factors of the rows of all parts).
    """
    dense = [[tf.zeros(weight.shape) for weight in exchange.sources] for exchange in exchanges]
    arrays = [[tap.arrays(count, rows) for tap in exchange.taps] for exchange in exchanges]

    def add(i, total, dense, arrays):
        more, local = compute(i)
        dense = tf.nest.map_structure(tf.add, dense, [part.dense for part in local])
        found = [part.factors for part in local]
        arrays = tf.nest.map_structure(lambda array, x: array.write(i, x), arrays, found)
        return i + 1, total + more, dense, arrays

    begin = (tf.constant(0), zeros, dense, arrays)
    _, total, dense, arrays = tf.while_loop(
        lambda i, *_: i < count, add, begin, parallel_iterations=1
    )
    factors = tf.nest.map_structure(lambda array: _joined(array.stack(), count * rows), arrays)
    return total, [Local(*part) for part in zip(dense, factors, strict=True)]


def _joined(stacked, rows):
    return tf.reshape(stacked, [rows, stacked.shape[-1]])


def _broadcast(variable, comm):
    """Assigns the first member's values, block by block."""
    for block in blocks(variable.shape[0], variable.dtype.size * variable[0].shape.num_elements()):
        variable[block].assign(comm.broadcast(variable[block]))
    # After an assignment of rows TensorFlow would copy the variable whenever it is read.
    tf.raw_ops.DisableCopyOnRead(resource=variable.handle)


def _place(weights, weight) -> int:
    return next(i for i, other in enumerate(weights) if other is weight)


def _by_dtype(exchange, tensors, comm):
    """`exchange` of tensors of several types, those of one type together; in their order."""
    found = {}
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
        places = [i for i, tensor in enumerate(tensors) if tensor.dtype == dtype]
        found |= zip(places, exchange([tensors[i] for i in places], comm))
    return [found[i] for i in range(len(tensors))]
