"""Predicts what a training step sends for its dense layers, and chooses how.

The gradient of a dense layer of n inputs and m outputs has n m values, which a ring sends twice.
Its factors, inputs and output gradients of the rows of all workers, have n + m values a row and are
sent once; then each worker multiplies the rows of all instead of its own. As factors travel those
layers for which this takes less time on the hardware that `machine` describes.

    machine = machine_of(model, on_gpu=True)
    layers = dense_layers(model, stage, Topology(64, 16), machine)
    names = factored(model, stage, Topology(64, 16), machine)       # {"fc6", "sub head"}

Where factors are forced, a large head of one worker is updated from them too, to save memory.

Reference: Zhang et al. 2017 (Poseidon), section 3.2, which chooses by bytes.
"""

import dataclasses

from dc_tf.clustering.cost.hardware import CORE, P4D, Machine
from dc_tf.clustering.cost.model import all_sum_s
from dc_tf.nn.trunks import feature_dim, settings_of, trunk_class

FLOAT, HALF = 4, 2
# Values of a head's kernel from which on its gradient is not formed as a whole: 64 MiB.
_LEAST_IN_BLOCKS = 1 << 24
# Factors are small if they have at most one value for so many of the gradient.
_SMALL_FACTORS = 8
# Values of a kernel from which on its gradient has a message of its own: 4 MiB.
_LEAST_EARLY = 1 << 20


