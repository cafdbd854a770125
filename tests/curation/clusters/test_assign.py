"""New images get the clusters of a run or of k-means; those that were clustered, their own."""

import os
import tempfile
from unittest import mock

import clustered
import numpy as np
import pyarrow.parquet as pq
import pytest
import real_data
import runs
import tensorflow as tf
import workers

import dc_tf
from dc_tf.curation.clusters import assign as assign_lib
from dc_tf.curation.clusters import start
from dc_tf.curation.clusters.open import open_clustering
from dc_tf.errors import ConfigError, Preempted
from dc_tf.training import checkpoint


class AssignTest(tf.test.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        settings, cls.run_folder = runs.undisturbed(1)
        cls.data = settings["data"]["path"]

    def path(self, name):
        return os.path.join(tempfile.mkdtemp(dir=self.get_temp_dir()), name)

    def assigned(self, data, name="new.parquet", **which):
        output = self.path(name)
        start.assign(data, output, **which)
        self.assertEqual(os.listdir(os.path.dirname(output)), [name])
        return pq.read_table(output).to_pandas()

    def clustered_table(self, **which):
        output = self.path("clusters.parquet")
        start.write_clusters(output, workers=1, **which)
        return pq.read_table(output).to_pandas()

    def test_the_images_of_a_run_get_the_clusters_they_have(self):
        for round_index in (0, 1):
            which = {"run": self.run_folder, "stage": "deepercluster", "round_index": round_index}
            own = self.clustered_table(**which)
            new = self.assigned(self.data, **which)
            for name in ("row", "source", "cluster", "sub_cluster"):
                self.assertAllEqual(own[name], new[name])
            self.assertAllClose(own["distance"], new["distance"], 1e-4, 1e-5)
            self.assertAllClose(own["ratio"], new["ratio"], 1e-4, 1e-5)

    def test_new_images_are_described_like_the_others(self):
        data = clustered.write_data(self.path("new"), rows=9, meta=clustered.photo)
        table = self.assigned(data, run=self.run_folder)
        self.assertAllEqual(table["row"], np.arange(9))
        self.assertEqual(table["source"][3], "photos/3.png")
        self.assertAllInRange(table["cluster"].to_numpy(), 0, 1)
        self.assertAllInRange(table["sub_cluster"].to_numpy(), 0, 3)
        self.assertAllInRange(table["ratio"].to_numpy(), 0, 1 + 1e-6)
        self.assertEqual(table["user"][6], "user1")

    @pytest.mark.merge
    @pytest.mark.slow
    def test_images_of_clustered_embeddings_get_the_clusters_they_have(self):
        features, clusters = self.path("features"), self.path("clusters")
        dc_tf.embed(self.run_folder, self.data, "conv4", features, rows_per_file=50)
        dc_tf.kmeans(os.path.join(features, "conv4-*.npy"), 5, clusters, normalize=True)
        own = self.clustered_table(clusters=clusters, data=self.data)
        new = self.assigned(self.data, clusters=clusters)
        self.assertAllEqual(own["cluster"], new["cluster"])
        self.assertAllClose(own["distance"], new["distance"], 1e-3, 1e-4)
        self.assertNotIn("sub_cluster", own)

    def test_vectors_of_any_origin_are_given(self):
        x, clusters = self.path("x.npy"), self.path("clusters")
        np.save(x, np.random.default_rng(0).normal(size=(128, 6)).astype(np.float32))
        dc_tf.kmeans(x, 4, clusters)
        with self.assertRaisesRegex(ConfigError, "is not of `dc_tf embed`.*--features=FEATURES"):
            self.assigned(self.data, clusters=clusters)
        own = self.clustered_table(clusters=clusters, data=self.data)
        new = self.assigned(self.data, clusters=clusters, features=x)
        self.assertAllEqual(own["cluster"], new["cluster"])
        np.save(x, np.zeros((128, 5), np.float32))
        with self.assertRaisesRegex(ConfigError, "5 components and the centroids .* have 6"):
            self.assigned(self.data, clusters=clusters, features=x)

    def test_an_interrupted_call_resumes_from_its_features(self):
        output = self.path("new.parquet")
        stop = mock.patch.object(start, "atomic")  # used after all is written
        with (
            mock.patch(
                "dc_tf.curation.clusters.record_parts.write_parts", side_effect=Preempted("stop")
            ),
            stop,
            self.assertRaises(Preempted),
        ):
            start.assign(self.data, output, run=self.run_folder)
        network, settings = checkpoint.load_trunk_of_clustering(self.run_folder)
        with mock.patch.object(checkpoint, "load_trunk_of_clustering") as trunk:
            trunk.return_value = (
                mock.Mock(side_effect=AssertionError("extracts again"), settings=network.settings),
                settings,
            )
            start.assign(self.data, output, run=self.run_folder)
        self.assertEqual(os.listdir(os.path.dirname(output)), ["new.parquet"])

    def test_what_cannot_work_is_refused(self):
        for which, message in (
            ({}, "give --run=RUN or --clusters=CLUSTERS"),
            ({"run": self.data}, "is not the folder of a run"),
            ({"run": self.run_folder, "stage": "deep"}, "no such stage; it has rotnet, deeper"),
            ({"run": self.run_folder, "features": "x.npy"}, "--features are of --clusters"),
            ({"run": self.run_folder, "round_index": 7}, "keeps no centroids of round 7"),
            ({"clusters": self.data}, "is not the --output of a `dc_tf kmeans`"),
        ):
            with self.assertRaisesRegex(ConfigError, message):
                self.assigned(self.data, **which)
        with self.assertRaisesRegex(ConfigError, "--data is missing"):
            start.assign(None, self.path("x.csv"), run=self.run_folder)

    def test_a_run_that_ended_has_the_table_of_its_last_round_once(self):
        folder = self.run_folder
        start.write_run_table(folder, workers=1)
        path = os.path.join(folder, "clusters.parquet")
        last = open_clustering(run=folder)
        self.assertAllEqual(pq.read_table(path)["cluster"].to_numpy(), last.cluster)
        with mock.patch.object(start, "_write_clusters", side_effect=AssertionError("again")):
            start.write_run_table(folder)
        os.remove(path)
        with mock.patch.object(start, "_write_clusters", side_effect=OSError("full")):
            with self.assertLogs(level="WARNING") as logs:
                start.write_run_table(folder)
        self.assertIn("`dc_tf clusters --run=", logs.output[0])


class PhotosTest(tf.test.TestCase):
    @pytest.mark.slow
    def test_photographs_that_two_workers_clustered_get_their_clusters(self):
        archive = real_data.archive("photos.zip")
        folder = tempfile.mkdtemp(dir=self.get_temp_dir())
        data, run = os.path.join(folder, "data"), os.path.join(folder, "run")
        dc_tf.convert(archive, data, short_side=40, workers=1)
        settings = runs.settings(data, stages=[{**runs.SETTINGS["stages"][1], "epochs": 1}])
        workers.on_cluster(2, runs.train, settings, run)
        own = open_clustering(run=run)
        new = assign_lib.assign_images(data, os.path.join(folder, "scratch"), run=run)
        different = (own.cluster != new.cluster) | (own.sub != new.sub)
        print(f"{different.sum()} of {len(different)} photographs differ")
        self.assertLessEqual(different.mean(), 0.002)  # ties of float32
        self.assertTrue((new.ratio[different] > 0.999).all())


if __name__ == "__main__":
    tf.test.main()
