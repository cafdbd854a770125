"""Clusters of rows that float32 cannot tell apart are named, and no others."""

import numpy as np
import pytest
import tensorflow as tf
import workers
from absl.testing import parameterized

from dc_tf.clustering.kmeans import kmeans
from dc_tf.clustering.resolution import find_unresolved
from dc_tf.clustering.store.points import as_points
from dc_tf.distributed.collectives import Solo

pytestmark = pytest.mark.numeric

TWICE = np.repeat([[0.1, 0.7], [3.0, 5.0]], 50, axis=0)
MIXED = np.repeat([0.0, 1e8, 1e8 + 3], 20)[:, None]


def unresolved(comm, x, k, origin=None):
    own = np.array_split(x, comm.size)[comm.rank]
    return find_unresolved(as_points(own), origin, kmeans(own, k, comm, init="k-means++"), comm)


class UnresolvedTest(tf.test.TestCase, parameterized.TestCase):
    def test_rows_of_mixed_sizes_are_named_alike_on_any_number_of_workers(self):
        for count in (1, 2):
            for found in workers.on_workers(count, unresolved, MIXED, 3):
                self.assertEqual((found.clusters, found.rows), (1, 40))
                self.assertAllClose(found.distance, 1.5)
                self.assertAllClose(found.rounding, 3 / np.sqrt(2))

    def test_python_and_logs_hear_of_it(self):
        with self.assertLogs("absl", "WARNING") as logs:
            kmeans(MIXED, 3)
        self.assertRegex(logs.output[-1], "40 rows in 1 clusters lie 1.5 from the mean")

    @parameterized.named_parameters(
        ("ordinary", np.random.default_rng(0).normal(size=(300, 5)), 7),
        ("of_float32", MIXED.astype(np.float32), 3),
        ("equal", np.repeat(np.random.default_rng(0).normal(size=(6, 4)), 9, axis=0), 6),
        ("one_each", np.random.default_rng(0).normal(size=(12, 4)), 12),
        (
            "equal_up_to_float64",
            np.repeat([[0.1, 0.7], [3.0, 5.0]], 50, axis=0) * (1 + 2.0**-52),
            2,
        ),
        ("large_offset", 1e8 + 3 * np.random.default_rng(0).normal(size=(300, 5)), 7),
        (
            "tight_clusters",
            np.repeat([0.0, 1.0], 50)[:, None] + np.linspace(0, 1e-4, 100)[:, None],
            2,
        ),
    )
    def test_others_are_left_in_peace(self, x, k):
        with self.assertNoLogs("absl", "WARNING"):
            kmeans(x, k)

    def test_no_rows_are_no_error(self):
        found = find_unresolved(
            as_points(np.zeros((0, 3))), None, kmeans(np.ones((4, 3)), 1), Solo()
        )
        self.assertEqual(found.rows, 0)


if __name__ == "__main__":
    tf.test.main()
