"""Predicts the cost of a clustering: seconds, FLOPs, bytes and memory of one worker.

Plain arithmetic on counts, without TensorFlow: for each step of `kmeans.py` and `hierarchy.py`,
the operations per row, component or centroid times their cost on the hardware. `docs/scaling.md`
derives the formulas and compares them with measured times.

    problem = Problem(rows=96_000_000, dim=4096, clusters=4, sub_clusters=80_000, workers=64)
    cost = estimate(problem, P4D)
    cost.seconds, cost.level2.iteration_s, cost.memory.total, cost.disk_bytes
"""

import dataclasses
import math

from dc_tf.clustering.cost.hardware import Machine
from dc_tf.distributed.blocks import MESSAGE_BYTES
from dc_tf.errors import ConfigError
from dc_tf.kmeans_options import PRECISIONS, KMeansOptions, choice

# Rows that are wanted are read in one piece, others between them included, if there is one in so
# many bytes (`row_file.py`).
_BYTES_PER_CALL = 16 << 10
# What is added to a product takes the place of so many components (`score_product.py`).
_OFFSETS = {"float32": 3, "bfloat16": 6}
# Rows to move to other clusters are collected up to this size, then joined (`assign.py`).
_PROPOSED_BYTES = 16 << 20
# Temporaries of the assignment with ample memory (`tiles.py`), by whether on a GPU; with less
# memory, chunks are smaller.
TEMPORARIES = {False: 256 << 20, True: 2 << 30}
# Two snapshots are kept while the next is written (`resume.py`, which needs TensorFlow).
_SNAPSHOTS = 3
# Of a number.
ITEM_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}


