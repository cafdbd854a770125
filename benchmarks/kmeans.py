"""Measures speed, accuracy and memory of k-means beside other libraries, on the same rows.

    python benchmarks/kmeans.py --output=benchmarks/results/kmeans.json              # all parts
    python benchmarks/kmeans.py --parts=speed --shapes=20000x1024x4000

speed    seconds per iteration of ours (both precisions), `faiss.Kmeans` and scikit-learn from the
         same initial rows, in turns, and of a matrix product of the same shape; the objective
         beside that of a float64 Lloyd in NumPy, where that takes less than an hour.
steps    an iteration beside the search for the nearest centroids alone (its E-step), for few and
         for very many clusters; the rest is sums, means and reading.
backends an iteration of narrow rows with TensorFlow and with faiss, in turns; choice of `auto`.
workers  one worker of two threads against two workers of one thread each, and bytes exchanged.
memory   peak resident size while clustering 0.2, 0.5 and 1 million rows from the disk.
labels   1, 2 and 4 workers on the same rows: share of equal labels, difference of the objectives;
         on the rows of `--features` if given.

All times are of whole iterations. Every part runs in processes of its own.
"""

import json
import os
import statistics
import sys
import tempfile
import time

import numpy as np
from absl import app, flags
from processes import joined, last_lines, run_parts, show, with_threads

FLAGS = flags.FLAGS
# rows x components x clusters that NumPy multiplies in minutes.
_MOST_IN_FLOAT64 = 50_000 * 4096 * 1000
PARTS = ("speed", "steps", "backends", "workers", "memory", "labels")
flags.DEFINE_list("parts", list(PARTS), "What to measure.")
flags.DEFINE_list(
    "shapes",
    ["100000x256x1000", "20000x1024x4000", "50000x4096x4", "50000x4096x500"],
    "rows x components x clusters, for speed.",
)
flags.DEFINE_list(
    "step_shapes",
    [
        "500000x64x2",
        "50000x4096x2",
        "100000x256x100",
        "100000x256x1000",
        "20000x4096x1000",
        "200000x256x10000",
        "100000x64x100000",
    ],
    "rows x components x clusters, for steps.",
)
flags.DEFINE_list(
    "backend_shapes",
    ["300000x16x8", "200000x16x100", "300000x32x64", "200000x32x1000", "100000x64x1000"],
    "rows x components x clusters, for backends.",
)
flags.DEFINE_integer("iterations", 6, "Of each method; the first is not counted.")
flags.DEFINE_integer("rounds", 3, "How often all methods take turns.")
flags.DEFINE_integer("memory_clusters", 20_000, "k of the memory part.")
flags.DEFINE_list("memory_rows", ["200000", "500000", "1000000"], "Rows of the memory part.")
flags.DEFINE_string("features", None, "A .npy of rows for the labels part.")
flags.DEFINE_integer("cache_mb", 512, "Rows kept in memory as the products take them, for speed.")
flags.DEFINE_string("output", None, "JSON of all results.")
flags.DEFINE_string("role", None, "Internal: what a child process does.")
flags.DEFINE_string("task", None, "Internal: its arguments, JSON.")


def main(_) -> None:
    run_parts(FLAGS, PARTS, globals(), ROLES)


# Rows.


def mixture(rows, dim, parts, seed=0) -> np.ndarray:
    """(rows, dim) float32 from a mixture of `parts` overlapping Gaussians."""
    rng = np.random.default_rng(seed)
    centers = 0.3 * rng.standard_normal((parts, dim), dtype=np.float32)
    x = rng.standard_normal((rows, dim), dtype=np.float32)
    for start in range(0, rows, 10_000):
        block = x[start : start + 10_000]
        block += centers[rng.integers(0, parts, len(block))]
    return x


def save(folder, x) -> str:
    """Path of a .npy of the rows, to be memory-mapped like a user's."""
    path = os.path.join(folder, "x.npy")
    np.save(path, x)
    return path


def initial(x, k, seed=1) -> np.ndarray:
    return np.array(x[np.sort(np.random.default_rng(seed).choice(len(x), k, replace=False))])


# Speed.


def measure_speed() -> list:
    table = []
    for shape in FLAGS.shapes:
        rows, dim, k = map(int, shape.split("x"))
        with tempfile.TemporaryDirectory() as folder:
            path = save(folder, mixture(rows, dim, 2 * k))
            methods = ["product_float32", "product_bfloat16", "float32", "bfloat16", "faiss"]
            methods += ["sklearn"] if rows * dim * k <= 50_000 * 4096 * 500 else []
            runs = {method: [] for method in methods}
            for _ in range(FLAGS.rounds):
                for method in methods:
                    runs[method].append(
                        child("speed", path=path, k=k, method=method, cache=FLAGS.cache_mb << 20)
                    )
            truth = None
            if rows * dim * k <= _MOST_IN_FLOAT64:
                truth = child("float64", path=path, k=k)["objective"]
        line = speed_line(shape, runs, truth)
        table.append(line)
        show(line)
    return table


