"""Plans a run before it starts: its steps, and the bytes and memory of one worker.

    plan = make_plan(experiment, rows=96_000_000, workers=64)
    plan.scratch_bytes, plan.stages[0].steps_per_epoch
    print(as_text(plan))    # of report.py

Bytes follow from counts. Seconds need measured rates: `monitoring.rates.rates_of(run)` reads those
of a run, `training.measure.measure` takes some steps, `dc_tf doctor` measures the network.
"""

import dataclasses

from dc_tf.clustering.cost import model as clustering_cost
from dc_tf.clustering.cost.hardware import CORE, P4D, Machine
from dc_tf.data.input.batch_plan import BatchPlan
from dc_tf.nn.trunks import feature_dim
from dc_tf.planning.bank_cost import BankSize
from dc_tf.planning.stages import plan_stages
from dc_tf.planning.training_cost import StageSize, problem_of

# Memory of Python, TensorFlow and its libraries, as of a CPU in `clustering/cost/hardware.py`.
RUNTIME_BYTES = int(CORE.runtime_bytes)


@dataclasses.dataclass(frozen=True)
class StagePlan:
    """The work of a worker in one stage, and its cost.

    Attributes:
        stage: experiment.Stage.
        batch: BatchPlan.
        size: StageSize of the training.
        clustering: cost.model.Estimate of one clustering; None without.
        steps_per_epoch: optimisation steps.
        bank: BankSize.
    """

    stage: object
    batch: BatchPlan
    size: StageSize
    clustering: clustering_cost.Estimate | None
    steps_per_epoch: int
    bank: BankSize = BankSize()

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
        """Bytes that a worker sums per iteration over all k-means of the larger level."""
        if self.clustering is None or self.batch.topology.workers == 1:
            return 0
        return max(level.exchanged_bytes for level in self.clustering.levels)

    @property
    def disk_bytes(self) -> int:
        """Bytes on the worker's own disk: features, and the state of an unfinished clustering."""
        return int(self.clustering.disk_bytes) if self.clustering else 0

    @property
    def kept_clustering_bytes(self) -> int:
        """Centroids, distances, whitening and network of one clustering, in the run folder."""
        if self.clustering is None:
            return 0
        problem, size = self.clustering.problem, self.size
        centroids = problem.clusters if problem.clusters > 1 else 0
        centroids += problem.clusterings * problem.clusters * problem.sub_clusters
        numbers = problem.dim * (centroids + problem.raw_dim) + problem.raw_dim
        counts = problem.clusterings * problem.clusters * max(1, problem.sub_clusters)
        return 4 * (numbers + size.network_weights + size.statistics) + 8 * (counts + problem.rows)

    @property
    def host_bytes(self) -> int:
        """Least host memory, in addition to a GPU's."""
        clustering = int(self.clustering.memory.host) if self.clustering else 0
        return max(RUNTIME_BYTES + self.trained_host_bytes, clustering + self.size.row_bytes)

    @property
    def trained_host_bytes(self) -> int:
        """Host memory of training in any case, without Python and TensorFlow."""
        return self.size.host_bytes + self.bank.host_bytes

    @property
    def device_bytes(self) -> int:
        """Least memory of the GPU."""
        clustering = int(self.clustering.memory.device) if self.clustering else 0
        return max(self.size.device_bytes, clustering + 4 * self.size.network_weights)


