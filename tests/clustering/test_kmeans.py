"""K-means against a plain Lloyd, on several workers, and on inputs that break others."""

import contextlib
import types
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
import workers
from absl.testing import parameterized

from dc_tf.clustering import assign
from dc_tf.clustering.kmeans import kmeans
from dc_tf.clustering.lloyd import Lloyd
from dc_tf.clustering.search import backends, sums
from dc_tf.clustering.search.tiles import tile_shape
from dc_tf.distributed import blocks
from dc_tf.distributed.collectives import Solo
from dc_tf.errors import ConfigError, DataError

pytestmark = pytest.mark.numeric


def blobs(n, dim, k, seed=0, spread=0.5):
    """(n, dim) float32: k round clouds."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(k, dim))
    return (centers[rng.integers(0, k, n)] + spread * rng.normal(size=(n, dim))).astype(np.float32)


def plain_lloyd(x, init, iterations):
    """Centroids, labels and objectives in float64; an empty cluster keeps its centroid."""
    x, centroids, objective = x.astype(np.float64), init.astype(np.float64), []
    for iteration in range(iterations + 1):
        distances = ((x[:, None] - centroids[None]) ** 2).sum(axis=2)
        labels = distances.argmin(axis=1)
        objective.append(distances.min(axis=1).sum())
        if iteration < iterations:
            for j in set(labels):
                centroids[j] = x[labels == j].mean(axis=0)
    return centroids, labels, objective


def all_counts(comm, counts, total):
    """What two workers with these counts find, `total` rows on all of them."""
    partition = types.SimpleNamespace(total=total)
    lloyd = types.SimpleNamespace(
        _comm=blocks.Meter(comm),
        _stats=types.SimpleNamespace(partition=partition),
        _assigner=types.SimpleNamespace(counts=counts),
    )
    return Lloyd._all_counts(lloyd)


def share(x, comm):
    """This worker's block of rows; uneven, and the last of three or more has none."""
    owners = max(1, comm.size - 1) if comm.size > 2 else comm.size
    cuts = np.linspace(0, 1, owners + 1) ** 1.5 * len(x)
    cuts = cuts.astype(int).tolist() + [len(x)] * (comm.size - owners)
    return x[cuts[comm.rank] : cuts[comm.rank + 1]]


def cluster_share(comm, x, k, arguments):
    return kmeans(share(x, comm), k, comm, **arguments)


def error_of_share(comm, x, k):
    try:
        kmeans(share(x, comm), k, comm)
    except DataError as error:
        return str(error)


def error_of_dims(comm):
    try:
        kmeans(np.zeros((3, 4 + comm.rank), np.float32), 2, comm)
    except DataError as error:
        return str(error)


class Repeated:
    """Points that are the same rows again and again, without holding them."""

    def __init__(self, block, times):
        self._block = block
        self.rows, self.dim = len(block) * times, block.shape[1]
        self.dtype = block.dtype

    def read(self, start, stop):
        return self.take(np.arange(start, stop))

    def take(self, positions):
        return self._block[positions % len(self._block)]


