"""Rows of float64 with an offset that takes the digits of float32."""

import numpy as np
import pytest
import tensorflow as tf
import workers
from absl.testing import parameterized

from dc_tf.clustering.centring import find_origin
from dc_tf.clustering.kmeans import kmeans
from dc_tf.clustering.store.points import as_points
from dc_tf.distributed.collectives import Solo
from dc_tf.errors import DataError

pytestmark = pytest.mark.numeric


def two_groups(offset, gap, rows=120, dim=3):
    """(rows, dim) float64 around offset and offset + gap, and the (rows,) group of each."""
    rng = np.random.default_rng(0)
    group = rng.integers(0, 2, rows)
    noise = 0.01 * gap * rng.normal(size=(rows, dim))
    return offset + gap * group[:, None] + noise, group


def agreement(result, group):
    return max(np.mean(result.assignments == group), np.mean(result.assignments != group))


def cluster_share(comm, x, k):
    return kmeans(np.array_split(x, comm.size)[comm.rank], k, comm)


def origin_of(x, seed=0, **options):
    return find_origin(as_points(x), Solo(), seed, **options)


class CentringTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(
        (1e8, 3.0), (1e5, 1e-3), (-1e12, 10.0), (1e15, 100.0), (1e-3, 1e-10), (1e25, 1e15)
    )
    def test_groups_that_differ_in_lost_digits_are_found(self, offset, gap):
        x, group = two_groups(offset, gap)
        result = kmeans(x, 2)
        self.assertEqual(agreement(result, group), 1.0)
        self.assertEqual(result.centroids.dtype, np.float64)
        means = np.stack([x[result.assignments == j].mean(axis=0) for j in range(2)])
        self.assertAllClose((result.centroids - offset) / gap, (means - offset) / gap, atol=5e-3)
        distances = np.sum((x - result.centroids[result.assignments]) ** 2)
        self.assertAllClose(result.objective[-1], distances, rtol=1e-2)

    def test_it_finds_what_it_finds_in_the_rows_without_the_offset(self):
        x = np.random.default_rng(0).normal(size=(200, 4))
        offset = 2.0**30
        moved = (x + offset) - offset  # what is left of them
        init = moved[:7]
        expected = kmeans(moved, 7, init=init)
        found = kmeans(x + offset, 7, init=init + offset)
        self.assertAllEqual(found.assignments, expected.assignments)
        self.assertAllClose(found.centroids - offset, expected.centroids, atol=1e-5)

    def test_rows_are_assigned_to_the_centroids_that_were_found(self):
        x, _ = two_groups(1e8, 3.0)
        found = kmeans(x, 2)
        again = kmeans(x[5:9], 2, iterations=0, init=found.centroids)
        self.assertAllEqual(again.assignments, found.assignments[5:9])

    def test_several_workers_find_the_same(self):
        x, _ = two_groups(1e9, 1.0)
        alone = kmeans(x, 2)
        for result in (results := workers.on_workers(2, cluster_share, x, 2)):
            self.assertAllClose(result.centroids, alone.centroids, rtol=1e-15)
        labels = np.concatenate([result.assignments for result in results])
        self.assertAllEqual(labels, alone.assignments)

    def test_a_saved_state_resumes(self):
        x = 1e8 + np.random.default_rng(0).normal(size=(200, 4))
        states = []
        whole = kmeans(x, 9, on_iteration=states.append)
        again = kmeans(x, 9, state=states[3])
        self.assertAllEqual(again.centroids, whole.centroids)
        self.assertEqual(again.objective, whole.objective)

    def test_ordinary_rows_stay_as_they_are(self):
        x = np.random.default_rng(0).normal(size=(100, 4))
        for rows in (x, x + 1000, x.astype(np.float32) + np.float32(1e8), x * 1e8, x[:1] + 1e8):
            self.assertIsNone(origin_of(rows))
        self.assertEqual(kmeans(x + 1000, 3).centroids.dtype, np.float32)

    def test_rows_that_are_equal_up_to_rounding_are_one_cluster(self):
        x = np.full((50, 3), 0.1) * 3  # not 0.3
        self.assertIsNone(origin_of(x))
        self.assertIsNone(origin_of(np.where(np.arange(50)[:, None] % 2, x, np.nextafter(x, 1))))
        self.assertAllEqual(kmeans(x, 2).counts, [50, 0])

    def test_what_float32_cannot_compute_is_refused(self):
        x, _ = two_groups(1e8, 3.0)
        with self.assertRaisesRegex(DataError, "differ only in digits .*leave out --spherical"):
            kmeans(x, 2, spherical=True)
        x, _ = two_groups(1e-12, 1e-20)
        with self.assertRaisesRegex(
            DataError, "difference of the rows from their mean is .*too small"
        ):
            kmeans(x, 2)


if __name__ == "__main__":
    tf.test.main()