@dataclasses.dataclass(frozen=True)
class Plan:
    """A run on some workers.

    Attributes:
        rows: N of the data set.
        workers: W.
        stages: tuple of StagePlan.
        checkpoint_every, keep_checkpoints, keep_clusterings: of the experiment.
        on_gpu: whether the workers have GPUs; else all memory is the host's.
        model: experiment.Model.
    """

    rows: int
    workers: int
    stages: tuple[StagePlan, ...]
    checkpoint_every: int
    keep_checkpoints: int
    keep_clusterings: int
    on_gpu: bool
    model: object

    @property
    def steps(self) -> int:
        return sum(stage.steps for stage in self.stages)

    @property
    def kept_clusterings(self) -> int:
        """Most clusterings that are kept at a time; prototypes need at least that of the round."""
        return max(each.stage.kept_clusterings(self.keep_clusterings) for each in self.stages)

    @property
    def scratch_bytes(self) -> int:
        """Bytes on each worker's own disk."""
        return max(stage.disk_bytes for stage in self.stages)

    @property
    def shared_bytes(self) -> int:
        """On the disk of the run folder: checkpoints, assignments, kept centroids, a bank."""
        sizes = [stage.size.checkpoint_bytes for stage in self.stages]
        clustered = [stage.stage for stage in self.stages if stage.stage.clustered]
        rounds = sum(stage.rounds for stage in clustered)
        # Those that are kept and the one that is written; one of each stage's end.
        checkpoints = (self.keep_checkpoints + 1) * max(sizes) + sum(sizes)
        # A cluster and sub-clusters of each row.
        labels = sum(stage.rounds * (4 + 4 * stage.clusterings) for stage in clustered)
        bank = max(stage.bank.shared_bytes for stage in self.stages)
        return checkpoints + labels * self.rows + self._kept_bytes(rounds) + bank

    def _kept_bytes(self, rounds):
        """Of the kept clusterings, and of the one being written."""
        if not self.kept_clusterings:
            return 0
        largest = max(stage.kept_clustering_bytes for stage in self.stages)
        return min(self.kept_clusterings + 1, rounds) * largest

    @property
    def host_bytes(self) -> int:
        host = max(stage.host_bytes for stage in self.stages)
        if self.on_gpu:
            return host
        trained = max(stage.size.device_bytes + stage.trained_host_bytes for stage in self.stages)
        return max(host, RUNTIME_BYTES + trained)

    @property
    def device_bytes(self) -> int:
        return max(stage.device_bytes for stage in self.stages) if self.on_gpu else 0


@dataclasses.dataclass(frozen=True)
class Rates:
    """Measured rates and their source.

    Attributes:
        images_per_s: {stage index: images a second of all workers together, in training}.
        source: who measured them.
        extract_per_s: images a second of all workers in feature extraction; None: unknown.
        machine: clustering.cost.hardware.Machine for the rest of a clustering; None: unknown.
        notes: {stage index: how it was measured, or why not}.
        first_steps_s: seconds of the first steps of all stages, in which TensorFlow compiles.
        without_exchanges: whether the steps were those of one worker that exchanges nothing.
        seconds: time that the measurement took; 0 without one.
    """

    images_per_s: dict[int, float] = dataclasses.field(default_factory=dict)
    source: str = ""
    extract_per_s: float | None = None
    machine: Machine | None = None
    notes: dict[int, str] = dataclasses.field(default_factory=dict)
    first_steps_s: float = 0.0
    without_exchanges: bool = False
    seconds: float = 0.0

    def clusterings_s(self, stage: StagePlan) -> float | None:
        """Seconds of all clusterings of a stage; None if unknown."""
        if stage.clustering is None or not self.extract_per_s or self.machine is None:
            return None
        cost = clustering_cost.estimate(stage.clustering.problem, self.machine)
        extraction_s = cost.problem.rows / self.extract_per_s
        clusterings_s = stage.stage.rounds * (cost.whiten_s + cost.kmeans_s)
        return stage.stage.extractions * extraction_s + clusterings_s


def make_plan(experiment, rows: int, workers: int, on_gpu: bool = False) -> Plan:
    """The plan of an experiment.

    Raises:
        ConfigError: the experiment does not fit the workers or the rows.
    """
    batches = plan_stages(experiment, rows, workers)
    machine = P4D if on_gpu else CORE  # for its bytes
    stages = []
    for stage, batch in zip(experiment.stages, batches, strict=True):
        problem = problem_of(experiment, stage, rows, workers)
        dim = stage.feature_dim(feature_dim(experiment.model))
        stages.append(
            StagePlan(
                stage=stage,
                batch=batch,
                size=StageSize.of(experiment, stage, workers, rows, on_gpu),
                clustering=problem and clustering_cost.estimate(problem, machine),
                steps_per_epoch=batch.steps(rows),
                bank=BankSize.of(stage, batch, rows, dim),
            )
        )
    return Plan(
        rows,
        workers,
        tuple(stages),
        experiment.checkpoint_every,
        experiment.keep_checkpoints,
        experiment.keep_clusterings,
        on_gpu,
        experiment.model,
    )
