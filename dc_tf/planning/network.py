"""Predicts the steps of a planned run on a network of a given rate and latency.

    network = Network(gbps=10.0)
    for prediction in predictions(experiment.model, plan.stages[0], network, plan.on_gpu): ...

What a worker computes is what was measured on one worker without exchanges; on GPUs, without a
measurement, what an A100 and an H100 are assumed to reach (`step_cost.Gpu`).
"""

import dataclasses

from dc_tf.clustering.cost.hardware import CORE, P4D, Machine
from dc_tf.planning.step_cost import A100, H100, StepCost, step_cost

# Seconds of a short sum of batch norm between two CPU processes that compute in between, which
# wait for the slower one, too; docs/scaling.md, "Constants of messages".
_CPU_SUM_S = 2.1e-3


@dataclasses.dataclass(frozen=True)
class Network:
    """What connects each worker with the others.

    Attributes:
        gbps: 1e9 bits a second that a worker sends while it receives as many.
        latency_us: microseconds of a short message, all software included; None: 20 between GPUs,
            and 2,100 between CPUs, as measured where workers compute in between.
    """

    gbps: float
    latency_us: float | None = None

    def machine(self, on_gpu: bool) -> Machine:
        """`hardware.Machine` of a worker in it."""
        machine, latency_s = (P4D, P4D.wire_latency_s) if on_gpu else (CORE, _CPU_SUM_S)
        if self.latency_us is not None:
            latency_s = self.latency_us * 1e-6
        return dataclasses.replace(
            machine, wire_bytes_per_s=self.gbps * 1e9 / 8, wire_latency_s=latency_s
        )

    def text(self, on_gpu: bool) -> str:
        """Rate and latency, to read."""
        return f"{self.gbps:g} Gb/s and {self.machine(on_gpu).wire_latency_s * 1e6:,.0f} us"


@dataclasses.dataclass(frozen=True)
class Prediction:
    """A step of a stage.

    Attributes:
        source: of the seconds that a worker computes.
        cost: StepCost.
        images: of all workers in a step.
    """

    source: str
    cost: StepCost
    images: int

    @property
    def images_per_s(self) -> float:
        """Of all workers together."""
        return self.images / self.cost.step_s

    def as_dict(self) -> dict:
        """JSON-ready."""
        cost = self.cost
        return {
            "computing": self.source,
            "step_seconds": cost.step_s,
            "compute_seconds": cost.compute_s + cost.product_s,
            "message_seconds": cost.wire_s,
            "hidden_seconds": cost.hidden_s,
            "waiting_seconds": cost.waiting_s,
            "images_per_second": self.images_per_s,
            "efficiency": cost.efficiency,
            "limit": cost.limit,
        }


def predictions(
    model, plan, network: Network, on_gpu: bool, alone_images_per_s: float | None = None
) -> list[Prediction]:
    """Steps of a stage, for each known speed of computing; none on CPUs without a measurement.

    Args:
        model: experiment.Model.
        plan: plan.StagePlan.
        network: of the workers.
        on_gpu: whether the workers have GPUs.
        alone_images_per_s: speed of all workers together, measured without exchanges.
    """
    topology, images = plan.batch.topology, plan.batch.batch_size
    if alone_images_per_s:
        speeds = {"measured": images / alone_images_per_s}
    elif on_gpu:
        speeds = {
            gpu.name: gpu.compute_s(model, plan.stage, topology.workers) for gpu in (A100, H100)
        }
    else:
        speeds = {}
    machine, names = network.machine(on_gpu), frozenset(plan.size.factored)
    return [
        Prediction(source, step_cost(model, plan.stage, topology, machine, seconds, names), images)
        for source, seconds in speeds.items()
    ]