@pytest.mark.tf215
class LloydTest(tf.test.TestCase, parameterized.TestCase):
    def check_against_plain(self, x, k, **arguments):
        result = kmeans(x, k, Solo(), iterations=6, init=x[:k], **arguments)
        centroids, labels, objective = plain_lloyd(x, x[:k].astype(np.float32), 6)
        self.assertAllEqual(result.assignments, labels)
        self.assertAllEqual(result.counts, np.bincount(labels, minlength=k))
        self.assertAllClose(result.objective, objective, rtol=1e-5)
        self.assertAllClose(result.centroids, centroids, rtol=1e-4, atol=1e-5)

    def test_centroids_labels_and_objective_are_those_of_a_plain_lloyd(self):
        self.check_against_plain(blobs(900, 8, 7), 7)

    def test_tiny_memory_gives_the_same(self):
        x = blobs(500, 8, 7)
        self.assertLess(tile_shape(40, 8, 4, 1 << 14).rows, 100)
        self.check_against_plain(x, 40, memory_bytes=1 << 14)

    @parameterized.parameters("float32", "bfloat16")
    def test_what_runs_on_a_gpu_finds_the_same(self, precision):
        x = blobs(700, 24, 30, spread=2.0)
        expected = kmeans(x, 30, iterations=4, precision=precision)
        with contextlib.ExitStack() as stack:
            for module in (assign, backends, sums):
                stack.enter_context(mock.patch.object(module, "has_gpu", lambda: True))
            found = kmeans(x, 30, iterations=4, precision=precision)
        self.assertAllEqual(found.assignments, expected.assignments)
        self.assertAllEqual(found.centroids, expected.centroids)

    def test_float32_means_float32_on_a_gpu_and_leaves_the_callers_choice(self):
        seen = []
        allowed = tf.config.experimental.tensor_float_32_execution_enabled
        for choice in (True, False):
            tf.config.experimental.enable_tensor_float_32_execution(choice)
            kmeans(blobs(50, 4, 3), 3, on_iteration=lambda _: seen.append(allowed()))
            self.assertEqual(allowed(), choice)
        self.assertNotIn(True, seen)

    def test_a_large_common_offset_costs_no_digits(self):
        self.check_against_plain(blobs(500, 8, 5) + np.float32(1000), 5)

    def test_float16_and_float64_rows_are_clustered_as_they_are(self):
        for dtype in (np.float16, np.float64):
            self.check_against_plain(blobs(300, 8, 4).astype(dtype), 4)

    def test_the_objective_never_increases(self):
        x = blobs(3000, 16, 30, spread=1.0)
        objective = kmeans(x, 100, Solo(), iterations=15).objective
        self.assertLen(objective, 16)
        self.assertLessEqual(np.max(np.diff(objective)), 1e-6 * objective[0])

    def test_bfloat16_never_increases_the_objective_and_ends_as_good(self):
        x = blobs(4000, 32, 30, spread=1.0)
        short = kmeans(x, 100, iterations=12, init=x[:100], precision="bfloat16")
        full = kmeans(x, 100, iterations=12, init=x[:100])
        self.assertLessEqual(np.max(np.diff(short.objective)), 1e-6 * short.objective[0])
        self.assertAllClose(short.objective[-1], full.objective[-1], rtol=5e-3)
        distances = x - short.centroids[short.assignments]
        self.assertAllClose(short.objective[-1], np.sum(distances**2), rtol=1e-5)

    def test_bfloat16_costs_no_digits_for_a_large_common_offset(self):
        x = blobs(500, 8, 5, spread=0.1) + np.float32(1000)
        short = kmeans(x, 5, init=x[:5], precision="bfloat16")
        full = kmeans(x, 5, init=x[:5])
        self.assertAllClose(short.objective[-1], full.objective[-1], rtol=1e-4)

    @pytest.mark.bfloat16
    def test_rows_kept_in_memory_give_the_same_as_rows_read_again(self):
        x = blobs(2000, 8, 7).astype(np.float16)
        for precision in ("float32", "bfloat16"):
            kept, read = (
                kmeans(x, 20, precision=precision, cache_bytes=size, memory_bytes=1 << 16)
                for size in (1 << 20, 0)
            )
            self.assertAllEqual(kept.assignments, read.assignments)
            self.assertAllEqual(kept.centroids, read.centroids)

    def test_spherical_centroids_have_length_one_and_the_cosine_never_falls(self):
        x = blobs(2000, 8, 7)
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        states = []
        result = kmeans(x, 20, spherical=True, on_iteration=states.append)
        self.assertAllClose(np.linalg.norm(result.centroids, axis=1), np.ones(20), rtol=1e-6)
        self.assertAllEqual(result.assignments, np.argmax(x @ result.centroids.T, axis=1))
        self.assertLessEqual(np.max(np.diff(result.objective)), 1e-6 * result.objective[0])
        self.assertLess(result.objective[-1], result.objective[0])

    def test_tolerance_ends_the_iterations_once_little_is_gained(self):
        x = blobs(2000, 8, 7)
        whole = kmeans(x, 20, iterations=30, init=x[:20])
        early = kmeans(x, 20, iterations=30, init=x[:20], tolerance=0.01)
        self.assertLess(early.iterations, 30)
        self.assertLen(early.objective, early.iterations + 1)
        gains = -np.diff(whole.objective) / whole.objective[:-1]
        self.assertEqual(early.iterations, 2 + np.argmax(gains <= 0.01))
        self.assertEqual(whole.iterations, 30)

    def test_faiss_finds_the_same_clusters(self):
        x = blobs(900, 8, 7)
        ours = kmeans(x, 20, init=x[:20], backend="tensorflow")
        theirs = kmeans(x, 20, init=x[:20], backend="faiss")
        self.assertEqual((ours.backend, theirs.backend), ("tensorflow", "faiss"))
        self.assertAllEqual(ours.assignments, theirs.assignments)
        self.assertAllClose(ours.objective, theirs.objective, rtol=1e-6)

    def test_zero_iterations_assign_to_the_initial_centroids(self):
        x = blobs(100, 4, 3)
        result = kmeans(x, 3, Solo(), iterations=0, init=x[:3])
        self.assertAllEqual(result.centroids, x[:3])
        self.assertAllEqual(result.assignments[:3], [0, 1, 2])

    def test_sums_lose_nothing_over_many_chunks(self):
        # A mean far from 0 and 2.4 million additions, which float32 totals would blur.
        block = blobs(2000, 4, 1).astype(np.float32) + np.float32(50)
        result = kmeans(Repeated(block, 1200), 1, iterations=1, init=block[:1])
        self.assertAllEqual(result.counts, [2_400_000])
        self.assertAllClose(result.centroids[0], block.mean(0, dtype=np.float64), rtol=1e-7)

    def test_a_run_from_a_saved_state_ends_like_one_that_was_not_stopped(self):
        x = np.concatenate([blobs(300, 4, 3), np.zeros((50, 4), np.float32)])
        states = []
        whole = kmeans(x, 60, Solo(), iterations=6, seed=3, on_iteration=states.append)
        self.assertLen(states, 6)
        again = kmeans(x, 60, Solo(), iterations=6, seed=3, state=states[2])
        self.assertAllEqual(again.centroids, whole.centroids)
        self.assertAllEqual(again.assignments, whole.assignments)
        self.assertEqual(again.objective, whole.objective)
        self.assertEqual(again.reseeded, whole.reseeded)

    def test_a_saved_state_resumes_with_bfloat16_too(self):
        x, states = blobs(3000, 16, 9, spread=1.0), []
        arguments = {"iterations": 8, "precision": "bfloat16"}
        whole = kmeans(x, 60, on_iteration=states.append, **arguments)
        for state in (states[0], states[5]):
            again = kmeans(x, 60, state=state, **arguments)
            self.assertAllEqual(again.centroids, whole.centroids)
            self.assertAllEqual(again.assignments, whole.assignments)
            self.assertEqual(again.objective, whole.objective)

    def test_progress_counts_every_row_of_every_pass(self):
        seen = []
        kmeans(
            blobs(300, 4, 3),
            3,
            Solo(),
            iterations=2,
            memory_bytes=1 << 13,
            on_progress=lambda rows, **values: seen.append((rows, values["iteration"])),
        )
        self.assertEqual(sum(rows for rows, _ in seen), 3 * 300)
        self.assertEqual([i for _, i in seen], sorted(i for _, i in seen))
        self.assertEqual(seen[-1][1], 2)

    def test_progress_shows_rows_that_are_drawn_one_after_the_other(self):
        drawn = []
        kmeans(
            blobs(300, 4, 3),
            7,
            iterations=0,
            init="k-means++",
            on_progress=lambda rows, **values: drawn.append(values.get("drawn")),
        )
        self.assertEqual(drawn[:7], [1, 2, 3, 4, 5, 6, 7])


