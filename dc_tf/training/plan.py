"""What a run will do and what it will cost a worker, before anything is started.

    plan = make_plan(experiment, rows=96_000_000, workers=64)
    print(as_text(plan))
    plan.disk_bytes, plan.stages[0].steps_per_epoch

Bytes are computed from counts. Seconds are given only where a rate was measured on these machines:
`rates_of(run)` finds what a run has written, `dc_tf doctor` measures the network.
"""

import dataclasses
import os

from dc_tf.clustering import cost as clustering_cost
from dc_tf.clustering.machines import CORE, P4D
from dc_tf.data.sampler import BatchPlan
from dc_tf.training.cost import StageSize, problem_of
from dc_tf.training.loop import plan_stages
from dc_tf.training.metrics import read

# Of Python, TensorFlow and its libraries: without a GPU as `clustering/machines.py` has it.
RUNTIME_BYTES = int(CORE.runtime_bytes)
# Lines of the plan about who serves what, before they are cut.
_SHOWN_GROUPS = 4


@dataclasses.dataclass(frozen=True)
class StagePlan:
    """What a worker does in one stage, and what it needs for it.

    Attributes:
        stage: experiment.Stage.
        batch: BatchPlan.
        size: StageSize of the training.
        clustering: clustering.cost.Estimate of one clustering, or None without.
        steps_per_epoch: optimisation steps.
    """

    stage: object
    batch: BatchPlan
    size: StageSize
    clustering: clustering_cost.Estimate | None
    steps_per_epoch: int

    @property
    def steps(self) -> int:
        return self.steps_per_epoch * self.stage.epochs

    @property
    def groups(self) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """(ranks, the super-classes that they serve), for all workers."""
        topology = self.batch.topology
        firsts = range(0, topology.workers, topology.workers_per_super_class)
        return [(topology.sharers(rank), topology.served(rank)) for rank in firsts]

    @property
    def iteration_bytes(self) -> int:
        """That a worker puts into the sums of one iteration of all k-means of the larger level."""
        if self.clustering is None or self.batch.topology.workers == 1:
            return 0
        return max(level.exchanged_bytes for level in self.clustering.levels)

    @property
    def disk_bytes(self) -> int:
        """On the worker's own disk: features, and what a restart of the clustering goes on from."""
        return int(self.clustering.disk_bytes) if self.clustering else 0

    @property
    def host_bytes(self) -> int:
        """Of host memory at the least, beside a GPU."""
        clustering = int(self.clustering.memory.host) if self.clustering else 0
        return max(RUNTIME_BYTES + self.size.host_bytes, clustering + self.size.row_bytes)

    @property
    def device_bytes(self) -> int:
        """Of the GPU's memory at the least."""
        clustering = int(self.clustering.memory.device) if self.clustering else 0
        return max(self.size.device_bytes, clustering + 4 * self.size.trunk_weights)


@dataclasses.dataclass(frozen=True)
class Plan:
    """A run on some workers.

    Attributes:
        rows: N of the data set.
        workers: W.
        stages: tuple of StagePlan.
        checkpoint_every, keep_checkpoints: of the experiment.
        on_gpu: whether the workers have GPUs; else all memory is the host's.
    """

    rows: int
    workers: int
    stages: tuple[StagePlan, ...]
    checkpoint_every: int
    keep_checkpoints: int
    on_gpu: bool

    @property
    def steps(self) -> int:
        return sum(stage.steps for stage in self.stages)

    @property
    def scratch_bytes(self) -> int:
        """On each worker's own disk at a time."""
        return max(stage.disk_bytes for stage in self.stages)

    @property
    def shared_bytes(self) -> int:
        """On the disk of the run folder: checkpoints, and the assignments of all clusterings."""
        sizes = [stage.size.checkpoint_bytes for stage in self.stages]
        rounds = sum(stage.stage.rounds for stage in self.stages if stage.stage.clustered)
        # Those that are kept and the one that is written; one of each stage's end; 8 bytes a row.
        return (self.keep_checkpoints + 1) * max(sizes) + sum(sizes) + 8 * self.rows * rounds

    @property
    def host_bytes(self) -> int:
        host = max(stage.host_bytes for stage in self.stages)
        if self.on_gpu:
            return host
        trained = max(stage.size.device_bytes + stage.size.host_bytes for stage in self.stages)
        return max(host, RUNTIME_BYTES + trained)

    @property
    def device_bytes(self) -> int:
        return max(stage.device_bytes for stage in self.stages) if self.on_gpu else 0


@dataclasses.dataclass(frozen=True)
class Rates:
    """What was measured, and by whom.

    Attributes:
        images_per_s: {stage index: images a second of all workers together}.
        source: who says so.
    """

    images_per_s: dict[int, float] = dataclasses.field(default_factory=dict)
    source: str = ""


def make_plan(experiment, rows: int, workers: int, on_gpu: bool = False) -> Plan:
    """The plan of an experiment.

    Raises:
        ConfigError: the experiment does not fit the workers or the rows.
    """
    batches = plan_stages(experiment, rows, workers)
    machine = P4D if on_gpu else CORE  # only its bytes are used, none of its rates
    stages = []
    for stage, batch in zip(experiment.stages, batches):
        problem = problem_of(experiment, stage, rows, workers)
        stages.append(
            StagePlan(
                stage=stage,
                batch=batch,
                size=StageSize.of(experiment, stage, workers, rows),
                clustering=problem and clustering_cost.estimate(problem, machine),
                steps_per_epoch=batch.steps(rows),
            )
        )
    return Plan(
        rows,
        workers,
        tuple(stages),
        experiment.checkpoint_every,
        experiment.keep_checkpoints,
        on_gpu,
    )


