"""Measures the cost of clustering on this machine beside the model in `dc_tf/clustering/cost`.

    python benchmarks/scaling.py                           # all parts: the JSON and docs/scaling.md
    python benchmarks/scaling.py --parts=memory,tables     # some, with saved results of the others

constants  a machine of the cost model: rates of the product, of reading, of the network, ...
one_worker, two_workers
           k-means and two-level k-means, measured and predicted.
memory     growth of the peak resident size of a process, measured and predicted.
tables     rewrites the tables of docs/scaling.md from these measurements and from the model.

A worker is a process bound to half of the cores. Nothing is fitted to the measured points.
"""

import dataclasses
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
import typing

import numpy as np
import scaling_tables
from absl import app, flags
from processes import joined, last_lines, show, with_threads

from dc_tf.clustering.cost import hardware
from dc_tf.clustering.cost import model as cost_model

if typing.TYPE_CHECKING:
    from dc_tf.clustering.store.feature_store import FeatureStore

FLAGS = flags.FLAGS
PARTS = ("constants", "one_worker", "two_workers", "memory", "tables")
HERE = os.path.dirname(os.path.abspath(__file__))
flags.DEFINE_list("parts", list(PARTS), "What to do.")
flags.DEFINE_string("output", os.path.join(HERE, "results", "scaling.json"), "All results.")
flags.DEFINE_string("docs", os.path.join(HERE, "..", "docs", "scaling.md"), "Gets the tables.")
flags.DEFINE_string("folder", None, "For features, on the disk to measure; default: temporary.")
flags.DEFINE_string("role", None, "Internal: what a child process does.")
flags.DEFINE_string("task", None, "Internal: its arguments, JSON.")

ITERATIONS = 4
# workers, then what `cost.Problem` and `kmeans` are given. `cold`: the page cache is dropped
# after each iteration. Sub-clusters: two levels.
POINTS = [
    {"workers": 1, "rows": 100_000, "dim": 256, "clusters": 1000},
    {"workers": 1, "rows": 20_000, "dim": 1024, "clusters": 4000},
    {"workers": 1, "rows": 20_000, "dim": 1024, "clusters": 4000, "precision": "bfloat16"},
    {"workers": 1, "rows": 400_000, "dim": 256, "clusters": 4},
    {"workers": 1, "rows": 200_000, "dim": 1024, "clusters": 4, "cold": True},
    {"workers": 1, "rows": 400_000, "dim": 256, "clusters": 4, "sub_clusters": 500},
    {"workers": 2, "rows": 100_000, "dim": 256, "clusters": 1000},
    {"workers": 2, "rows": 20_000, "dim": 1024, "clusters": 4000},
    {"workers": 2, "rows": 30_000, "dim": 128, "clusters": 10_000},
    {"workers": 2, "rows": 400_000, "dim": 256, "clusters": 4, "sub_clusters": 500},
]
MEMORY = [
    {"rows": 4_000_000, "dim": 8, "clusters": 20},
    {"rows": 8_000_000, "dim": 8, "clusters": 20},
    {"rows": 8000, "dim": 2048, "clusters": 8000},
    {"rows": 8000, "dim": 4096, "clusters": 8000},
]


def main(_) -> None:
    if FLAGS.role:
        print(json.dumps(ROLES[FLAGS.role](**json.loads(FLAGS.task))))
        return
    unknown = set(FLAGS.parts) - set(PARTS)
    if unknown:
        sys.exit(f"--parts has {', '.join(unknown)}; there are {', '.join(PARTS)}.")
    if cores_of_worker() < 1:
        sys.exit("two workers need two cores.")
    results = known_results()
    for part in FLAGS.parts:
        if part == "tables":
            scaling_tables.write(FLAGS.docs, results)
        else:
            results[part] = globals()[f"measure_{part}"](results)
            save(results)
    print(json.dumps(results))


def known_results() -> dict:
    if not os.path.exists(FLAGS.output):
        return {}
    with open(FLAGS.output, encoding="utf-8") as file:
        return json.load(file)


def save(results) -> None:
    os.makedirs(os.path.dirname(FLAGS.output), exist_ok=True)
    with open(FLAGS.output, "w", encoding="utf-8") as file:
        json.dump(results, file, indent=1)
        file.write("\n")


# Constants.


