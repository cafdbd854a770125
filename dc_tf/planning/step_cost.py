"""Predicts the seconds of a training step on several workers from those of one worker.

    cost = step_cost(model, stage, Topology(64, 16), P4D, compute_s=0.8)
    cost.step_s, cost.wire_s, cost.hidden_s, cost.limit

What a worker computes by itself is measured, with as many images as it has on W workers, or
assumed from a GPU's rate (`Gpu`). The rest are messages, in rings: a sum of s bytes over W workers
takes 2 (W - 1) times a latency and s / W bytes, a gathering W - 1 times a latency and what a worker
has. Messages of dense layers and wide convolutions leave during the backward pass
(`training/gradients/overlap.py`) and cost what exceeds it; those of batch norm and of all other
gradients, and the products with the rows of other workers, are added. Where CPUs compute, handling
a message takes time from computing (`Machine.message_cpu_s`), also while it is hidden.
"""

import dataclasses
import math

from dc_tf.clustering.cost.hardware import Machine
from dc_tf.clustering.cost.model import all_sum_s
from dc_tf.planning.exchange import (
    dense_layers,
    factored,
    gradient_bytes,
    head_shapes,
    leaves_early,
    ring,
)
from dc_tf.planning.training_cost import Messages, counts_of, sums_directly

# Of a step's products the backward pass has two of three.
BACKWARD = 2 / 3


@dataclasses.dataclass(frozen=True)
class StepCost:
    """Seconds of a step on one worker, by part.

    Attributes:
        compute_s: of what it computes for its own images.
        product_s: of products with the rows of other workers.
        statistics_s: of the exchanges of batch norm and `Stage.contrast`, for which both passes
            wait.
        early_s: of messages that leave during the backward pass, on the wire.
        late_s: of messages behind it, on the wire.
        early_cpu_s, late_cpu_s: of handling them, in which the worker does not compute.
    """

    compute_s: float
    product_s: float
    statistics_s: float
    early_s: float
    late_s: float
    early_cpu_s: float = 0.0
    late_cpu_s: float = 0.0

    @property
    def wire_s(self) -> float:
        """Seconds of all messages."""
        return self.statistics_s + self.early_s + self.late_s

    @property
    def hidden_s(self) -> float:
        """Seconds of messages that travel while the backward pass computes."""
        return min(self.early_s, BACKWARD * self.compute_s + self.early_cpu_s)

    @property
    def waiting_s(self) -> float:
        """Seconds in which the worker neither computes nor handles messages."""
        late_s = max(0.0, self.late_s - self.late_cpu_s)
        return self.statistics_s + self.early_s - self.hidden_s + late_s

    @property
    def busy_s(self) -> float:
        """Seconds of computing and of handling messages."""
        return self.compute_s + self.product_s + self.early_cpu_s + self.late_cpu_s

    @property
    def step_s(self) -> float:
        return self.busy_s + self.waiting_s

    @property
    def efficiency(self) -> float:
        """Share of the step in which the worker computes for its own images."""
        return self.compute_s / self.step_s

    @property
    def limit(self) -> str:
        """What takes most of the step's time."""
        parts = {
            "computing": self.compute_s,
            "products of others' rows": self.product_s,
            "handling messages": self.early_cpu_s + self.late_cpu_s,
            "latency of batch norm": self.statistics_s,
            "the wire": self.waiting_s - self.statistics_s,
        }
        return max(parts, key=parts.get)

    def without_overlap(self) -> "StepCost":
        """The step whose messages all wait for the end of the backward pass."""
        return dataclasses.replace(
            self,
            early_s=0.0,
            late_s=self.early_s + self.late_s,
            early_cpu_s=0.0,
            late_cpu_s=self.early_cpu_s + self.late_cpu_s,
        )