def speed_line(shape, runs, truth) -> dict:
    seconds = {
        method: statistics.median(run["seconds"] for run in results)
        for method, results in runs.items()
    }
    ours = {p: runs[p][0]["objective"] for p in ("float32", "bfloat16")}
    faiss = runs["faiss"][0]["objective"]
    return {
        "shape": shape,
        "seconds_per_iteration": seconds,
        "times_faiss": {p: seconds["faiss"] / seconds[p] for p in ours},
        "times_sklearn": {p: seconds["sklearn"] / seconds[p] for p in ours if "sklearn" in seconds},
        "share_of_product": {p: seconds[f"product_{p}"] / seconds[p] for p in ours},
        "objective_over_float64": truth and {p: ours[p] / truth - 1 for p in ours},
        "objective_over_faiss": {p: ours[p] / faiss - 1 for p in ours},
    }


def speed_of(path, k, method, cache) -> dict:
    x = np.load(path, mmap_mode="c")
    start = initial(x, k)
    if method.startswith("product_"):
        return product(x, start, method.removeprefix("product_"))
    if method == "faiss":
        return faiss_lloyd(x, start)
    if method == "sklearn":
        return sklearn_lloyd(x, start)
    return our_lloyd(x, start, method, cache)


def our_lloyd(x, start, precision, cache, backend="auto") -> dict:
    from dc_tf.clustering.kmeans import kmeans

    ends = []
    result = kmeans(
        x,
        len(start),
        iterations=FLAGS.iterations,
        init=start,
        precision=precision,
        backend=backend,
        cache_bytes=cache,
        on_iteration=lambda _: ends.append(time.perf_counter()),
    )
    return {
        "seconds": statistics.median(np.diff(ends)),
        "objective": result.objective[FLAGS.iterations - 1],
        "backend": result.backend,
    }


def faiss_lloyd(x, start) -> dict:
    import faiss

    x = np.ascontiguousarray(x)

    def train(iterations):
        kmeans = faiss.Kmeans(
            x.shape[1],
            len(start),
            niter=iterations,
            max_points_per_centroid=len(x),
            min_points_per_centroid=1,
        )
        begin = time.perf_counter()
        kmeans.train(x, init_centroids=start)
        return time.perf_counter() - begin, kmeans.obj[-1]

    train(1)
    first, _ = train(1)
    all_of_them, objective = train(FLAGS.iterations)
    seconds = (all_of_them - first) / (FLAGS.iterations - 1)
    return {"seconds": seconds, "objective": float(objective)}


def sklearn_lloyd(x, start) -> dict:
    import warnings

    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    warnings.simplefilter("ignore", ConvergenceWarning)
    x = np.ascontiguousarray(x)

    def fit(iterations):
        estimator = KMeans(
            len(start), init=start, n_init=1, max_iter=iterations, tol=0, algorithm="lloyd"
        )
        begin = time.perf_counter()
        estimator.fit(x)
        return time.perf_counter() - begin, estimator

    fit(1)
    first, _ = fit(1)
    all_of_them, estimator = fit(FLAGS.iterations)
    seconds = (all_of_them - first) / (estimator.n_iter_ - 1)
    return {"seconds": seconds, "objective": float(estimator.inertia_)}


def product(x, start, dtype) -> dict:
    """Seconds of one matrix product of all rows, in memory and in its dtype."""
    import tensorflow as tf

    rows = [tf.cast(x[i : i + 4096], dtype) for i in range(0, len(x), 4096)]
    other = tf.transpose(tf.cast(start, dtype))
    tiles = [other[:, i : i + 2048] for i in range(0, len(start), 2048)]
    times = []
    for _ in range(FLAGS.iterations):
        begin = time.perf_counter()
        for block in rows:
            for tile in tiles:
                tf.matmul(block, tile)
        times.append(time.perf_counter() - begin)
    return {"seconds": statistics.median(times[1:])}


