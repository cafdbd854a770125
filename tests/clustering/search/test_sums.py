"""Sums of clusters: exact, whatever the order, and as good as float64 for the paper's sizes."""

import concurrent.futures

import numpy as np
import pytest
import tensorflow as tf
from absl.testing import parameterized

from dc_tf.clustering.search.sums import ClusterSums, quantum_of

pytestmark = [pytest.mark.numeric, pytest.mark.tf215]

NOWHERE = np.full(500, -1, np.int32)


class SumsTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.product(
        k=(3, 100),
        dim=(6, 2048),
        dtype=(np.float16, np.float32, np.float64),
        on_gpu=(False, True),
    )
    def test_rows_that_move_about_leave_no_trace(self, k, dim, dtype, on_gpu):
        rng = np.random.default_rng(0)
        rows = rng.lognormal(sigma=3 if dim == 6 else 1.5, size=(500, dim)).astype(dtype)
        labels = rng.integers(0, k, (20, 500)).astype(np.int32)
        quantum = quantum_of(float(np.abs(rows).max()), 500)
        walked, direct = ClusterSums(k, dim, quantum, on_gpu), ClusterSums(k, dim, quantum)
        before = NOWHERE
        for after in labels:
            walked.move(rows, before, after)
            before = after
        order = rng.permutation(500)
        direct.move(rows[order], NOWHERE, before[order])
        self.assertAllEqual(walked[0:k], direct[0:k])
        expected = np.zeros((k, dim))
        np.add.at(expected, before, rows.astype(np.float64))
        self.assertAllClose(walked[0:k], expected, rtol=1e-9)

    @parameterized.parameters(6, 2048)
    def test_threads_change_nothing(self, dim):
        rng = np.random.default_rng(0)
        rows = rng.normal(size=(500, dim)).astype(np.float32)
        labels = rng.integers(0, 40, 500).astype(np.int32)
        sums = [ClusterSums(40, dim, quantum_of(5.0, 500)) for _ in range(2)]
        sums[0].move(rows, NOWHERE, labels)
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            for start in range(0, 500, 10):
                part = slice(start, start + 10)
                pool.submit(sums[1].move, rows[part], NOWHERE[part], labels[part])
        self.assertAllEqual(sums[0][0:40], sums[1][0:40])

    @parameterized.product(k=(3, 100), dim=(2, 2048))
    def test_some_rows_may_be_new_among_others_that_move(self, k, dim):
        rows = np.ones((4, dim), np.float32)
        sums = ClusterSums(k, dim, quantum_of(1.0, 4))
        sums.move(rows[:2], NOWHERE[:2], np.array([0, 1], np.int32))
        sums.move(rows, np.array([0, 1, -1, -1], np.int32), np.array([1, 1, 0, 2], np.int32))
        self.assertAllEqual(sums[0:3], np.tile([[1], [2], [1]], dim))

    def test_a_cluster_of_24_million_rows_loses_nothing_to_float64(self):
        # The paper's first level: 96 million rows on 64 workers in 4 clusters. Adding a block of
        # rows n times over is the same as adding n times the block, so the truth is known.
        rows = np.random.default_rng(0).normal(0.02, 0.1, size=(4096, 8)).astype(np.float32)
        quantum = quantum_of(float(np.abs(rows).max()), 96_000_000)
        sums = ClusterSums(1, 8, quantum)
        old, new = np.full(4096, -1, np.int32), np.zeros(4096, np.int32)
        times = 24_000_000 // 4096
        for _ in range(times):
            sums.move(rows, old, new)
        once = rows.astype(np.float64).sum(axis=0)
        total = np.asarray(sums[0:1])[0]
        self.assertAllClose(total / times, once, rtol=1e-9)
        # No rounding in any addition: the total is exactly as many times the first sum.
        first = ClusterSums(1, 8, quantum)
        first.move(rows, old, new)
        self.assertAllEqual(total, times * np.asarray(first[0:1])[0])

    @parameterized.parameters((1.0, 1), (0.7, 96_000_000), (65504.0, 10**9), (1e-30, 1000))
    def test_the_quantum_is_coarse_enough_for_exact_sums_and_finer_than_float32(self, largest, n):
        quantum = quantum_of(largest, n)
        self.assertLessEqual(largest * n / quantum, 2.0**53)
        self.assertLessEqual(quantum / 2, 2.0**-51 * n * largest)

    def test_float16_is_added_as_it_is(self):
        self.assertLessEqual(quantum_of(1.0, 96_000_000), 2.0**-23)
        self.assertLessEqual(quantum_of(1.0, 1_500_000), 2.0**-24)

    def test_zeros_have_a_quantum(self):
        self.assertGreater(quantum_of(0.0, 10), 0.0)