def measure_constants(_) -> dict:
    """`hardware.Machine` of one worker here, and the error of the fit of its product's rate."""
    with tempfile.TemporaryDirectory(dir=FLAGS.folder) as folder:
        alone = on_workers(1, "alone", folder=folder)[0]
    wire = on_workers(2, "wire")[0]
    share = cores_of_worker() / len(os.sched_getaffinity(0))
    machine = dict(
        name=f"{cores_of_worker()} of {len(os.sched_getaffinity(0))} cores, {processor()}",
        host_bytes=share * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        device_bytes=None,
        disk_bytes=share * shutil.disk_usage(FLAGS.folder or tempfile.gettempdir()).free,
        **alone["machine"],
        **wire,
    )
    results = {"machine": machine, "products": alone["products"]}
    show(results)
    return results


def constants_of_one(folder) -> dict:
    from dc_tf.clustering.store.feature_store import FeatureStore

    runtime_bytes = resident_after_a_clustering()
    float32, bfloat16 = (measured_products(p) for p in ("float32", "bfloat16"))
    store = store_of(os.path.join(folder, "store"), 120_000, 1024, centers=8)
    disk_bytes_per_s = cold_rate(store)
    store = FeatureStore.open(store.path)
    double_flops, eigen_s = whitening_rates(store)
    machine = {
        "float32": dataclasses.asdict(fitted(float32)),
        "bfloat16": dataclasses.asdict(fitted(bfloat16)),
        "double_flops": double_flops,
        "component_s": component_seconds(store, fitted(float32)),
        "scattered_s": scattered_seconds(store),
        "row_stats_s": row_stats_seconds(store),
        "centroid_s": centroid_seconds(),
        "row_s": row_seconds(),
        "eigen_s": eigen_s,
        "disk_bytes_per_s": disk_bytes_per_s,
        "runtime_bytes": runtime_bytes,
    } | moved_seconds()
    return {"machine": machine, "products": {"float32": float32, "bfloat16": bfloat16}}


def resident_after_a_clustering() -> int:
    """Resident bytes after a clustering, most of them TensorFlow's."""
    from dc_tf.clustering.kmeans import kmeans

    kmeans(normal(1000, 64), 20, iterations=2)
    return resident("VmRSS")