def float64_lloyd(path, k) -> dict:
    """The objective at the start of the last iteration, by NumPy in float64."""
    x = np.load(path, mmap_mode="r")
    centroids = initial(x, k).astype(np.float64)
    for iteration in range(FLAGS.iterations):
        half_squares = np.einsum("kd,kd->k", centroids, centroids) / 2
        sums, counts, objective = np.zeros_like(centroids), np.zeros(k), 0.0
        for begin in range(0, len(x), 4096):
            rows = x[begin : begin + 4096].astype(np.float64)
            scores = rows @ centroids.T - half_squares
            label = scores.argmax(axis=1)
            best = scores[np.arange(len(rows)), label]
            objective += np.sum(np.einsum("nd,nd->n", rows, rows) - 2 * best)
            order = np.argsort(label, kind="stable")
            ends = np.cumsum(np.bincount(label, minlength=k))
            for j in np.unique(label):
                sums[j] += rows[order[ends[j - 1] if j else 0 : ends[j]]].sum(axis=0)
            counts += np.bincount(label, minlength=k)
        filled = counts > 0
        centroids[filled] = sums[filled] / counts[filled, None]
        if not filled.all() and iteration < FLAGS.iterations - 1:
            sys.exit("an empty cluster, which each method treats in its own way; use another seed.")
    return {"objective": float(objective)}


# Steps.


def measure_steps() -> list:
    table = []
    for shape in FLAGS.step_shapes:
        rows, dim, k = map(int, shape.split("x"))
        for precision in ("float32", "bfloat16"):
            with tempfile.TemporaryDirectory() as folder:
                path = save(folder, mixture(rows, dim, min(2 * k, 20_000)))
                line = child("steps", path=path, k=k, precision=precision)
            table.append({"shape": shape, "precision": precision} | line)
            show(table[-1])
    return table