@dataclasses.dataclass(frozen=True)
class Problem:
    """Rows to cluster and the settings.

    Attributes:
        rows: of all workers.
        dim: components of a row.
        clusters: m of the first level; k of plain k-means.
        sub_clusters: k inside each cluster; 0 for plain k-means.
        clusterings: of the second level.
        workers: W; each has rows / W.
        iterations: of Lloyd, at each level.
        precision: "float32" or "bfloat16", of the products.
        store_dtype: of the rows on the disk.
        raw_dim: components before whitening; 0 if rows are clustered as they are.
        moved: share of the rows that change their cluster, the mean of all passes but the first.
        memory_bytes, cache_bytes: as in `KMeansOptions`.
    """

    rows: int
    dim: int
    clusters: int
    sub_clusters: int = 0
    workers: int = 1
    iterations: int = KMeansOptions.iterations
    precision: str = KMeansOptions.precision
    store_dtype: str = "float16"
    raw_dim: int = 0
    moved: float = 0.1
    memory_bytes: int | None = KMeansOptions.memory_bytes
    cache_bytes: int = KMeansOptions.cache_bytes
    clusterings: int = 1

    def __post_init__(self):
        counts = (self.rows, self.dim, self.clusters, self.clusterings, self.workers)
        if min(counts) < 1 or min(self.sub_clusters, self.iterations, self.raw_dim) < 0:
            raise ConfigError(
                f"{self} is impossible; rows, dim, clusters, clusterings and workers are at least "
                "1, the others at least 0."
            )
        choice("precision", self.precision, PRECISIONS)
        choice("store_dtype", self.store_dtype, tuple(ITEM_BYTES))

    @property
    def own_rows(self) -> int:
        """Rows of the worker that has most."""
        return -(-self.rows // self.workers)

    @property
    def row_bytes(self) -> int:
        """Of a row on the disk."""
        return self.dim * ITEM_BYTES[self.store_dtype]

    @property
    def store_bytes(self) -> int:
        """Of the features of one worker, as they are clustered."""
        return self.own_rows * self.row_bytes


@dataclasses.dataclass(frozen=True)
class Level:
    """One level: a k-means, or several one after the other.

    Attributes:
        problems: how many.
        k: clusters of each.
        flops: of the products of one worker, all passes.
        read_bytes: from the disk by one worker, all passes; fewer if the system keeps them.
        exchanged_bytes: that a worker puts into the sums of one iteration of all problems.
        sent_bytes: that it sends for that in a ring.
        row_stats_s, start_s: one pass over all rows for `RowStats`, and the initial centroids.
        assign_s: nearest centroids of the rows, all passes (the E-step).
        move_s: rows in and out of sums, all passes (the M-step, what depends on rows).
        centroids_s: what depends on the size of centroids only, all passes.
        exchange_s: on the wire, without what overlaps with `centroids_s`.
        iteration_s: one iteration that is not the first, of all problems.
    """

    problems: int
    k: int
    flops: float
    read_bytes: float
    exchanged_bytes: int
    sent_bytes: float
    row_stats_s: float
    start_s: float
    assign_s: float
    move_s: float
    centroids_s: float
    exchange_s: float
    iteration_s: float

    @property
    def shared_s(self) -> float:
        """Seconds that decrease with more workers."""
        return self.row_stats_s + self.assign_s + self.move_s

    @property
    def fixed_s(self) -> float:
        """Seconds that do not decrease with more workers."""
        return self.start_s + self.centroids_s + self.exchange_s

    @property
    def seconds(self) -> float:
        """Of the level."""
        return self.shared_s + self.fixed_s


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of one worker at the peak of its largest problem.

    Attributes:
        centroids: in host memory: (k, dim) float32 of this iteration and the next.
        factors: the centroids as factors of products, and in float32.
        sums: (k, dim) float64.
        temporaries: of the assignment; its bound.
        cache: rows kept as factors of products; its bound.
        moving: rows to move to other clusters.
        messages: blocks of sums that are exchanged.
        rows: labels, norms and positions, and copies of them while clusters are counted.
        runtime: Python and TensorFlow.
        on_device: whether factors, sums, temporaries and cache are in GPU memory.
    """

    centroids: float
    factors: float
    sums: float
    temporaries: float
    cache: float
    moving: float
    messages: float
    rows: float
    runtime: float
    on_device: bool

    @property
    def device(self) -> float:
        return self._for_products if self.on_device else 0

    @property
    def host(self) -> float:
        own = self.centroids + self.moving + self.messages + self.rows + self.runtime
        return own + (0 if self.on_device else self._for_products)

    @property
    def total(self) -> float:
        return self.host + self.device

    @property
    def _for_products(self):
        return self.factors + self.sums + self.temporaries + self.cache


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What a clustering costs on a machine; bytes and seconds are those of one worker.

    Attributes:
        problem, machine: of the estimate.
        level1: None where there is one cluster.
        level2: None where there are no sub-clusters.
        whiten_s: 0 if rows are clustered as they are.
        extract_s: 0 if `machine.images_per_s` is None.
        memory: `Memory`.
        store_bytes: features on the disk; before and after whitening if they differ in length.
        snapshot_bytes: of the snapshots on the disk.
    """

    problem: Problem
    machine: Machine
    level1: Level | None
    level2: Level | None
    whiten_s: float
    extract_s: float
    memory: Memory
    store_bytes: float
    snapshot_bytes: float

    @property
    def levels(self) -> list[Level]:
        return [level for level in (self.level1, self.level2) if level]

    @property
    def kmeans_s(self) -> float:
        return sum(level.seconds for level in self.levels)

    @property
    def seconds(self) -> float:
        return self.extract_s + self.whiten_s + self.kmeans_s

    @property
    def flops(self) -> float:
        return sum(level.flops for level in self.levels)

    @property
    def exchanged_bytes(self) -> int:
        return sum(level.exchanged_bytes for level in self.levels)

    @property
    def disk_bytes(self) -> float:
        return self.store_bytes + self.snapshot_bytes

    @property
    def lacking(self) -> list[str]:
        """Those of "memory", "device memory" and "disk" that the machine has too little of."""
        machine = self.machine
        device = math.inf if machine.device_bytes is None else machine.device_bytes
        needed = {
            "memory": (self.memory.host, machine.host_bytes),
            "device memory": (self.memory.device, device),
            "disk": (self.disk_bytes, machine.disk_bytes),
        }
        return [what for what, (need, has) in needed.items() if need > has]


def estimate(problem: Problem, machine: Machine) -> Estimate:
    """The cost of a clustering, from the first feature to the last label."""
    memory = memory_of(problem, machine)
    spare = machine.host_bytes - memory.host
    kept = problem.store_bytes <= spare
    m, k = problem.clusters, problem.sub_clusters
    own = problem.own_rows
    level1 = _level(problem, machine, 1, m, own, kept) if m > 1 else None
    level2 = _level(problem, machine, m, k, -(-own // m), kept) if k else None
    if level2 and problem.clusterings > 1:
        level2 = _repeated(level2, problem.clusterings)
    raw_bytes = own * problem.raw_dim * ITEM_BYTES[problem.store_dtype]
    in_place = problem.raw_dim == problem.dim
    labels = (8 + 4 * problem.clusterings) * own + 4 * max(m, k) * problem.dim
    return Estimate(
        problem,
        machine,
        level1,
        level2,
        whiten_s=_whiten_s(problem, machine, raw_bytes, raw_bytes <= spare),
        extract_s=own / machine.images_per_s if machine.images_per_s else 0.0,
        memory=memory,
        store_bytes=problem.store_bytes + (0 if in_place else raw_bytes),
        snapshot_bytes=_SNAPSHOTS * labels,
    )


def _repeated(level, times) -> Level:
    """A level whose problems are all solved so many times."""
    values = dataclasses.asdict(level)
    k = values.pop("k")
    return Level(k=k, **{name: times * value for name, value in values.items()})


def efficiency(problem: Problem, machine: Machine) -> float:
    """Share of the seconds of k-means that decrease with more workers; 1 if it takes none."""
    levels = estimate(problem, machine).levels
    seconds = sum(level.seconds for level in levels)
    return sum(level.shared_s for level in levels) / seconds if seconds else 1.0


def exchanged_bytes(k: int, dim: int, rows: int) -> int:
    """Bytes that a worker puts into the sums of an iteration in which no cluster is empty.

    Sums in float32, counts in int32 or, from 2^31 rows on, int64, and the objective in float64;
    equal to `KMeansResult.exchanged_bytes`.
    """
    return k * (4 * dim + (4 if rows < 2**31 else 8)) + 8


def all_sum_s(size: float, workers: int, machine: Machine) -> float:
    """Seconds of one sum of `size` bytes in a ring: 2 (W - 1) steps of 1 / W of them."""
    steps = 2 * (workers - 1)
    return steps * (machine.wire_latency_s + size / workers / machine.wire_bytes_per_s)


def subset_read_bytes(row_bytes: int, parts: int) -> int:
    """Bytes that are read for each row of one part of the rows, the parts being mixed evenly."""
    together = row_bytes * parts
    return together if together <= _BYTES_PER_CALL else row_bytes


def _level(problem, machine, problems, k, rows, kept) -> Level:
    """`problems` k-means into k of `rows` rows of this worker each."""
    dim, passes = problem.dim, problem.iterations + 1
    all_rows = problem.rows // problems
    cached = rows * _factor_bytes(problem, k) <= problem.cache_bytes
    read = rows * subset_read_bytes(problem.row_bytes, problems)
    disk_s = 0.0 if kept else read / machine.disk_bytes_per_s
    scattered_s = machine.scattered_s if problems > 1 else 0.0
    row_stats_s = rows * dim * (machine.row_stats_s + scattered_s) + disk_s
    again_s = rows * dim * (machine.component_s + scattered_s) + disk_s
    products_s = rows * (k * _score_s(problem, machine, k) + machine.row_s)
    first_s = products_s + again_s
    assign_s = [first_s] + [products_s if cached else first_s] * (passes - 1)
    moves_s = [rows * dim * machine.entered_s]
    moves_s += [problem.moved * rows * dim * machine.moved_s] * (passes - 1)
    centroids_s = k * dim * machine.centroid_s
    exchange_s = _exchange_s(problem, machine, k, centroids_s)
    small_s = 2 * all_sum_s(8 * k, problem.workers, machine)
    start_s = _blocks_s(4 * min(k, all_rows) * dim, problem.workers, machine)
    exchanged = problems * exchanged_bytes(k, dim, all_rows)
    return Level(
        problems=problems,
        k=k,
        flops=problems * passes * 2.0 * rows * k * (dim + _extra(problem, k)),
        read_bytes=float(problems * read * (2 if cached else passes + 1)),
        exchanged_bytes=exchanged,
        sent_bytes=exchanged * 2 * (problem.workers - 1) / problem.workers,
        row_stats_s=problems * row_stats_s,
        start_s=problems * (start_s + 3 * all_sum_s(256 * 4 * dim, problem.workers, machine)),
        assign_s=problems * sum(assign_s),
        move_s=problems * sum(moves_s),
        centroids_s=problems * passes * centroids_s,
        exchange_s=problems * (problem.iterations * exchange_s + small_s),
        iteration_s=problems * (assign_s[-1] + moves_s[-1] + centroids_s + exchange_s),
    )


def _score_s(problem, machine, k):
    """Seconds of one score: a row with a centroid, compared with the best."""
    product = machine.bfloat16 if problem.precision == "bfloat16" else machine.float32
    return 2 * (problem.dim + _extra(problem, k)) / product.flops + product.score_s


def _extra(problem, k):
    """Components by which a row is longer in the product."""
    longer = problem.dim <= k or problem.precision != "float32"
    return _OFFSETS[problem.precision] if longer else 0


def _factor_bytes(problem, k):
    return (problem.dim + _extra(problem, k)) * ITEM_BYTES[problem.precision]


def _exchange_s(problem, machine, k, centroids_s):
    """Seconds of the sums of one iteration beyond `centroids_s`, behind which blocks travel."""
    sums = 4 * k * problem.dim
    small_s = 2 * all_sum_s(4 * k, problem.workers, machine)
    if problem.workers == 1:
        return 0.0
    blocks = max(1, math.ceil(sums / MESSAGE_BYTES))
    wire_s = _blocks_s(sums, problem.workers, machine)
    hidden_s = min(wire_s, centroids_s) * (1 - 1 / blocks)
    return wire_s - hidden_s + small_s


def _blocks_s(size, workers, machine):
    """Seconds of the sum of a large array in messages of bounded size."""
    blocks = max(1, math.ceil(size / MESSAGE_BYTES))
    return blocks * all_sum_s(size / blocks, workers, machine)


def _whiten_s(problem, machine, raw_bytes, kept):
    """Moments of all rows, one decomposition, and the map of all rows."""
    raw, dim, rows = problem.raw_dim, problem.dim, problem.own_rows
    if not raw:
        return 0.0
    disk = machine.disk_bytes_per_s
    read_s = 0.0 if kept else raw_bytes / disk
    handled_s = rows * raw * machine.component_s
    moments_s = 2.0 * rows * raw * raw / machine.double_flops
    map_s = 2.0 * rows * raw * dim / machine.float32.flops
    exchange_s = _blocks_s(8 * raw * raw, problem.workers, machine)
    exchange_s += _blocks_s(4 * raw * dim, problem.workers, machine)
    # In place, rows go to the disk twice (`in_place.py`).
    written_s = problem.store_bytes * (2 if raw == dim else 1) / disk
    # Moments are taken as features come, so only the map reads them.
    rows_s = moments_s + map_s + 2 * handled_s + read_s + written_s
    return rows_s + exchange_s + machine.eigen_s * raw**3


def memory_of(problem: Problem, machine: Machine) -> Memory:
    """What a worker of a machine needs; on its GPU, if it has one."""
    k = max(problem.clusters, problem.sub_clusters)
    size, own = k * problem.dim, problem.own_rows
    two_levels = problem.clusters > 1 and problem.sub_clusters > 0
    on_device = machine.device_bytes is not None
    # Labels of this pass and the last, and norms; up to 24 bytes more while they are counted.
    of_rows = 36 * own
    if two_levels:
        # Both labels; at the second level, positions of the rows of a problem.
        of_rows = max(of_rows, (36 + 8) * own / problem.clusters)
        of_rows += 4 * (1 + problem.clusterings) * own
    return Memory(
        centroids=8 * size,
        factors=(4 + ITEM_BYTES[problem.precision]) * size,
        sums=8 * size,
        temporaries=problem.memory_bytes or TEMPORARIES[on_device],
        cache=min(problem.cache_bytes, own * _factor_bytes(problem, k)),
        moving=2 * _PROPOSED_BYTES,
        messages=4 * min(4 * size, MESSAGE_BYTES),
        rows=of_rows,
        runtime=machine.runtime_bytes,
        on_device=on_device,
    )
