"""What `dc_tf kmeans` writes and prints."""

import json
import os
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
from kmeans_command import ROWS, CommandTest, K, call, stopped_after

from dc_tf import precision as precision_lib
from dc_tf.clustering.kmeans import kmeans


class ResultTest(CommandTest):
    def test_it_writes_what_the_function_finds_and_prints_the_metrics(self):
        code, out, err = call(*self.argv("--seed=3", iterations=5))
        self.assertEqual(code, 0, err)
        printed = json.loads(out.splitlines()[-1])
        expected = kmeans(self.x, K, iterations=5, seed=3)
        found = self.found()
        self.assertAllEqual(found.centroids, expected.centroids)
        self.assertAllEqual(found.assignments, expected.assignments)
        self.assertEqual((found.centroids.dtype, found.assignments.dtype), (np.float32, np.int32))
        distances = np.sum((self.x - found.centroids[found.assignments]) ** 2)
        self.assertAllClose(printed["inertia"], distances, rtol=1e-5)
        self.assertEqual(printed["iterations"], 5)
        self.assertEqual(printed["empty_clusters"], 0)
        self.assertEqual(printed["backend"], expected.backend)
        self.assertIn(f"kmeans: iteration 5/5, {ROWS} rows, done", err)
        self.assertEndsWith(err, f"objective {printed['inertia']:,.0f}\n")
        speed = printed["rows_per_second"] * printed["seconds_per_iteration"]
        self.assertAllClose(speed, ROWS)

    def test_clustering_json_has_settings_versions_objective_and_sizes(self):
        printed = self.result("--tolerance=0.5", iterations=4)
        about = self.found().about
        self.assertEqual(about["result"], printed)
        self.assertEqual(about["settings"]["tolerance"], 0.5)
        self.assertEqual(about["settings"]["rows"], ROWS)
        self.assertEqual(about["input"], [{"path": self.input, "rows": ROWS}])
        self.assertLen(about["objective"], printed["iterations"] + 1)
        self.assertLess(printed["iterations"], 4)
        counts = np.bincount(self.found().assignments, minlength=K)
        self.assertAllClose(about["clusters"]["largest_share"], counts.max() / ROWS)
        self.assertEqual(sum(about["clusters"]["sizes"]), K)
        self.assertEqual(about["versions"]["tensorflow"], tf.__version__)
        self.assertGreater(about["exchanged_bytes_per_iteration"], 0)

    def test_a_collapse_is_reported_in_plain_words(self):
        self.result(input=self.save("equal.npy", np.ones((100, 4), np.float32)))
        crowded, empty = self.found().about["warnings"]
        self.assertIn("holds 100% of all rows", crowded)
        self.assertIn(f"{K - 1} of {K} clusters are empty", empty)
        self.result(output=self.path("even"))
        self.assertEqual(self.found(self.path("even")).about["warnings"], [])

    def test_shards_of_any_precision_are_one_matrix(self):
        exact = self.x.astype(np.float16)
        self.save("part-0.npy", exact[:100])
        self.save("part-1.npy", exact[100:])
        self.result(input=self.path("part-*.npy"))
        parts = self.found()
        self.result(input=self.save("whole.npy", exact), output=self.path("whole"))
        self.assert_same(parts, self.found(self.path("whole")))
        bfloat16 = self.save("bfloat16.npy", self.x.astype(tf.bfloat16.as_numpy_dtype))
        self.result(input=bfloat16, output=self.path("bfloat16"))
        self.assertEqual(self.found(self.path("bfloat16")).about["settings"]["dtype"], "bfloat16")

    def test_it_starts_from_centroids_in_a_file(self):
        init = self.save("init.npy", self.x[:K].astype(np.float64))
        self.result(init=init, iterations=0)
        found = self.found()
        self.assertAllEqual(found.centroids, self.x[:K])
        distances = ((self.x[:, None] - self.x[None, :K]) ** 2).sum(axis=2)
        self.assertAllEqual(found.assignments, distances.argmin(axis=1))

    def test_no_iterations_assign_any_number_of_rows_to_given_centroids(self):
        centroids = self.x[[0, 1, 1, 2, 3]]  # one twice
        init = self.save("init.npy", centroids)
        rows = self.save("new.npy", self.x[5:8])
        flags = ["--input=" + rows, "--init=" + init, "--iterations=0"]
        code, _, err = call(*flags, "--output=" + self.output)
        self.assertEqual(code, 0, err)
        found = self.found()
        self.assertAllEqual(found.centroids, centroids)
        distances = ((self.x[5:8, None] - centroids[None]) ** 2).sum(axis=2)
        self.assertAllEqual(found.assignments, distances.argmin(axis=1))
        self.assertEqual(found.about["settings"]["k"], 5)
        self.assertEqual(found.about["warnings"], [])

    def test_float64_rows_with_a_large_offset_are_clustered_and_assigned(self):
        offset = 2.0**27
        x = self.save("x64.npy", self.x.astype(np.float64) + offset)
        self.result(input=x, iterations=5)
        found = self.found()
        self.assertEqual(found.centroids.dtype, np.float64)
        distances = np.sum((self.x - (found.centroids - offset)[found.assignments]) ** 2)
        self.assertAllClose(found.about["objective"][-1], distances, rtol=1e-4)
        init, again = os.path.join(self.output, "centroids.npy"), self.path("again")
        self.result(input=x, init=init, iterations=0, output=again)
        self.assertAllEqual(self.found(again).assignments, found.assignments)

    def test_rows_and_centroids_of_length_1(self):
        self.result("--normalize", "--spherical", init="k-means++")
        found = self.found()
        self.assertAllClose(np.linalg.norm(found.centroids, axis=1), np.ones(K), rtol=1e-5)
        nearest = np.argmax(self.x @ found.centroids.T, axis=1)
        self.assertGreater(np.mean(nearest == found.assignments), 0.999)

    def test_faiss_finds_the_same(self):
        flags = {"iterations": 2, "precision": "float32"}
        self.assertEqual(self.result(backend="faiss", **flags)["backend"], "faiss")
        self.result(backend="tensorflow", output=self.path("tensorflow"), **flags)
        self.assertAllClose(self.found().centroids, self.found(self.path("tensorflow")).centroids)

    @pytest.mark.bfloat16
    def test_precision_is_measured_said_and_kept_by_a_clustering_that_resumes(self):
        flags = {"backend": "tensorflow", "save_every_s": 0}
        with mock.patch.multiple(
            precision_lib, product_speed=lambda dim: 2.0, excess_error=lambda *_: 0.9
        ):
            code, _, err = stopped_after(1, call, *self.argv(**flags))
            self.assertEqual(code, 1, err)
            whole = self.result(**flags, output=self.path("whole"))
        self.assertIn("computes in bfloat16 (auto: bfloat16 is 2 times as fast as float32", err)
        with mock.patch.multiple(
            precision_lib, product_speed=lambda dim: 0.1, excess_error=lambda *_: 0.9
        ):
            found = self.result(**flags)
        self.assertEqual((whole["precision"], found["precision"]), ("bfloat16", "bfloat16"))
        self.assertEqual(self.found().about["settings"]["precision"], "bfloat16")
        self.assertAllEqual(self.found().centroids, self.found(self.path("whole")).centroids)

    def test_bfloat16_is_left_where_its_products_lose_digits(self):
        with mock.patch.object(precision_lib, "excess_error", lambda *_: 1.8):
            _, out, err = call(*self.argv(backend="tensorflow", precision="bfloat16"))
        self.assertEqual(json.loads(out.splitlines()[-1])["precision"], "float32")
        self.assertIn("float32 (bfloat16 products round 1.8 times as coarsely", err)


if __name__ == "__main__":
    tf.test.main()
