"""K-means against a plain Lloyd, on several workers, and on inputs that break others."""

import numpy as np
import tensorflow as tf
import workers

from dc_tf.clustering.kmeans import kmeans
from dc_tf.clustering.nearest import NearestCentroid, tile_shape
from dc_tf.distributed.collectives import Solo
from dc_tf.errors import ConfigError, DataError


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


class Chunks(list):
    """Points that come in the given blocks, whatever chunk size is asked for."""

    def __init__(self, *blocks):
        super().__init__(blocks)
        self.rows, self.dim = sum(map(len, blocks)), blocks[0].shape[1]

    def chunks(self, chunk_rows):
        del chunk_rows
        start = 0
        for block in self:
            yield start, block
            start += len(block)

    def take(self, positions):
        return np.concatenate(self)[positions].astype(np.float32)


class LloydTest(tf.test.TestCase):
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
        chunk_rows, _ = tile_shape(40, 8, 1 << 14)
        self.assertLess(chunk_rows, 100)
        self.check_against_plain(x, 40, memory_bytes=1 << 14)

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

    def test_zero_iterations_assign_to_the_initial_centroids(self):
        x = blobs(100, 4, 3)
        result = kmeans(x, 3, Solo(), iterations=0, init=x[:3])
        self.assertAllEqual(result.centroids, x[:3])
        self.assertAllEqual(result.assignments[:3], [0, 1, 2])

    def test_sums_lose_nothing_over_many_chunks(self):
        # 300 chunks that float32 totals would blur: a mean far from 0 and many additions.
        block = blobs(2000, 4, 1).astype(np.float32) + np.float32(50)
        result = kmeans(Chunks(*[block] * 300), 1, Solo(), iterations=1, init=block[:1])
        self.assertAllEqual(result.counts, [600_000])
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

    def test_progress_counts_every_row_of_every_pass(self):
        seen = []
        kmeans(
            blobs(300, 4, 3),
            3,
            Solo(),
            iterations=2,
            memory_bytes=1 << 13,
            on_progress=lambda rows, **figures: seen.append((rows, figures["iteration"])),
        )
        self.assertEqual(sum(rows for rows, _ in seen), 3 * 300)
        self.assertEqual([i for _, i in seen], sorted(i for _, i in seen))
        self.assertEqual(seen[-1][1], 2)


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
        header = 8 * (1 + 2)  # objective, and a place for each worker's bad row
        self.assertEqual(results[0].exchanged_bytes, 5 * (8 + 1) * 4 + header)

    def test_a_bad_row_of_one_worker_is_named_on_all(self):
        for value in (np.nan, np.inf, 1e30):
            x = blobs(60, 4, 2)
            x[13, 2] = value
            for message in workers.on_workers(2, error_of_share, x, 2):
                self.assertIn("row 13 is not finite", message)

    def test_rows_of_different_length_are_refused_on_all(self):
        for message in workers.on_workers(2, error_of_dims):
            self.assertIn("[4, 5]", message)


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
            self.assertNear(result.objective[-1], 0.0, 1e-4)

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
        for arguments in ({"k": 0}, {"iterations": -1}, {"init": x[:3]}):
            with self.assertRaises(ConfigError):
                kmeans(x, comm=Solo(), **({"k": 2} | arguments))
        for points in (x[0], x.astype(np.int32)):
            with self.assertRaises(DataError):
                kmeans(points, 2, Solo())


class NearestTest(tf.test.TestCase):
    def test_ties_go_to_the_lowest_index_within_and_between_tiles(self):
        k = 5000
        self.assertLess(tile_shape(k, 2, 1 << 20)[1], k)
        centroids = np.zeros((k, 2), np.float32)
        centroids[:7] = 9.0
        nearest = NearestCentroid(k, 2)
        nearest.load(centroids)
        labels, distances = nearest(np.zeros((3, 2), np.float32))
        self.assertAllEqual(labels, [7, 7, 7])
        self.assertAllClose(distances, [0, 0, 0], atol=1e-6)

    def test_unused_centroids_get_no_row(self):
        nearest = NearestCentroid(3, 2)
        nearest.load(np.eye(3, 2, dtype=np.float32), np.array([False, True, False]))
        labels, _ = nearest(np.eye(3, 2, dtype=np.float32))
        self.assertAllEqual(labels, [1, 1, 1])

    def test_the_tile_is_the_whole_when_k_is_small_and_even_when_it_is_large(self):
        self.assertEqual(tile_shape(4, 64, 1 << 28)[1], 4)
        self.assertEqual(tile_shape(4096 + 2, 64, 1 << 28)[1], 1366)
        for k, dim in ((4, 4096), (80_000, 4096), (1000, 64)):
            rows, tile = tile_shape(k, dim, 1 << 28)
            self.assertLessEqual(rows * (16 * dim + 8 * tile), 1 << 28)