class WorkersTest(tf.test.TestCase):
    def check(self, x, k, **arguments):
        """The same on 1, 2 and 4 workers, the last of which has no rows."""
        alone = kmeans(x, k, Solo(), **arguments)
        for n in (2, 4):
            results = workers.on_workers(n, cluster_share, x, k, arguments)
            labels = np.concatenate([result.assignments for result in results])
            self.assertAllEqual(labels, alone.assignments)
            for result in results:
                self.assertAllEqual(result.centroids, results[0].centroids)
                self.assertAllClose(result.centroids, alone.centroids, rtol=1e-5, atol=1e-6)
                self.assertAllEqual(result.counts, alone.counts)
                self.assertAllClose(result.objective, alone.objective, rtol=1e-6, atol=1e-6)
                self.assertEqual(result.reseeded, alone.reseeded)
        return results

    def test_any_number_of_workers_finds_the_same_clusters(self):
        self.check(blobs(1200, 8, 6), 12, seed=5)

    @pytest.mark.merge
    @pytest.mark.slow
    def test_any_number_of_workers_refills_empty_clusters_alike(self):
        x = blobs(400, 8, 6)
        init = np.concatenate([x[:4], np.full((8, 8), 50) + np.arange(8)[:, None]])
        results = self.check(x, 12, init=init.astype(np.float32))
        self.assertGreaterEqual(results[0].reseeded, 8)
        self.assertAllGreater(results[0].counts, 0)

    def test_more_clusters_than_rows_on_any_number_of_workers(self):
        results = self.check(blobs(7, 4, 2), 9)
        self.assertAllEqual(np.sort(results[0].counts), [0, 0] + [1] * 7)

    def test_bytes_exchanged_are_sums_and_counts(self):
        results = workers.on_workers(2, cluster_share, blobs(300, 8, 3), 5, {})
        objective = 8
        self.assertEqual(results[0].exchanged_bytes, 5 * (8 + 1) * 4 + objective)

    def test_counts_of_any_size_are_exact(self):
        counts = np.array([2**24 + 1, 2**30, 48_000_001, 0])  # beyond what float32 tells apart
        for total in (2**31 - 1, 2**33):
            counts[1] = 2**29 if total < 2**31 else 2**31
            for found in workers.on_workers(2, all_counts, counts, total):
                self.assertAllEqual(found, 2 * counts)

    def test_a_bad_row_of_one_worker_is_named_on_all(self):
        for value, reason in (
            (np.nan, "not finite."),
            (np.inf, "not finite."),
            (1e30, "too large"),
        ):
            x = blobs(60, 4, 2)
            x[13, 2] = value
            for message in workers.on_workers(2, error_of_share, x, 2):
                self.assertIn(f"row 13 is {reason}", message)

    def test_rows_of_different_length_are_refused_on_all(self):
        for message in workers.on_workers(2, error_of_dims):
            self.assertIn("[4, 5]", message)


class ArgumentsTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(
        ({"k": 0}, "k=0; use a whole number, at least 1"),
        ({"k": 2.5}, "k=2.5; use a whole number"),
        ({"k": "12"}, "k='12'; use a whole number"),
        ({"iterations": 2.5}, "iterations=2.5; use a whole number, from 0 to"),
        ({"seed": None}, "seed=None; use a whole number"),
        ({"seed": -1}, "seed=-1; use a whole number, at least 0"),
        ({"tolerance": 1}, "tolerance=1.0; use a share from 0 to less than 1"),
        ({"tolerance": np.nan}, "tolerance=nan; use a share"),
        ({"tolerance": "1e-3"}, "tolerance='1e-3'; use a share"),
        ({"cache_bytes": -1}, "cache_bytes=-1; use a whole number, at least 0"),
        ({"memory_bytes": 0}, "memory_bytes=0; use a whole number, at least 1"),
        ({"init": None}, r"init is None; use random, .*or centroids of shape \(3, 4\)"),
        ({"init": "k-means"}, "init=k-means; use random"),
        ({"init": "previous"}, "init is 'previous'; use random"),
        ({"init": np.zeros((2, 4))}, r"init is an array of shape \(2, 4\)"),
        ({"precision": "bfloat16", "backend": "faiss"}, "use float32 or auto with backend=faiss"),
    )
    def test_impossible_ones_are_refused_with_what_would_work(self, wrong, message):
        with self.assertRaisesRegex(ConfigError, message):
            kmeans(blobs(50, 4, 3), **{"k": 3} | wrong)

    def test_numbers_of_numpy_are_numbers(self):
        found = kmeans(blobs(50, 4, 3), np.int64(3), iterations=np.uint8(2))
        self.assertAllEqual(found.centroids, kmeans(blobs(50, 4, 3), 3, iterations=2).centroids)

    def test_rows_too_small_or_too_large_to_be_squared_are_refused_alike(self):
        x = blobs(50, 4, 3).astype(np.float64)
        advice = "multiply the rows by a constant, or scale each to length 1"
        for size in (1e-20, 1e-300):  # the second is 0 in float32
            for rows in (x * size, (x * size).astype(np.float32)) if size > 1e-38 else (x * size,):
                with self.assertRaisesRegex(DataError, f"the largest component .* is .*; {advice}"):
                    kmeans(rows, 3)
        for size in (1e20, 1e300):  # the second is infinite in float32
            with self.assertRaisesRegex(DataError, f"row . is too large to be .*; {advice}"):
                kmeans(x * size, 3)
        for size in (1e-15, 1e15, 0.0):
            kmeans(x * size, 3)