def rates_of(run) -> Rates:
    """What the run in a folder has measured so far: the median speed of each stage."""
    if not os.path.exists(run.metrics):
        return Rates()
    speeds: dict[int, list[float]] = {}
    for line in read(run.metrics):
        if line["event"] == "train":
            speeds.setdefault(line["stage"], []).append(line["images_per_second"])
    medians = {stage: sorted(found)[len(found) // 2] for stage, found in speeds.items()}
    return Rates(medians, f"measured by the run in {run.path} so far")


def as_text(plan: Plan, rates: Rates = Rates()) -> str:  # noqa: B008
    """The plan for people."""
    lines = [
        ("data set", f"{plan.rows:,} images"),
        ("workers", f"{plan.workers}, each on {'one GPU' if plan.on_gpu else 'CPUs'}"),
    ]
    for index, stage in enumerate(plan.stages):
        lines += _stage_lines(index, stage, rates)
    lines += [
        (
            "checkpoints",
            f"every {plan.checkpoint_every:,} steps, after each round and each stage; the newest "
            f"{plan.keep_checkpoints} and those of stages' ends are kept",
        ),
        ("all steps", f"{plan.steps:,}"),
        ("memory", f"at least {size(plan.host_bytes)} of the host for each worker"),
    ]
    if plan.on_gpu:
        lines.append(("GPU memory", f"at least {size(plan.device_bytes)} for each worker"))
    lines += [
        ("scratch disk", f"{size(plan.scratch_bytes)} for each worker (DC_TF_SCRATCH)"),
        ("run folder", f"up to {size(plan.shared_bytes)}, shared by all"),
    ]
    return "\n".join(f"{name:<13} {value}" for name, value in lines)


def as_dict(plan: Plan, rates: Rates = Rates()) -> dict:  # noqa: B008
    """The plan for programs; sizes in bytes, those of a worker unless they say otherwise."""
    return {
        "rows": plan.rows,
        "workers": plan.workers,
        "steps": plan.steps,
        "memory_bytes": plan.host_bytes,
        "gpu_memory_bytes": plan.device_bytes,
        "scratch_bytes": plan.scratch_bytes,
        "shared_bytes": plan.shared_bytes,
        "stages": [_stage_dict(i, stage, rates) for i, stage in enumerate(plan.stages)],
    }


def seconds_of(index: int, plan: StagePlan, rates: Rates) -> float | None:
    """Seconds that training takes for all epochs of a stage, if its speed was measured."""
    speed = rates.images_per_s.get(index)
    return plan.steps * plan.batch.batch_size / speed if speed else None


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.4g} TB"


def _stage_lines(index, plan, rates):
    stage, batch = plan.stage, plan.batch
    yield (
        f"stage {index}",
        f"{stage.name}: {stage.epochs} epochs of {plan.steps_per_epoch:,} steps; a step has "
        f"{batch.batch_size:,} images, {batch.per_worker} of each worker",
    )
    yield from (("", f"  {text}") for text in _topology_lines(plan))
    if stage.clustered:
        yield "", f"  {_clustering_text(plan)}"
    if batch.topology.workers > 1:
        yield (
            "",
            f"  all-reduce: {size(plan.size.exchanged_bytes)} a step of each worker"
            + (
                f", {size(plan.iteration_bytes)} an iteration of k-means"
                if plan.iteration_bytes
                else ""
            ),
        )
    yield "", f"  {_time_text(index, plan, rates)}"


def _topology_lines(plan):
    groups = plan.groups
    shown = groups if len(groups) <= _SHOWN_GROUPS else [*groups[: _SHOWN_GROUPS - 1], groups[-1]]
    for number, (ranks, classes) in enumerate(shown):
        if number == _SHOWN_GROUPS - 1 and len(groups) > _SHOWN_GROUPS:
            yield "..."
        workers = f"worker{'s' if len(ranks) > 1 else ''} {_span(ranks)}"
        yield f"{workers}: super-class{'es' if len(classes) > 1 else ''} {_span(classes)}"


def _clustering_text(plan):
    stage, cost = plan.stage, plan.clustering
    problem = cost.problem
    text = f"{stage.rounds} clusterings, every {stage.reassign_every} epochs, into {stage.clusters}"
    if stage.sub_clusters:
        text += f" x {stage.sub_clusters:,}"
    return (
        f"{text} clusters of {problem.dim} components; a worker extracts {problem.own_rows:,} "
        f"images and keeps {size(cost.store_bytes)} of features"
    )


def _time_text(index, plan, rates):
    seconds = seconds_of(index, plan, rates)
    if seconds is None:
        return "time: not known, since no speed was measured"
    return (
        f"time: {_duration(seconds)} of training at {rates.images_per_s[index]:,.0f} images a "
        f"second ({rates.source}), without clustering"
    )


def _stage_dict(index, plan, rates):
    return {
        "name": plan.stage.name,
        "epochs": plan.stage.epochs,
        "steps_per_epoch": plan.steps_per_epoch,
        "clusterings": plan.stage.rounds if plan.stage.clustered else 0,
        "batch_per_worker": plan.batch.per_worker,
        "serves": [
            {"workers": list(ranks), "super_classes": list(classes)}
            for ranks, classes in plan.groups
        ],
        "weights": plan.size.weights,
        "step_bytes": plan.size.exchanged_bytes,
        "iteration_bytes": plan.iteration_bytes,
        "feature_bytes": int(plan.clustering.store_bytes) if plan.clustering else 0,
        "checkpoint_bytes": plan.size.checkpoint_bytes,
        "train_seconds": seconds_of(index, plan, rates),
    }


def _span(numbers):
    first, last = numbers[0], numbers[-1]
    return str(first) if first == last else f"{first}-{last}"


def _duration(seconds):
    for unit, length in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} seconds"
