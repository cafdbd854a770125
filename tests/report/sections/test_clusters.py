"""What clusters hold, and which are worth looking at."""

import os
import tempfile

import clustered
import numpy as np
import tensorflow as tf

from dc_tf.curation.clusters import outliers
from dc_tf.report import columns, sample
from dc_tf.report.sections import clusters
from dc_tf.report.sections.colours import Colours

ROWS = 60


class ClustersTest(tf.test.TestCase):
    """Three clusters of 20 rows: the first has one place and many users, the others one user."""

    def setUp(self):
        super().setUp()
        path = os.path.join(tempfile.mkdtemp(dir=self.get_temp_dir()), "data")

        def meta(row):
            user = f"user{row % 10}" if row < 20 else f"owner of {row // 20}"
            place = {"latitude": float(row // 20 if row < 40 else row), "longitude": 0.0}
            return {"user": user, **place}

        self.data = clustered.write_data(path, meta=meta)
        distance = np.ones(ROWS, np.float32)
        distance[:20] = np.linspace(0.1, 4, 20)
        self.clustering = clustered.clustering(self.data, np.arange(ROWS) // 20, distance=distance)
        self.statistics = outliers.distance_statistics(self.clustering)

    def describe(self):
        sizes = self.clustering.sizes()
        chosen = sample.choose(self.clustering, sizes, 1000)
        self.read = columns.read(self.clustering.dataset, chosen.rows, chosen.rows)
        own = Colours(self.clustering.flat(chosen.rows), self.read.colours)
        return clusters.describe(self.clustering, sizes, chosen, self.read, self.statistics, own)

    def test_dominant_values_and_purity(self):
        first, second, third = self.describe()
        self.assertEqual(first.dominant["place"].share, 1.0)
        self.assertAlmostEqual(first.dominant["user"].share, 0.1)
        self.assertEqual(second.dominant["user"].value, "owner of 1")
        self.assertEqual(third.dominant["user"].share, 1.0)
        self.assertAlmostEqual(third.dominant["place"].share, 1 / 20)
        self.assertEqual([one.size for one in (first, second, third)], [20, 20, 20])
        self.assertEqual(first.dominant["label"].known, 20)

    def test_spread_and_unevenness_are_those_of_the_distances(self):
        own = self.clustering.distance[:20].astype(float)
        expected = [own.mean(), own.std()]
        self.assertAllClose(self.statistics[0], expected, rtol=1e-5)
        self.assertAllClose(self.statistics[1], [1.0, 0.0], atol=1e-6)

    def test_groups_name_the_clusters_that_stand_out(self):
        described = self.describe()
        groups = clusters.select(described, self.read.columns)
        alone = groups["Pure for place, not for user"]
        self.assertEqual([pick.cluster.number for pick in alone], [0])
        self.assertIn("user 10 %", alone[0].why)
        self.assertEqual(groups["Least even"][0].cluster.number, 0)
        self.assertEqual(groups["Purest for user"][0].cluster.number, 1)
        single = clusters.single_source(described, self.read.columns)
        self.assertEqual([one.number for one in single], [1, 2])

    def test_outliers_are_far_for_their_cluster(self):
        sizes = self.clustering.sizes()
        found, count = outliers.farthest(self.clustering, self.statistics, sizes, 2)
        self.assertEqual([row for row, _, _ in found], [19, 18])
        own = self.clustering.distance[:20]
        self.assertAlmostEqual(found[0][2], (4 - own.mean()) / own.std(), places=4)
        self.assertEqual(count, 0)


class ColoursTest(tf.test.TestCase):
    def test_deviation_is_the_root_mean_squared_distance_to_the_mean_colour(self):
        colours = np.float32([[0, 0, 0], [20, 0, 0]] * 3 + [[9, 9, 9]] * 5 + [[np.nan] * 3])
        found = Colours(np.repeat([4, 7, 4], [6, 5, 1]), colours)
        self.assertAllClose(found.of(4), ((10, 0, 0), 10))
        self.assertAllClose(found.of(7), ((9, 9, 9), 0))
        self.assertEqual(found.of(5), (None, None))
        self.assertAllClose(found.sorted_deviations(), [0, 10])

    def test_few_images_have_no_colour(self):
        self.assertEqual(Colours(np.zeros(4, int), np.ones((4, 3))).of(0), (None, None))


if __name__ == "__main__":
    tf.test.main()