class DegenerateTest(tf.test.TestCase):
    def test_equal_rows_share_one_cluster_and_the_rest_is_empty(self):
        for value in (0.0, 0.3, 1e4):
            x = np.full((50, 4), value, np.float32)
            result = kmeans(x, 5, Solo())
            self.assertAllEqual(result.counts, [50, 0, 0, 0, 0])
            self.assertAllEqual(result.centroids, x[:5])
            self.assertEqual(result.objective[-1], 0.0)
            self.assertEqual(result.reseeded, 0)

    def test_fewer_distinct_rows_than_clusters_get_a_cluster_each(self):
        distinct = blobs(6, 4, 6)
        x = np.repeat(distinct, [1, 2, 3, 40, 50, 60], axis=0)
        for seed in range(5):
            result = kmeans(x, 20, Solo(), seed=seed)
            self.assertAllEqual(np.sort(result.counts), [0] * 14 + [1, 2, 3, 40, 50, 60])
            self.assertNear(result.objective[-1], 0.0, 1e-3)

    def test_equal_rows_are_not_split_over_and_over(self):
        x = np.repeat(blobs(6, 4, 6) + np.float32(3), [1, 2, 3, 40, 50, 60], axis=0)
        states = []
        kmeans(x, 20, Solo(), iterations=12, on_iteration=states.append)
        self.assertEqual(np.count_nonzero(states[-1].used), 6)
        self.assertEqual(states[-1].reseeded, states[6].reseeded)

    def test_centroids_of_clusters_without_a_donor_attract_nobody(self):
        x = blobs(300, 4, 3)
        # One iteration gives one of five empty clusters half of the only other one.
        result = kmeans(x, 6, Solo(), iterations=1, init=np.repeat(x[:1], 6, axis=0))
        self.assertEqual(np.count_nonzero(result.counts), 2)
        distances = ((x[:, None] - result.centroids[None]) ** 2).sum(axis=2)
        own = distances[np.arange(len(x)), result.assignments]
        self.assertAllClose(own, distances.min(axis=1), atol=1e-5)

    def test_equal_initial_centroids_end_as_different_clusters(self):
        x = blobs(300, 4, 3)
        result = kmeans(x, 6, Solo(), init=np.repeat(x[:1], 6, axis=0))
        self.assertAllGreater(result.counts, 0)
        self.assertEqual(result.reseeded, 5)

    def test_every_empty_cluster_has_its_own_donor_largest_first(self):
        x = np.concatenate([blobs(n, 2, 1, n) + 20 * n for n in (30, 20, 10)]).astype(np.float32)
        far = np.full((2, 2), 1e3, np.float32)
        init = np.stack([x[0], far[0], x[30], x[50], far[1]])
        result = kmeans(x, 5, Solo(), iterations=1, init=init)
        self.assertEqual(result.reseeded, 2)
        self.assertEqual(result.counts[0] + result.counts[1], 30)
        self.assertEqual(result.counts[2] + result.counts[4], 20)
        self.assertEqual(result.counts[3], 10)

    def test_no_rows_give_empty_clusters(self):
        result = kmeans(np.zeros((0, 4), np.float32), 3, Solo())
        self.assertAllEqual(result.counts, [0, 0, 0])
        self.assertEqual(result.assignments.shape, (0,))
        self.assertAllEqual(result.centroids, np.zeros((3, 4)))

    def test_impossible_settings_and_points_are_refused(self):
        x = blobs(10, 4, 2)
        for arguments in (
            {"k": 0},
            {"iterations": -1},
            {"init": x[:3]},
            {"init": "forgy"},
            {"precision": "float16"},
            {"tolerance": -1},
            {"backend": "torch"},
            {"backend": "faiss", "precision": "bfloat16"},
        ):
            with self.assertRaisesRegex(ConfigError, str(next(iter(arguments)))):
                kmeans(x, comm=Solo(), **({"k": 2} | arguments))
        for points in (x[0], x.astype(np.int32)):
            with self.assertRaises(DataError):
                kmeans(points, 2, Solo())
