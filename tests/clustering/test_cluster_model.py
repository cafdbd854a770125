"""Kept clusterings: what was clustered is assigned as in the run, and other rows as by NumPy."""

import dataclasses
import os
import pathlib
import tempfile
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
import workers

from dc_tf import atomic
from dc_tf.clustering import cluster_model, kept_clustering, nearness
from dc_tf.clustering.cluster_model import ClusterModel, load_clustering
from dc_tf.clustering.hierarchy import hierarchical_kmeans
from dc_tf.clustering.kept_clustering import KeptClustering, kept_rounds, prune
from dc_tf.clustering.store.whitening import Moments, Whitening
from dc_tf.distributed.collectives import Solo
from dc_tf.errors import ConfigError, DataError
from dc_tf.run_dir import RunDir

pytestmark = pytest.mark.numeric

RAW_DIM, DIM = 12, 6


def features(rows, seed=0):
    """(rows, RAW_DIM) float32 from a few overlapping clouds far from the origin."""
    random = np.random.default_rng(seed)
    centers = random.normal(size=(10, RAW_DIM))
    x = centers[random.integers(0, 10, rows)] + 0.5 * random.normal(size=(rows, RAW_DIM))
    return (x + 5).astype(np.float32)


def cluster_and_keep(comm, folder, x, clusters, sub_clusters, dtype="float32", seed=0):
    """Clusters this worker's part of x as a round of a run does; returns its labels."""
    own = np.array_split(x, comm.size)[comm.rank].astype(dtype)
    whitening = Whitening.fit(Moments.of(as_rows(own)), comm, DIM)
    kept = KeptClustering(folder, comm, {"stage": 1, "round": 0, "step": 7})
    points = as_rows(whitening.apply(own).astype(dtype))
    found = hierarchical_kmeans(
        points,
        clusters,
        sub_clusters,
        comm,
        seed,
        iterations=4,
        backend="tensorflow",
        on_centroids=kept.write,
    )
    about = {"rows": len(x), "sub_clusters": sub_clusters, "store_dtype": dtype}
    first_row = sum(map(len, np.array_split(x, comm.size)[: comm.rank]))
    kept.write_nearness(points, first_row, found)
    kept.commit(about, whitening, found.counts, write_network)
    return found.cluster, found.sub


def as_rows(x):
    from dc_tf.clustering.store.points import as_points

    return as_points(x)


def write_network(prefix):
    pathlib.Path(f"{prefix}.index").write_text("of a test")


class ClusterModelTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.run = RunDir(tempfile.mkdtemp(dir=self.get_temp_dir()))
        self.folder = self.run.clustering(1, 0)

    def kept(self, *args, **settings):
        found = cluster_and_keep(Solo(), self.folder, *args, **settings)
        return load_clustering(self.run), *found

    def assert_same(self, found, cluster, sub):
        """Labels agree but for rows that are as near to two centroids, of which there are few."""
        different = (found.cluster != cluster) | (found.sub != sub)
        self.assertLessEqual(different.mean(), 0.002)
        self.assertTrue((found.ratio[different] > 0.999).all())

    def test_the_rows_that_were_clustered_get_their_clusters(self):
        x = features(3000)
        for clusters, sub_clusters in ((3, 8), (1, 20), (5, 0)):
            for dtype in ("float32", "float16"):
                with self.subTest(clusters=clusters, sub_clusters=sub_clusters, dtype=dtype):
                    model, *labels = self.kept(x, clusters, sub_clusters, dtype)
                    self.assert_same(model.assign(x.astype(dtype)), *labels)

    def test_two_workers_keep_what_one_reads(self):
        x = features(2000)
        parts = workers.on_workers(2, cluster_and_keep, self.folder, x, 3, 8)
        labels = (np.concatenate([part[level] for part in parts]) for level in (0, 1))
        self.assert_same(load_clustering(self.run).assign(x), *labels)

    @pytest.mark.merge
    @pytest.mark.slow
    def test_distances_of_the_clustered_rows_are_kept_by_any_number_of_workers(self):
        x = features(2000)
        for count, (clusters, sub_clusters) in ((1, (4, 0)), (1, (3, 8)), (2, (3, 8))):
            workers.on_workers(count, cluster_and_keep, self.folder, x, clusters, sub_clusters)
            model = load_clustering(self.run)
            found = model.assign(x)
            kept = model.nearness()
            self.assertAllClose(kept[:, 0], found.distance, 1e-4, 1e-5)
            self.assertAllClose(kept[:, 1], found.ratio, 1e-3, 1e-4)

    def test_distances_that_do_not_join_are_refused(self):
        model, *_ = self.kept(features(500), 3, 4)
        path = os.path.join(model.path, "nearness-00000-of-00001.npz")
        with np.load(path) as block:
            np.savez(path, first_row=block["first_row"], nearness=block["nearness"][:-1])
        with self.assertRaisesRegex(DataError, "has distances of 499 rows, not 500"):
            model.nearness()
        os.remove(path)
        self.assertIsNone(model.nearness())

    def test_clusters_without_rows_get_none(self):
        x = np.repeat(features(6), 4, axis=0)  # of 12 clusters 6 stay empty
        model, *labels = self.kept(x, 2, 6)
        self.assertEqual(np.count_nonzero(model.counts), 6)
        found = model.assign(x)
        self.assertAllEqual(found.cluster, labels[0])
        self.assertAllEqual(found.sub, labels[1])
        new = model.assign(features(500, seed=1))
        self.assertAllGreater(model.counts[new.cluster, new.sub], 0)

    def test_distance_and_ratio_are_those_of_the_two_nearest(self):
        model, *_ = self.kept(features(2000), 3, 8)
        new = features(300, seed=1)
        found = model.assign(new)
        x = model.whitening.apply(new)
        to_super = np.linalg.norm(x[:, None] - model.super_centroids, axis=2)
        self.assertAllEqual(found.cluster, to_super.argmin(1))
        for row, cluster in enumerate(found.cluster):
            to_sub = np.linalg.norm(x[row] - model.sub_centroids[cluster], axis=1)
            nearest, second = np.sort(to_sub)[:2]
            self.assertEqual(found.sub[row], to_sub.argmin())
            self.assertAllClose(found.distance[row], nearest, 1e-4, 1e-5)
            self.assertAllClose(found.ratio[row], nearest / second, 1e-4, 1e-5)

    def test_chunks_and_tiles_change_nothing(self):
        model, *_ = self.kept(features(2000), 3, 40)
        new = features(300, seed=1)
        whole = model.assign(new)
        tiles = mock.patch.object(nearness, "_TILE_BYTES", 4 * DIM * 3)
        with mock.patch.object(cluster_model, "CHUNK_BYTES", 4 * RAW_DIM * 7), tiles:
            parts = model.assign(new)
        self.assertAllEqual(parts.cluster, whole.cluster)
        self.assertAllEqual(parts.sub, whole.sub)
        self.assertAllClose(parts.ratio, whole.ratio, 1e-4, 1e-5)

    def test_one_cluster_with_rows_has_no_second_nearest(self):
        model, *_ = self.kept(features(500), 3, 0)
        lonely = np.where(np.arange(3)[:, None] == 1, model.counts, 0)
        found = dataclasses.replace(model, counts=lonely).assign(features(50))
        self.assertAllEqual(found.cluster, np.ones(50))
        self.assertAllEqual(found.ratio, np.zeros(50))

    def test_no_rows_are_no_error(self):
        model, *_ = self.kept(features(500), 3, 4)
        found = model.assign(np.zeros((0, RAW_DIM), np.float32))
        self.assertEqual([len(part) for part in found], [0, 0, 0, 0])

    def test_rows_that_do_not_fit_are_refused(self):
        model, *_ = self.kept(features(500), 3, 4)
        with self.assertRaisesRegex(DataError, "have 11 components; this clustering has 12"):
            model.assign(np.zeros((4, 11), np.float32))
        x = features(4)
        x[2, 5] = np.nan
        with self.assertRaisesRegex(DataError, "features of row 2 are not finite"):
            model.assign(x)

    def test_the_description_names_place_and_arrays(self):
        model, *_ = self.kept(features(500), 3, 4, "float16")
        self.assertEqual((model.stage, model.round, model.step, model.rows), (1, 0, 7, 500))
        arrays = model.description["arrays"]
        self.assertEqual(arrays["super.npy"], {"shape": [3, DIM], "dtype": "float32"})
        self.assertEqual(arrays["sub-0002.npy"], {"shape": [4, DIM], "dtype": "float32"})
        self.assertEqual(arrays["counts.npy"], {"shape": [3, 4], "dtype": "int64"})
        self.assertEqual((model.description["raw_dim"], model.description["dim"]), (RAW_DIM, DIM))
        self.assertEqual(model.store_dtype, np.float16)


class KeptClusteringTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.run = RunDir(tempfile.mkdtemp(dir=self.get_temp_dir()))

    def keep(self, *rounds):
        for stage, index in rounds:
            cluster_and_keep(Solo(), self.run.clustering(stage, index), features(200), 2, 3)

    def test_the_newest_are_kept(self):
        self.keep((0, 3), (1, 0), (1, 1))
        prune(self.run.clusterings, 5)
        self.assertLen(kept_rounds(self.run.clusterings), 3)
        prune(self.run.clusterings, 2)
        self.assertEqual(list(kept_rounds(self.run.clusterings)), [(1, 0), (1, 1)])
        self.assertEqual(os.listdir(self.run.clustering(0, 3)), [])
        prune(self.run.clusterings, 0)
        self.assertEmpty(kept_rounds(self.run.clusterings))

    def test_what_is_not_kept_is_refused_with_what_is(self):
        with self.assertRaisesRegex(ConfigError, "keeps no centroids .* but of none"):
            load_clustering(self.run)
        self.keep((0, 3), (1, 0))
        self.assertEqual(load_clustering(self.run, stage=0).path, self.path(0, 3))
        with self.assertRaisesRegex(ConfigError, "round 3 of stage 0, round 0 of stage 1"):
            load_clustering(self.run, round=2)

    def path(self, stage, index):
        return os.path.join(self.run.clustering(stage, index), "centroids")

    def test_a_file_that_was_truncated_or_removed_is_reported(self):
        self.keep((1, 0))
        path = pathlib.Path(self.path(1, 0), "sub-0001.npy")
        whole = path.read_bytes()
        path.write_bytes(whole[:-4])
        with self.assertRaisesRegex(DataError, "sub-0001.npy is missing or has another size"):
            ClusterModel.load(self.path(1, 0))
        path.unlink()
        with self.assertRaisesRegex(DataError, "sub-0001.npy is missing"):
            ClusterModel.load(self.path(1, 0))

    def test_a_full_disk_loses_the_centroids_and_not_the_clustering(self):
        write = atomic.write_file
        for name in ("super.npy", "sub-0001.npy", "counts.npy", "centroids.json"):

            def full(path, *args, name=name):
                if os.path.basename(path) == name:
                    raise OSError(28, "No space left on device")
                write(path, *args)

            with mock.patch.object(atomic, "write_file", full), self.assertLogs("absl") as logs:
                self.keep((1, 0))
            self.assertRegex(logs.output[0], r"continuing without it: .*No space left")
            self.assertEmpty(kept_rounds(self.run.clusterings))
            self.assertEqual(os.listdir(self.run.clustering(1, 0)), [])

    def test_a_problem_solved_by_an_earlier_process_stays(self):
        folder = self.run.clustering(1, 0)
        with mock.patch.object(KeptClustering, "commit"):  # killed before
            self.keep((1, 0))
        with mock.patch.object(KeptClustering, "write"):  # all problems were solved
            self.keep((1, 0))
        self.assertEqual(
            kept_rounds(self.run.clusterings), {(1, 0): os.path.join(folder, "centroids")}
        )

    def test_what_was_completed_before_stays_unless_it_is_of_another_clustering(self):
        self.keep((1, 0))
        with mock.patch.object(KeptClustering, "write"):
            self.keep((1, 0))
            self.assertLen(kept_rounds(self.run.clusterings), 1)
            folder = self.run.clustering(1, 0)
            cluster_and_keep(Solo(), folder, features(200, seed=1), 2, 3, seed=1)
        self.assertEmpty(kept_rounds(self.run.clusterings))

    def test_files_of_another_clustering_are_not_mixed_in(self):
        with mock.patch.object(KeptClustering, "commit"):
            self.keep((1, 0))
        write = atomic.write_file

        def full(path, *args):
            if path.endswith("sub-0001.npy"):
                raise OSError(28, "No space left on device")
            write(path, *args)

        folder = self.run.clustering(1, 0)
        with mock.patch.object(atomic, "write_file", full):
            cluster_and_keep(Solo(), folder, features(200, seed=1), 2, 3, seed=1)
        self.assertFalse(kept_clustering.is_complete(self.path(1, 0)))


if __name__ == "__main__":
    tf.test.main()
