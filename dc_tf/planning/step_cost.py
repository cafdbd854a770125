"""Predicts the seconds of a training step on several workers from those of one worker.

    cost = step_cost(model, stage, Topology(64, 16), P4D, compute_s=0.8)
    cost.step_s, cost.wire_s, cost.hidden_s

What a worker computes by itself is measured, with as many images as it has on W workers. The rest
are messages, in rings: a sum of s bytes over W workers takes 2 (W - 1) times a latency and s / W
bytes, a gathering W - 1 times a latency and what a worker has. Messages of dense layers leave
during the backward pass (`training/gradients/overlap.py`) and cost what exceeds it; those of batch
norm and of all other gradients, and the products with the rows of other workers, are added.
"""

import dataclasses

from dc_tf.clustering.cost.hardware import Machine
from dc_tf.clustering.cost.model import all_sum_s
from dc_tf.planning.exchange import dense_layers, factored, leaves_early
from dc_tf.planning.training_cost import Messages

# Of a step's products the backward pass has two of three.
BACKWARD = 2 / 3


@dataclasses.dataclass(frozen=True)
class StepCost:
    """Seconds of a step on one worker, by part.

    Attributes:
        compute_s: of what it computes for its own images.
        product_s: of products with the rows of other workers.
        statistics_s: of batch norm's exchanges, for which both passes wait.
        early_s: of messages that leave during the backward pass.
        late_s: of messages behind it.
    """

    compute_s: float
    product_s: float
    statistics_s: float
    early_s: float
    late_s: float

    @property
    def wire_s(self) -> float:
        """Seconds of all messages."""
        return self.statistics_s + self.early_s + self.late_s

    @property
    def hidden_s(self) -> float:
        """Seconds of messages that travel while the backward pass computes."""
        return min(self.early_s, BACKWARD * self.compute_s)

    @property
    def step_s(self) -> float:
        return self.compute_s + self.product_s + self.wire_s - self.hidden_s


def step_cost(model, stage, topology, machine: Machine, compute_s: float) -> StepCost:
    """The cost of a step.

    Args:
        model: experiment.Model.
        stage: experiment.Stage.
        topology: Topology of the stage.
        machine: rates of products and wire.
        compute_s: seconds of a step of one worker alone with its share of the images.
    """
    names = factored(model, stage, topology, machine)
    layers = dense_layers(model, stage, topology)
    gathered = [layer for layer in layers if layer.name in names]
    summed = [
        layer
        for layer in layers
        if layer.name not in names and leaves_early(layer.inputs * layer.outputs)
    ]
    apart_s = sum(layer.gather_s(machine) for layer in gathered)
    apart_s += sum(layer.all_sum_s(machine) for layer in summed)
    rest = Messages.of(model, stage, topology, [*gathered, *summed])
    rest_s = _sum_s(rest.world, topology.workers, machine)
    rest_s += _sum_s(rest.own, topology.workers_per_super_class, machine)
    early = stage.accumulate == 1 and not model.xla
    return StepCost(
        compute_s=compute_s,
        product_s=sum(layer.product_s(machine) for layer in gathered),
        statistics_s=_statistics_s(rest, machine),
        early_s=apart_s if early else 0.0,
        late_s=rest_s if early else apart_s + rest_s,
    )


def _sum_s(size, members, machine):
    return all_sum_s(size, members, machine) if size else 0.0


def _statistics_s(messages, machine):
    """Each exchange has a latency of its own."""
    if not messages.statistics_count:
        return 0.0
    size = messages.statistics / messages.statistics_count
    return messages.statistics_count * all_sum_s(size, messages.statistics_members, machine)