@dataclasses.dataclass(frozen=True)
class DenseLayer:
    """A dense layer whose gradient some workers exchange in a step.

    Attributes:
        name: "fc6", "fc7", "projection hidden", "projection output", "super head" or "sub head".
        inputs, outputs: n and m.
        members: workers that hold it.
        rows: that enter it in a step, of all members.
        bias: whether it has one.
        factor_bytes, gradient_bytes: of a number on the wire.
        halved: whether it multiplies in a type of two bytes.
    """

    name: str
    inputs: int
    outputs: int
    members: int
    rows: int
    bias: bool = True
    factor_bytes: int = FLOAT
    gradient_bytes: int = FLOAT
    halved: bool = False

    @property
    def weights(self) -> int:
        """Values of kernel and bias."""
        return (self.inputs + self.bias) * self.outputs

    @property
    def own_factors(self) -> int:
        """Bytes of the factors of one worker's rows."""
        return self.rows // self.members * (self.inputs + self.outputs) * self.factor_bytes

    @property
    def sent_as_factors(self) -> int:
        """Bytes that a worker sends in a ring that gathers the factors."""
        return (self.members - 1) * self.own_factors

    @property
    def sent_as_gradients(self) -> float:
        """Bytes that a worker sends in a ring that adds up the gradients."""
        return ring(self.weights * self.gradient_bytes, self.members)

    @property
    def further_flops(self) -> int:
        """Of the product over the rows of the other workers."""
        return 2 * (self.rows - self.rows // self.members) * self.inputs * self.outputs

    def product_s(self, machine: Machine) -> float:
        """Seconds of the product over the rows of the other workers."""
        product = machine.bfloat16 if self.halved else machine.float32
        return self.further_flops / product.flops

    def gather_s(self, machine: Machine) -> float:
        """Seconds in which all get the factors of all rows."""
        latency_s = (self.members - 1) * machine.wire_latency_s
        return latency_s + self.sent_as_factors / machine.wire_bytes_per_s

    def all_sum_s(self, machine: Machine) -> float:
        """Seconds in which the gradient is summed."""
        return all_sum_s(self.weights * self.gradient_bytes, self.members, machine)

    def saved_s(self, machine: Machine) -> float:
        """Seconds by which a step is shorter with factors; negative where it is longer.

        The gradient's latency is not counted: it may travel with others.
        """
        gradient_s = self.sent_as_gradients / machine.wire_bytes_per_s
        return gradient_s - self.gather_s(machine) - self.product_s(machine)


def machine_of(model, on_gpu: bool) -> Machine:
    """`hardware.Machine` by which a run chooses what travels as factors.

    Args:
        model: experiment.Model.
        on_gpu: whether the workers have GPUs.
    """
    machine = P4D if on_gpu else CORE
    if not model.exchange_gbps:
        return machine
    return dataclasses.replace(machine, wire_bytes_per_s=model.exchange_gbps * 1e9 / 8)


def gradient_bytes(model, members: int, machine: Machine) -> int:
    """Bytes of a gradient's number in each of the two ways of a ring, as `distributed.wire` sums.

    Args:
        model: experiment.Model.
        members: that sum it.
        machine: with or without a GPU.
    """
    if model.exchange_dtype == "float32":
        return FLOAT
    if machine.device_bytes is None:
        return HALF
    # Over NCCL up to three members gather all terms, (members - 1) halves; more sum in float32.
    return min(FLOAT, members)


def dense_layers(model, stage, topology, machine: Machine) -> list[DenseLayer]:
    """The dense layers that more than one worker holds.

    Args:
        model: experiment.Model.
        stage: experiment.Stage.
        topology: Topology of the stage.
        machine: of a worker.
    """
    number = FLOAT if model.exchange_dtype == "float32" else HALF
    halved = model.compute_dtype in ("bfloat16", "float16")
    world = dict(members=topology.workers, rows=stage.batch_size * stage.views.count)
    group = dict(
        members=topology.workers_per_super_class,
        rows=world["rows"] // topology.super_classes,
    )
    for holders in (world, group):
        holders["factor_bytes"] = number
        holders["gradient_bytes"] = gradient_bytes(model, holders["members"], machine)
    of_trunk = world | dict(factor_bytes=HALF if halved else number, halved=halved)
    found = [DenseLayer(*one, **of_trunk) for one in _trunk_shapes(model)]
    for name, *shape in _projection_shapes(model, stage):
        found.append(DenseLayer(name, *shape, **world, bias=name != "projection hidden"))
    for name, (inputs, outputs) in head_shapes(model, stage).items():
        holders = world if name == "super head" else group
        found.append(DenseLayer(name, inputs, outputs, **holders))
    return [layer for layer in found if layer.members > 1]


def factored(model, stage, topology, machine: Machine) -> frozenset[str]:
    """Names of the dense layers whose gradients travel as factors, as `model.exchange` has it."""
    layers = dense_layers(model, stage, topology, machine)
    if model.exchange == "gradients":
        return frozenset()
    if model.exchange == "factors":
        return frozenset(layer.name for layer in layers)
    return frozenset(layer.name for layer in layers if layer.saved_s(machine) > 0)


def own_in_blocks(model, stage, topology) -> frozenset[str]:
    """Names of the heads that one worker holds alone and updates from their factors.

    Where `exchange` is "factors", since it takes longer on CPUs; and only where the factors of its
    rows are small beside the gradient. Its norm, too, is formed from them then, by products of the
    square of `rows`, which are as small beside those of the layer.
    """
    if model.exchange != "factors":
        return frozenset()
    rows = stage.batch_size * stage.views.count
    holders = {
        "super head": (topology.workers, rows),
        "sub head": (topology.workers_per_super_class, rows // topology.super_classes),
    }
    return frozenset(
        name
        for name, (inputs, outputs) in head_shapes(model, stage).items()
        if holders[name][0] == 1
        and updated_in_blocks(inputs * outputs, stage.optimizer)
        and holders[name][1] * (inputs + outputs) <= inputs * outputs / _SMALL_FACTORS
    )


def leaves_early(kernel_values: int) -> bool:
    """Whether a kernel's gradient travels by itself, before the backward pass is through."""
    return kernel_values >= _LEAST_EARLY


def updated_in_blocks(kernel_values: int, optimizer) -> bool:
    """Whether a head is updated from factors some rows at a time, without its whole gradient.

    Args:
        kernel_values: size of its kernel.
        optimizer: experiment.Optimizer; only SGD with momentum and no other option can.
    """
    own = optimizer.of_heads
    able = own.name == "SGD" and own.momentum > 0 and not own.wrapper and not own.options.as_dict()
    return able and kernel_values >= _LEAST_IN_BLOCKS


def head_shapes(model, stage) -> dict[str, tuple[int, int]]:
    """{name: (inputs, outputs)} of the heads that learn."""
    inputs, classes = stage.feature_dim(feature_dim(model)), stage.super_classes
    if stage.loss == "product":
        return {"super head": (inputs, classes * stage.sub_clusters)}
    shapes = {"super head": (inputs, classes)}
    if stage.sub_clusters and not stage.has_prototypes:
        shapes["sub head"] = (inputs, stage.sub_classes)
    return shapes


def ring(size: float, members: int) -> float:
    """Bytes that a worker sends when `members` add up `size` bytes."""
    return 2 * size * (members - 1) / members


def _trunk_shapes(model) -> list[tuple[str, int, int]]:
    """(name, inputs, outputs) of each dense layer."""
    trunk = trunk_class(model.trunk)
    shapes = trunk.counts(**settings_of(model)).dense
    return [(name, *shape) for name, shape in zip(trunk.dense_layers, shapes, strict=True)]


def _projection_shapes(model, stage) -> list[tuple[str, int, int]]:
    """(name, inputs, outputs) of each layer."""
    hidden, dim, inputs = stage.projection.hidden, stage.projection.dim, feature_dim(model)
    if not dim:
        return []
    if not hidden:
        return [("projection output", inputs, dim)]
    return [("projection hidden", inputs, hidden), ("projection output", hidden, dim)]