def step_cost(
    model, stage, topology, machine: Machine, compute_s: float, names: frozenset | None = None
) -> StepCost:
    """The cost of a step.

    Args:
        model: experiment.Model.
        stage: experiment.Stage.
        topology: Topology of the stage.
        machine: rates of products and wire.
        compute_s: seconds of a step of one worker alone with its share of the images.
        names: of the dense layers that travel as factors; None: as chosen for `machine`.
    """
    names = factored(model, stage, topology, machine) if names is None else names
    layers = dense_layers(model, stage, topology, machine)
    gathered = [layer for layer in layers if layer.name in names]
    summed = [
        layer
        for layer in layers
        if layer.name not in names and leaves_early(layer.inputs * layer.outputs)
    ]
    rest = Messages.of(model, stage, topology, machine, [*gathered, *summed])
    one_pass = stage.accumulate == 1 and not model.xla
    several = topology.workers > 1
    number = gradient_bytes(model, topology.workers, machine)
    convs = number * _early_conv_values(model) if one_pass and several else 0
    apart_s = sum(layer.gather_s(machine) for layer in gathered)
    apart_s += sum(layer.all_sum_s(machine) for layer in summed)
    apart_s += _sum_s(convs, topology.workers, machine)
    apart = sum(layer.sent_as_factors for layer in gathered)
    apart += sum(layer.sent_as_gradients for layer in summed) + ring(convs, topology.workers)
    rest_s = _sum_s(rest.world - convs, topology.workers, machine)
    rest_s += _sum_s(rest.own, topology.workers_per_super_class, machine)
    rest_sent = ring(rest.world - convs, topology.workers)
    rest_sent += ring(rest.own, topology.workers_per_super_class)
    cost = StepCost(
        compute_s=compute_s,
        product_s=sum(layer.product_s(machine) for layer in gathered),
        statistics_s=_statistics_s(rest, machine)
        + _sum_s(rest.views, topology.workers_per_super_class, machine),
        early_s=apart_s,
        late_s=rest_s,
        early_cpu_s=apart * machine.message_cpu_s,
        late_cpu_s=rest_sent * machine.message_cpu_s,
    )
    return cost if one_pass else cost.without_overlap()


@dataclasses.dataclass(frozen=True)
class Gpu:
    """Rates of a whole training step, all of its kernels included.

    Attributes:
        name: for people.
        float32_flops, bfloat16_flops: FLOP/s of `step_flops`.
    """

    name: str
    float32_flops: float
    bfloat16_flops: float

    def compute_s(self, model, stage, workers: int) -> float:
        """Seconds of a step of one worker's images."""
        halved = model.compute_dtype in ("bfloat16", "float16")
        rate = self.bfloat16_flops if halved else self.float32_flops
        return step_flops(model, stage) / workers / rate


# 471 and 2353 images/s of VGG-16 at 224 pixels, measured (benchmarks/results/gpu.md).
H100 = Gpu("H100", float32_flops=44e12, bfloat16_flops=221e12)
# Not measured: the same share of the data sheet's peaks, 19.5 of 67 and 312 of 989 TFLOP/s.
A100 = Gpu("A100", float32_flops=12.8e12, bfloat16_flops=69.7e12)


def step_flops(model, stage) -> float:
    """FLOPs of the products of a step over all images: forward, and twice as many backward.

    Args:
        model: experiment.Model.
        stage: experiment.Stage.
    """
    macs = sum(
        count * _network_macs(counts_of(model, side))
        for side, count in stage.views.sizes(model.resolution)
    )
    # Each image goes through one sub head only.
    macs += stage.views.count * sum(
        math.prod(shape) for shape in head_shapes(model, stage).values()
    )
    return 6.0 * stage.batch_size * macs


def _network_macs(counts):
    convs = sum(c.kernel**2 * c.inputs * c.outputs * c.side**2 for c in counts.convs)
    return convs + sum(inputs * outputs for inputs, outputs in counts.dense)


def _early_conv_values(model):
    """Values of the kernels whose gradients leave during the backward pass."""
    sizes = (conv.kernel**2 * conv.inputs * conv.outputs for conv in counts_of(model).convs)
    return sum(size for size in sizes if leaves_early(size))


def _sum_s(size, members, machine):
    return all_sum_s(size, members, machine) if size else 0.0


def _statistics_s(messages, machine):
    """Each exchange has latencies of its own: one between CPUs, and NCCL's two ways of a tree."""
    if not messages.statistics_count:
        return 0.0
    size, members = messages.statistics / messages.statistics_count, messages.statistics_members
    if sums_directly(machine):
        each_s = machine.wire_latency_s + (members - 1) * size / machine.wire_bytes_per_s
    else:
        hops = 2 * math.ceil(math.log2(members))
        each_s = hops * machine.wire_latency_s + ring(size, members) / machine.wire_bytes_per_s
    return messages.statistics_count * each_s
