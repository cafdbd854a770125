"""The nearest centroid: ties, tiles, unused centroids, short floats."""

import os
import sys
from unittest import mock

import faiss
import fork_server
import numpy as np
import pytest
import tensorflow as tf
from absl.testing import parameterized

from dc_tf.clustering.search import backends, nearest_on_gpu
from dc_tf.clustering.search.backends import make_backend
from dc_tf.clustering.search.nearest import NearestCentroid
from dc_tf.clustering.search.nearest_in_faiss import FaissNearest
from dc_tf.clustering.search.nearest_on_gpu import NearestOnGpu
from dc_tf.clustering.store.points import DTYPES

pytestmark = pytest.mark.numeric

# That for a GPU runs on a CPU as well.
BOTH = (NearestCentroid, NearestOnGpu)
ALL = (*BOTH, FaissNearest)


def labels_of(nearest, rows):
    return nearest(nearest.prepared(np.asarray(rows, np.float32)))[0]


class NearestTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.product(
        on_device=BOTH,
        k=(3, 40, 5000),
        dim=(2, 64),
        dtype=(np.float16, np.float32, np.float64),
        shifted=(0, 1),
    )
    def test_labels_and_scores_are_those_of_plain_distances(
        self, on_device, k, dim, dtype, shifted
    ):
        rng = np.random.default_rng(k + dim)
        rows = (rng.normal(size=(50, dim)) + 3 * shifted).astype(dtype)
        centroids = (rng.normal(size=(k, dim)) + 3 * shifted).astype(np.float32)
        shift = np.full(dim, 3, np.float32) if shifted else None
        nearest = on_device(k, dim)
        nearest.load(centroids, shift=shift)
        labels, scores = nearest(nearest.prepared(rows))
        distances = ((rows[:, None].astype(np.float64) - centroids[None]) ** 2).sum(axis=2)
        self.assertAllEqual(labels, distances.argmin(axis=1))
        norms = ((rows.astype(np.float64) - 3 * shifted) ** 2).sum(axis=1)
        self.assertAllClose(norms - 2 * scores, distances.min(axis=1), atol=1e-4)

    @parameterized.product(on_device=BOTH, precision=("float32", "bfloat16"), dim=(2, 8192))
    def test_ties_go_to_the_lowest_index_within_and_between_tiles(self, on_device, precision, dim):
        k = 10_000 if on_device is NearestOnGpu else 5000  # more than a tile
        centroids = np.zeros((k, dim), np.float32)
        centroids[:7] = 9.0
        nearest = on_device(k, dim, precision)
        nearest.load(centroids)
        self.assertAllEqual(labels_of(nearest, np.zeros((3, dim))), [7, 7, 7])

    @parameterized.product(on_device=BOTH, precision=("float32", "bfloat16"))
    def test_unused_centroids_get_no_row(self, on_device, precision):
        for dim in (2, 8):  # the offsets are part of the product, or added
            nearest = on_device(3, dim, precision)
            nearest.load(np.eye(3, dim, dtype=np.float32), np.array([False, True, False]))
            self.assertAllEqual(labels_of(nearest, np.eye(3, dim)), [1, 1, 1])

    @parameterized.parameters(*BOTH)
    def test_bfloat16_is_right_where_all_scores_are_negative(self, on_device):
        # Rows near the origin: every centroid scores -|c|^2 / 2, and the bits of negative numbers
        # are ordered backwards.
        centroids = np.diag([4.0, 1.0, 2.0, 3.0]).astype(np.float32)
        nearest = on_device(4, 4, "bfloat16")
        for level in (0.0, 1.0, 100.0):
            nearest.load(centroids, level=level)
            self.assertAllEqual(labels_of(nearest, np.zeros((5, 4))), [1] * 5)

    @parameterized.parameters(*BOTH)
    def test_bfloat16_tells_centroids_apart_whose_distance_is_near_the_level(self, on_device):
        # Distances 100 and 100.25: a bfloat16 near 100 is a multiple of 0.5.
        centroids = np.array([[0, 100.25], [0, 100]], np.float32) ** 0.5
        nearest = on_device(2, 2, "bfloat16")
        rows = np.zeros((1, 2))
        nearest.load(centroids)
        self.assertAllEqual(labels_of(nearest, rows), [0])
        nearest.load(centroids, level=101.0)
        self.assertAllEqual(labels_of(nearest, rows), [1])

    @parameterized.product(on_device=BOTH, k=(5, 500))
    def test_bfloat16_is_nearly_right_and_nearer_says_where(self, on_device, k):
        rng = np.random.default_rng(0)
        rows = rng.normal(size=(2000, 64)).astype(np.float32)
        centroids = rng.normal(size=(k, 64)).astype(np.float32)
        exact, short = on_device(k, 64), on_device(k, 64, "bfloat16")
        exact.load(centroids)
        short.load(centroids)
        best, found = labels_of(exact, rows), labels_of(short, rows)
        self.assertBetween(np.mean(best == found), 0.9, 0.9999)
        nearer = short.nearer(rows, best, found)
        self.assertAllEqual(nearer, best != found)
        self.assertFalse(short.nearer(rows, found, best).any())

    @parameterized.product(on_device=BOTH, k=(4, 20))
    @pytest.mark.bfloat16
    def test_nearer_is_as_good_far_from_the_origin(self, on_device, k):
        rng = np.random.default_rng(0)
        rows = (rng.normal(size=(500, 16)) + 1000).astype(np.float32)
        centroids = (rng.normal(size=(k, 16)) + 1000).astype(np.float32)
        nearest = on_device(k, 16, "bfloat16")
        nearest.load(centroids, shift=rows.mean(0))
        a, b = rng.integers(0, k, (2, 500))
        squared = [np.square(rows.astype(np.float64) - centroids[c]).sum(1) for c in (a, b)]
        self.assertAllEqual(nearest.nearer(rows, a, b), squared[0] < squared[1])

    @parameterized.parameters("float32", "bfloat16")
    def test_on_a_gpu_chunks_of_any_length_take_few_compiled_shapes(self, precision):
        rng = np.random.default_rng(0)
        rows = rng.normal(size=(300, 20)).astype(np.float32)
        centroids = rng.normal(size=(1001, 20)).astype(np.float32)
        nearest = NearestOnGpu(1001, 20, precision)
        nearest.load(centroids, level=20.0)
        whole = labels_of(nearest, rows)
        compiled = nearest_on_gpu.winners.experimental_get_tracing_count()
        for length in (1, 7, 8, 100, 130, 200, 255, 256, 299):
            self.assertAllEqual(labels_of(nearest, rows[:length]), whole[:length])
        self.assertLessEqual(nearest_on_gpu.winners.experimental_get_tracing_count(), compiled + 4)

    @parameterized.product(search=ALL, dtype=DTYPES)
    def test_every_search_keeps_the_contract_of_the_interface(self, search, dtype):
        rng = np.random.default_rng(0)
        rows = (rng.normal(size=(50, 8)) + 3).astype(dtype)
        centroids = (rng.normal(size=(20, 8)) + 3).astype(np.float32)
        used = np.arange(20) % 2 == 0
        nearest = search(20, 8, memory_bytes=1 << 20)
        nearest.load(centroids, used, centroids[0], level=8.0)
        labels = nearest(nearest.prepared(rows))[0]
        distances = np.square(rows.astype(np.float64)[:, None] - centroids[None]).sum(axis=2)
        self.assertAllEqual(labels, 2 * distances[:, used].argmin(axis=1))
        self.assertEqual(labels.dtype, np.int32)
        others = rng.integers(0, 20, 50).astype(np.int32)
        self.assertAllEqual(
            nearest.nearer(rows, labels, others),
            distances[np.arange(50), labels] < distances[np.arange(50), others],
        )
        self.assertTrue(nearest.exact)
        self.assertEqual(nearest.precision, "float32")
        self.assertEqual(
            nearest.row_bytes * len(rows), memoryview(nearest.prepared(rows).__array__()).nbytes
        )

    @parameterized.parameters(2, 8, 32, 64, 1024)
    def test_faiss_gets_chunks_that_it_multiplies(self, dim):
        threshold = faiss.cvar.distance_compute_blas_threshold
        nearest = make_backend("faiss", 1000, dim, "float32")
        self.assertGreaterEqual(nearest.chunk_rows * dim, threshold)
        for memory in (1 << 20, 20 << 20):
            rows = make_backend("faiss", 1000, dim, "float32", memory).chunk_rows
            self.assertLessEqual(12 * dim * rows + 4 * 1000 * min(rows, 4096), memory)

    def test_faiss_is_left_with_the_threads_it_had(self):
        nearest = make_backend("faiss", 3, 2, "float32")
        nearest.load(np.eye(3, 2, dtype=np.float32))
        before = faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(before + 1)
        try:
            labels_of(nearest, np.zeros((4, 2)))
            self.assertEqual(faiss.omp_get_max_threads(), before + 1)
        finally:
            faiss.omp_set_num_threads(before)

    @parameterized.parameters(
        (16, 4, "float32", "faiss"),
        (32, 1000, "float32", "faiss"),
        (32, 4, "float32", "tensorflow"),
        (64, 1000, "float32", "tensorflow"),
        (16, 1000, "bfloat16", "tensorflow"),
    )
    def test_auto_takes_what_is_faster_on_a_cpu(self, dim, k, precision, name):
        with mock.patch.object(backends, "has_gpu", lambda: False):
            self.assertEqual(make_backend("auto", k, dim, precision).name, name)

    def test_to_choose_a_backend_does_not_start_tensorflow(self):
        # Workers can only be connected before it has started, and settings are checked earlier.
        code = (
            "import tensorflow as tf; from dc_tf.clustering.search.backends import make_backend; "
            "make_backend('auto', 50, 64, 'float32'); "
            "make_backend('auto', 5000, 64, 'bfloat16'); "
            "tf.config.threading.set_intra_op_parallelism_threads(1)"
        )
        path = os.path.join(self.get_temp_dir(), "choose.py")
        with open(path, "w") as file:
            file.write(code)
        done = fork_server.run([sys.executable, path], dict(os.environ), 120)
        self.assertEqual(done.returncode, 0, done.stderr)