def measured_products(precision) -> list:
    """Seconds of one score by `NearestCentroid`, arg-max included, for some lengths of rows."""
    from dc_tf.clustering.search.nearest import NearestCentroid
    from dc_tf.clustering.search.parallel_chunks import in_parallel, thread_count
    from dc_tf.clustering.search.tiles import transit_bytes

    k, found = 2048, []
    for dim in (64, 256, 1024, 2048):
        nearest = NearestCentroid(k, dim, precision, transit_bytes() // thread_count())
        nearest.load(normal(k, dim))
        x = nearest.prepared(normal(nearest.chunk_rows, dim))
        chunks = [x] * max(4, 8192 // nearest.chunk_rows)
        took = seconds(lambda n=nearest, c=chunks: list(in_parallel(n, c)))
        longer = int(x.shape[1]) - dim
        found.append({"dim": dim, "longer": longer, "score_s": took / (len(chunks) * len(x) * k)})
    return found


def fitted(products) -> hardware.Product:
    """`hardware.Product` by least squares of relative errors."""
    measured = np.array([product["score_s"] for product in products])
    flops = np.array([2.0 * (product["dim"] + product["longer"]) for product in products])
    factors = np.stack([flops / measured, 1 / measured], 1)
    (per_flop, score_s), *_ = np.linalg.lstsq(factors, np.ones(len(products)))
    return hardware.Product(float(1 / per_flop), max(0.0, float(score_s)))


def component_seconds(store, product) -> float:
    """Seconds to read, cast and compare one component with four centroids."""
    from dc_tf.clustering.search.nearest import NearestCentroid
    from dc_tf.clustering.search.parallel_chunks import in_parallel, thread_count
    from dc_tf.clustering.search.tiles import transit_bytes

    k, rows = 4, 60_000
    nearest = NearestCentroid(k, store.dim, memory_bytes=transit_bytes() // thread_count())
    nearest.load(normal(k, store.dim))
    starts = range(0, rows, nearest.chunk_rows)

    def look(start):
        x = store.read(start, min(start + nearest.chunk_rows, rows))
        return nearest(nearest.prepared(x))[0]

    took = seconds(lambda: list(in_parallel(look, starts)))
    return max(
        0.0, took / (rows * store.dim) - k * (2 / product.flops + product.score_s / store.dim)
    )


def scattered_seconds(store) -> float:
    """Seconds per component that reading every fourth row takes longer than rows in order."""
    from dc_tf.clustering.search.parallel_chunks import in_parallel
    from dc_tf.clustering.store.points import Subset

    rows = store.rows // 4
    starts = range(0, rows, 4096)

    def read(points):
        list(in_parallel(lambda start: len(points.read(start, min(start + 4096, rows))), starts))

    subset = Subset(store, np.arange(0, 4 * rows, 4))
    scattered_s, in_order_s = (seconds(lambda p=p: read(p)) for p in (subset, store))
    return max(0.0, scattered_s - in_order_s) / (rows * store.dim)


def row_stats_seconds(store) -> float:
    from dc_tf.clustering.row_stats import RowStats
    from dc_tf.distributed.collectives import Solo

    return seconds(lambda: RowStats.make(store, Solo(), 0)) / (store.rows * store.dim)


def moved_seconds() -> dict:
    """Seconds to add a component to its first sum, and to move one between sums."""
    from dc_tf.clustering.search.sums import ClusterSums

    k, dim, rows = 1000, 512, 8192
    # As k-means has it for features of which no component is above 8.
    sums, x = ClusterSums(k, dim, 2.0**-24), normal(rows, dim).astype(np.float16)
    order, old, new = (np.random.default_rng(0).integers(0, n, rows) for n in (rows, k, k))
    nowhere, old, new = np.full(rows, -1, np.int32), old.astype(np.int32), new.astype(np.int32)
    entered_s = seconds(lambda: sums.move(x, nowhere, new))
    moved_s = seconds(lambda: sums.move(x[order], old, new))
    return {"entered_s": entered_s / (rows * dim), "moved_s": moved_s / (rows * dim)}


def centroid_seconds() -> float:
    """Seconds per component of the centroids: the rest of an iteration after the assignment."""
    from dc_tf.clustering.kmeans import kmeans
    from dc_tf.clustering.search.nearest import NearestCentroid

    k, dim = 5000, 4096
    x, assigned, ends = normal(k, dim), [0.0], []

    def on_progress(rows, **_):
        assigned[0] = time.perf_counter()

    # Each row is a centroid, so none ever moves.
    kmeans(
        x,
        k,
        iterations=6,
        init=x,
        on_progress=on_progress,
        on_iteration=lambda _: ends.append(time.perf_counter() - assigned[0]),
    )
    nearest = NearestCentroid(k, dim)
    load_s = seconds(lambda: nearest.load(x, np.ones(k, bool)))
    return (load_s + statistics.median(ends[1:])) / (k * dim)


def row_seconds() -> float:
    """Seconds per row and iteration, measured with rows so short that only the label counts."""
    from dc_tf.clustering.kmeans import kmeans

    x, ends = normal(1_000_000, 2), []
    on_iteration = lambda _: ends.append(time.perf_counter())  # noqa: E731
    kmeans(x, 2, iterations=4, on_iteration=on_iteration, cache_bytes=0, backend="tensorflow")
    return min(np.diff(ends)) / len(x)


def whitening_rates(store) -> tuple[float, float]:
    """FLOP/s of second moments, and seconds of the decomposition over d cubed."""
    from dc_tf.clustering.store.whitening import Moments, Whitening
    from dc_tf.distributed.collectives import Solo

    moments, x = Moments(store.dim), store.read(0, 8192)
    took = seconds(lambda: moments.update(x))
    eigen_s = seconds(lambda: Whitening.fit(moments, Solo(), store.dim))
    return 2.0 * len(x) * store.dim**2 / took, eigen_s / store.dim**3


def cold_rate(store) -> float:
    """Bytes per second of features that are not in the page cache."""
    from dc_tf.clustering.search.parallel_chunks import in_parallel
    from dc_tf.clustering.store.feature_store import FeatureStore

    path, rows, dim = store.path, store.rows, store.dim
    del store
    rates = []
    for _ in range(3):
        forget(path)
        store = FeatureStore.open(path)
        begin = time.perf_counter()
        for _ in in_parallel(
            lambda i, s=store: len(s.read(i, min(i + 4096, rows))), range(0, rows, 4096)
        ):
            pass
        rates.append(2.0 * rows * dim / (time.perf_counter() - begin))
        del store
    return statistics.median(rates)


def wire_of_two() -> dict:
    """Latency and bandwidth of the network, from `all_sum` between two workers."""
    from dc_tf.distributed.blocks import MESSAGE_BYTES
    from dc_tf.distributed.cluster import connect

    cluster = connect()
    world = cluster.world
    large, small = np.ones(MESSAGE_BYTES // 4, np.float32), np.ones(1)
    small_s = seconds(lambda: world.all_sum(small).numpy(), least=200)
    large_s = seconds(lambda: world.all_sum(large).numpy(), least=7)
    cluster.leave()
    return {
        "wire_latency_s": small_s / 2,
        "wire_bytes_per_s": large.nbytes / (large_s - small_s),
    }


# Points.


def measure_one_worker(results) -> list:
    return measured_points(1, results)


def measure_two_workers(results) -> list:
    return measured_points(2, results)


def measured_points(workers, results) -> list:
    points = [point for point in POINTS if point["workers"] == workers]
    with tempfile.TemporaryDirectory(dir=FLAGS.folder) as folder:
        by_worker = on_workers(workers, "points", points=points, folder=folder)
    lines = []
    for point, measured in zip(points, by_worker[0], strict=True):
        lines.append({"point": point, "measured": measured} | predicted(point, results))
        show(lines[-1])
    return lines


def predicted(point, results) -> dict:
    """The prediction of the model, with its assumption of how many rows move."""
    machine = machine_of(results)
    settings = {name: value for name, value in point.items() if name != "cold"}
    problem = cost_model.Problem(**settings, iterations=ITERATIONS, cache_bytes=0)
    if point.get("cold"):
        machine = dataclasses.replace(machine, host_bytes=0)
    estimate = cost_model.estimate(problem, machine)
    levels = [level.iteration_s for level in estimate.levels]
    return {
        "predicted": {
            "iteration_s": levels[0] if len(levels) == 1 else None,
            "seconds": estimate.kmeans_s,
            "exchanged_bytes": estimate.exchanged_bytes,
        }
    }


def run_points(points, folder) -> list:
    from dc_tf.distributed.cluster import connect

    cluster = connect()
    found = []
    for index, point in enumerate(points):
        own = point["rows"] // cluster.size
        path = os.path.join(folder, f"{index}-{cluster.rank}")
        centers = 2 * max(point["clusters"], point.get("sub_clusters", 0))
        store = store_of(path, own, point["dim"], centers, cluster.rank)
        run = run_two_levels if "sub_clusters" in point else run_kmeans
        cluster.world.barrier()
        found.append(run(store, point, cluster.world))
        del store
        shutil.rmtree(path)
    cluster.leave()
    return found


def run_kmeans(store, point, world) -> dict:
    from dc_tf.clustering.kmeans import kmeans

    spans, moved, last = [], [], {"end": None, "labels": None}

    def on_iteration(state):
        now = time.perf_counter()
        if last["labels"] is not None:
            spans.append(now - last["end"])
            moved.append(float(np.mean(state.labels != last["labels"])))
        if point.get("cold"):
            forget(store.path)
        last.update(labels=state.labels, end=time.perf_counter())

    def run(iterations, on_iteration):
        if point.get("cold"):
            forget(store.path)
        begin = time.perf_counter()
        result = kmeans(
            store,
            point["clusters"],
            world,
            iterations=iterations,
            precision=point.get("precision", "float32"),
            cache_bytes=0,
            backend="tensorflow",
            on_iteration=on_iteration,
        )
        return time.perf_counter() - begin, result

    run(1, None)  # TensorFlow makes its functions at the first call.
    took, result = run(ITERATIONS, on_iteration)
    return {
        "iteration_s": statistics.median(spans),
        "seconds": took,
        "moved": moved,
        "exchanged_bytes": result.exchanged_bytes,
    }


def run_two_levels(store, point, world) -> dict:
    from dc_tf.clustering.hierarchy import hierarchical_kmeans

    def run(iterations):
        begin = time.perf_counter()
        result = hierarchical_kmeans(
            store,
            point["clusters"],
            point["sub_clusters"],
            world,
            iterations=iterations,
            cache_bytes=0,
            backend="tensorflow",
        )
        return time.perf_counter() - begin, result.report

    run(1)
    took, report = run(ITERATIONS)
    levels = [report["level1"], *report["level2"]]
    return {
        "iteration_s": None,
        "seconds": took,
        "exchanged_bytes": sum(level["exchanged_bytes"] for level in levels),
    }


# Memory.


def measure_memory(results) -> list:
    machine = machine_of(results)
    lines = []
    for point in MEMORY:
        with tempfile.TemporaryDirectory(dir=FLAGS.folder) as folder:
            on_workers(1, "store", folder=folder, rows=point["rows"], dim=point["dim"])
            measured = on_workers(1, "peak", folder=folder, k=point["clusters"])[0]
        problem = cost_model.Problem(**point, iterations=2, cache_bytes=0, memory_bytes=16 << 20)
        memory = cost_model.estimate(problem, machine).memory
        lines.append(
            {
                "point": point,
                "measured_bytes": measured,
                "predicted_bytes": memory.total - memory.runtime,
            }
        )
        show(lines[-1])
    return lines


def make_store(folder, rows, dim) -> dict:
    store_of(os.path.join(folder, "store"), rows, dim, centers=20)
    return {}


def peak_of(folder, k) -> int:
    """Bytes by which the peak resident size grows."""
    from dc_tf.clustering.kmeans import kmeans
    from dc_tf.clustering.store.feature_store import FeatureStore

    store = FeatureStore.open(os.path.join(folder, "store"))
    settings = {"cache_bytes": 0, "memory_bytes": 16 << 20, "backend": "tensorflow"}
    kmeans(normal(2000, store.dim), 20, iterations=2, **settings)
    before = resident("VmHWM")
    kmeans(store, k, iterations=2, **settings)
    return resident("VmHWM") - before


# What children share.


def normal(rows, dim) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((rows, dim), dtype=np.float32)


def store_of(path, rows, dim, centers, seed=0) -> "FeatureStore":
    """A complete `FeatureStore` of overlapping Gaussians, on disk and in the page cache."""
    from dc_tf.clustering.store.feature_store import FeatureStore

    store = FeatureStore.create(path, rows, dim)
    means = np.random.default_rng(123).standard_normal((centers, dim), dtype=np.float32)
    rng = np.random.default_rng(seed)
    for start in range(0, rows, 10_000):
        block = rng.standard_normal((min(10_000, rows - start), dim), dtype=np.float32)
        store.write(start, block + means[rng.integers(0, centers, len(block))])
    store.flush()
    return store


def forget(path) -> None:
    """Drops the features from the page cache."""
    descriptor = os.open(os.path.join(path, "rows.npy"), os.O_RDWR)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def seconds(function, least=5, budget_s=0.5) -> float:
    """Median seconds of several calls after a first one."""
    function()
    times = []
    while len(times) < least or (sum(times) < budget_s and len(times) < 100):
        begin = time.perf_counter()
        function()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def resident(what) -> int:
    """VmRSS or VmHWM, in bytes."""
    with open("/proc/self/status", encoding="ascii") as file:
        line = next(line for line in file if line.startswith(what))
    return int(line.split()[1]) * 1024


def machine_of(results) -> hardware.Machine:
    if "constants" not in results:
        sys.exit(f"{FLAGS.output} has no constants yet; run --parts=constants first.")
    return scaling_tables.machine_of(results)


def processor() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        names = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
    return names[0] if names else platform.machine()


def cores_of_worker() -> int:
    return len(os.sched_getaffinity(0)) // 2


# Processes.


def on_workers(n, role, **task) -> list:
    """The results of n processes, each bound to cores of its own."""
    per_worker = cores_of_worker()
    cores = sorted(os.sched_getaffinity(0))
    commands = []
    for rank in range(n):
        bound = ",".join(map(str, cores[rank * per_worker : (rank + 1) * per_worker]))
        command = ["taskset", "-c", bound, sys.executable, os.path.abspath(__file__)]
        commands.append([*command, f"--role={role}", f"--task={json.dumps(task)}"])
    added = with_threads(per_worker) | {"CUDA_VISIBLE_DEVICES": "-1"}
    return last_lines(commands, [worker | added for worker in (joined(n) if n > 1 else [{}])])


ROLES = {
    "alone": constants_of_one,
    "wire": wire_of_two,
    "points": run_points,
    "store": make_store,
    "peak": peak_of,
}

if __name__ == "__main__":
    app.run(main)
