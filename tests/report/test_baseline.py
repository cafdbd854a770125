"""The clusters of an untrained network are made as those of the run beside which they stand."""

import dataclasses
import types
from unittest import mock

import numpy as np
import tensorflow as tf

from dc_tf.experiment import Clustering, Projection, Stage
from dc_tf.report import baseline

ROWS, FEATURES = 60, 12


@dataclasses.dataclass(frozen=True)
class Shown:
    """What is set of a `clusters.open.Clustering`."""

    count: int = 5
    stage: int = 0
    name: str = "clusters"
    cluster: object = None
    sub: object = None
    clusters: int = 1
    sub_clusters: int = 5
    distance: object = None
    centroids: object = None


class BaselineTest(tf.test.TestCase):
    def clustered(self, stage):
        """(points that k-means gets, its options, the Clustering) for a run with this stage."""
        trunk = types.SimpleNamespace(feature_layer="fc7", feature_dim=FEATURES)
        features = 5 + np.random.default_rng(0).random((ROWS, FEATURES), np.float32)
        run = types.SimpleNamespace(
            dataset=types.SimpleNamespace(rows=ROWS),
            folder=types.SimpleNamespace(path="/run"),
            experiment=types.SimpleNamespace(
                stages=[stage], data=types.SimpleNamespace(max_bad_share=0.0)
            ),
        )
        seen = []

        def spy(points, k, options):
            seen.extend((points.read(0, ROWS), options))
            return types.SimpleNamespace(assignments=np.arange(ROWS, dtype=np.int32) % k)

        with mock.patch.multiple(
            baseline,
            open_model=lambda path: path,
            random_init=lambda model: types.SimpleNamespace(trunk=trunk),
            embed_in_memory=lambda *_, **__: {"fc7": features},
            kmeans=spy,
        ):
            found = baseline.untrained(run, Shown())
        return features, *seen, found

    def test_features_go_through_a_projection_where_the_run_has_one(self):
        clustering = Clustering(whiten=False, spherical=True)
        stage = Stage(projection=Projection(hidden=16, dim=4), clustering=clustering)
        _, points, options, found = self.clustered(stage)
        self.assertEqual(points.shape, (ROWS, 4))
        self.assertAllClose(np.linalg.norm(points, axis=1), np.ones(ROWS), atol=1e-5)
        # They are nearly equal before; batch norm with statistics of the images separates them.
        self.assertLess(np.mean(points @ points.T), 0.9)
        self.assertTrue(options.spherical)
        self.assertEqual((found.name, found.clusters), ("untrained network", 5))

    def test_features_are_whitened_where_the_runs_are(self):
        features, points, options, _ = self.clustered(Stage(clustering=Clustering(whitening_dim=6)))
        self.assertEqual(points.shape, (ROWS, 6))
        self.assertFalse(options.spherical)
        features, points, *_ = self.clustered(Stage(clustering=Clustering(whiten=False)))
        self.assertAllEqual(points, features)

    def test_there_are_none_of_many_images(self):
        run = types.SimpleNamespace(dataset=types.SimpleNamespace(rows=baseline.MOST_ROWS + 1))
        self.assertIsNone(baseline.untrained(run, Shown()))


if __name__ == "__main__":
    tf.test.main()