def steps_of(path, k, precision) -> dict:
    """Seconds of iterations, and of the search alone, in turns in one process."""
    from dc_tf.clustering.kmeans import kmeans
    from dc_tf.clustering.search.nearest import NearestCentroid
    from dc_tf.clustering.search.parallel_chunks import in_parallel, thread_count
    from dc_tf.clustering.search.tiles import transit_bytes

    x = np.load(path, mmap_mode="c")
    nearest = NearestCentroid(k, x.shape[1], precision, transit_bytes() // thread_count())
    nearest.load(initial(x, k))
    step = nearest.chunk_rows
    chunks = [nearest.prepared(x[i : i + step]) for i in range(0, len(x), step)]
    searches, iterations, moved, labels = [], [], [], None
    begin = time.perf_counter()

    def on_iteration(state):
        nonlocal begin, labels
        iterations.append(time.perf_counter() - begin)
        moved.append(1.0 if labels is None else float(np.mean(labels != state.labels)))
        labels = state.labels
        begin = time.perf_counter()
        for _ in in_parallel(nearest, chunks):
            pass
        searches.append(time.perf_counter() - begin)
        begin = time.perf_counter()

    kmeans(
        x,
        k,
        iterations=FLAGS.iterations,
        init=initial(x, k),
        precision=precision,
        cache_bytes=4 << 30,
        on_iteration=on_iteration,
    )
    search, iteration = statistics.median(searches), statistics.median(iterations[1:])
    return {
        "search": search,
        "iteration": iteration,
        "share_of_search": search / iteration,
        "second_iteration": iterations[1],
        "share_of_search_in_second": search / iterations[1],
        "moved": moved,
    }


# Backends.


def measure_backends() -> list:
    table = []
    for shape in FLAGS.backend_shapes:
        table.append({"shape": shape} | child("backends", shape=shape, rounds=FLAGS.rounds))
        show(table[-1])
    return table


def backends_of(shape, rounds) -> dict:
    """Seconds of a float32 iteration with each backend, in turns, and the choice of `auto`."""
    from dc_tf.clustering.search.backends import make_backend

    rows, dim, k = map(int, shape.split("x"))
    x = mixture(rows, dim, 2 * k)
    seconds = {"tensorflow": [], "faiss": []}
    for _ in range(rounds):
        for backend, runs in seconds.items():
            run = our_lloyd(x, initial(x, k), "float32", FLAGS.cache_mb << 20, backend)
            runs.append(run["seconds"])
    medians = {backend: statistics.median(runs) for backend, runs in seconds.items()}
    return medians | {"auto": make_backend("auto", k, dim, "float32").name}


# Workers.


def measure_workers() -> list:
    table = []
    for shape in FLAGS.shapes[:2]:
        rows, dim, k = map(int, shape.split("x"))
        with tempfile.TemporaryDirectory() as folder:
            path = save(folder, mixture(rows, dim, 2 * k))
            alone, together = [], []
            for _ in range(FLAGS.rounds):
                alone += on_workers(1, 2, "share", path=path, k=k)[:1]
                together += on_workers(2, 1, "share", path=path, k=k)[:1]
        one, two = (statistics.median(run["seconds"] for run in runs) for runs in (alone, together))
        line = {
            "shape": shape,
            "seconds_one_worker_two_threads": one,
            "seconds_two_workers_one_thread": two,
            "two_workers_are": one / two,
            "exchanged_bytes": together[0]["exchanged_bytes"],
            "formula_bytes": k * (dim + 1) * 4,
        }
        table.append(line)
        show(line)
    return table


def share_of(path, k, labels=None) -> dict:
    """Clusters this worker's block of the rows; run by each process."""
    from dc_tf.clustering.kmeans import kmeans
    from dc_tf.distributed.cluster import connect

    cluster = connect()
    world = cluster.world
    x = np.load(path, mmap_mode="c")
    start = initial(x, k)
    cut = [len(x) * rank // world.size for rank in (world.rank, world.rank + 1)]
    ends = []
    result = kmeans(
        x[cut[0] : cut[1]],
        k,
        world,
        iterations=FLAGS.iterations,
        init=start,
        on_iteration=lambda _: ends.append(time.perf_counter()),
    )
    if labels:
        np.save(os.path.join(labels, f"{world.rank}.npy"), result.assignments)
    results = {
        "seconds": statistics.median(np.diff(ends)),
        "exchanged_bytes": result.exchanged_bytes,
        "objective": result.objective[-1],
    }
    cluster.leave()
    return results


# Memory.


def measure_memory() -> dict:
    table = []
    for rows in map(int, FLAGS.memory_rows):
        with tempfile.TemporaryDirectory() as folder:
            child("store", folder=folder, rows=rows, dim=1024)
            line = child("peak", folder=folder, k=FLAGS.memory_clusters)
        table.append({"rows": rows, "dim": 1024, "k": FLAGS.memory_clusters} | line)
        show(table[-1])
    sizes = [line["peak_mb"] for line in table]
    return {"lines": table, "largest_over_smallest": max(sizes) / min(sizes)}


def store_of(folder, rows, dim) -> dict:
    from dc_tf.clustering.store.feature_store import FeatureStore

    store = FeatureStore.create(os.path.join(folder, "store"), rows, dim)
    rng = np.random.default_rng(0)
    for start in range(0, rows, 10_000):
        store.write(start, rng.standard_normal((min(10_000, rows - start), dim), dtype=np.float32))
    store.flush()
    return {}


def peak_of(folder, k) -> dict:
    from dc_tf.clustering.kmeans import kmeans
    from dc_tf.clustering.store.feature_store import FeatureStore

    before = peak_bytes()
    begin = time.perf_counter()
    result = kmeans(
        FeatureStore.open(os.path.join(folder, "store")), k, iterations=1, precision="bfloat16"
    )
    return {
        "peak_mb": peak_bytes() / 1e6,
        "peak_before_mb": before / 1e6,
        "seconds": time.perf_counter() - begin,
        "empty": int(np.count_nonzero(result.counts == 0)),
    }


def peak_bytes() -> int:
    with open("/proc/self/status", encoding="ascii") as file:
        line = next(line for line in file if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


# Labels.


def measure_labels() -> dict:
    with tempfile.TemporaryDirectory() as folder:
        path = FLAGS.features or save(folder, mixture(50_000, 256, 400))
        results = {}
        for n in (1, 2, 4):
            labels = os.path.join(folder, str(n))
            os.mkdir(labels)
            first = on_workers(n, 1, "share", path=path, k=200, labels=labels)[0]
            parts = [np.load(os.path.join(labels, f"{rank}.npy")) for rank in range(n)]
            results[n] = (np.concatenate(parts), first["objective"])
    label, objective = results[1]
    line = {
        "rows": len(label),
        "features": os.path.basename(FLAGS.features or "mixture"),
        "equal_labels": {n: float(np.mean(results[n][0] == label)) for n in (2, 4)},
        "objective_difference": {n: abs(results[n][1] / objective - 1) for n in (2, 4)},
    }
    show(line)
    return line


# Processes.


def child(role, **task) -> dict:
    """The result of a child process of a role."""
    return last_lines([command(role, task)])[0]


def on_workers(n, threads, role, **task) -> list:
    """The results of n joined workers of `threads` threads."""
    environments = [worker | with_threads(threads) for worker in joined(n)]
    return last_lines([command(role, task)] * n, environments)


def command(role, task) -> list[str]:
    return [
        sys.executable,
        os.path.abspath(__file__),
        f"--role={role}",
        f"--task={json.dumps(task)}",
        f"--iterations={FLAGS.iterations}",
    ]


ROLES = {
    "speed": speed_of,
    "float64": float64_lloyd,
    "steps": steps_of,
    "backends": backends_of,
    "share": share_of,
    "store": store_of,
    "peak": peak_of,
}

if __name__ == "__main__":
    app.run(main)
