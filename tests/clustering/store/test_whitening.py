"""Whitening against NumPy on the gathered rows."""

import itertools
import multiprocessing
import os
import signal
import tempfile
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
import workers

from dc_tf.clustering.store import in_place, whitening
from dc_tf.clustering.store.feature_store import FeatureStore
from dc_tf.clustering.store.points import BFLOAT16, as_points
from dc_tf.clustering.store.whitening import Moments, Whitening, whiten_store
from dc_tf.distributed.collectives import Solo
from dc_tf.errors import ConfigError, DataError

pytestmark = pytest.mark.numeric

LIMIT_S = 240


def correlated(n, dim, seed=0, offset=3.0):
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(dim, dim)) * np.geomspace(1, 0.03, dim)
    return (rng.normal(size=(n, dim)) @ mix.T + offset).astype(np.float32)


def moments_of(x, cuts=()):
    """Moments of rows that come in parts."""
    moments = Moments(x.shape[1])
    for part in np.split(x, cuts):
        moments.update(part)
    return moments


def fit(x, comm, dim):
    return Whitening.fit(moments_of(x, range(37, len(x), 37)), comm, dim)


def fit_share(comm, x, dim):
    """Rank 0 has a small share, the others even ones, the last of four none."""
    cuts = {2: [0, 10, 400], 4: [0, 10, 200, 400, 400]}[comm.size]
    result = fit(x[cuts[comm.rank] : cuts[comm.rank + 1]], comm, dim)
    return result.mean, result.basis


def error_of_fit(comm, x):
    try:
        fit(x[comm.rank :: comm.size], comm, 2)
    except DataError as error:
        return str(error)


def plain(x, dim, floor=1e-5):
    """Mean and basis in float64, from a singular value decomposition."""
    x = x.astype(np.float64)
    mean = x.mean(axis=0)
    _, scales, directions = np.linalg.svd(x - mean, full_matrices=False)
    values = scales**2 / len(x)
    basis = directions.T / np.sqrt(np.maximum(values, floor * values[0]))
    signs = np.sign(basis[np.abs(basis).argmax(axis=0), np.arange(basis.shape[1])])
    return mean, (basis * signs)[:, :dim]


class MomentsTest(tf.test.TestCase):
    def test_mean_and_covariance_are_those_of_numpy(self):
        for dtype in (np.float16, BFLOAT16, np.float32, np.float64):
            x = correlated(9000, 5, offset=20.0).astype(dtype)  # more than two blocks
            rows, mean, covariance = moments_of(x).reduce(Solo())
            wide = x.astype(np.float64)
            self.assertEqual(rows, 9000)
            self.assertAllClose(mean, wide.mean(0), rtol=1e-12)
            self.assertAllClose(covariance, np.cov(wide.T, bias=True), rtol=1e-10, atol=1e-12)

    def test_the_same_rows_give_the_same_bits_however_they_are_cut(self):
        # A row, a component, or a block (4096 rows) more than what comes together well.
        for n, dim in ((9000, 7), (4096, 64), (1500, 257)):
            x = correlated(n, dim).astype(np.float16)
            results = [
                moments.reduce(Solo())
                for moments in (
                    moments_of(x),
                    moments_of(x, range(1, n, 311)),
                    moments_of(x, [0, 1, 1, n // 2, n - 1, n]),
                    Moments.of(as_points(x)),
                )
            ]
            for result in results[1:]:
                for ours, theirs in zip(result, results[0], strict=True):
                    self.assertEqual(np.asarray(ours).tobytes(), np.asarray(theirs).tobytes())

    def test_an_extraction_that_resumes_has_the_moments_of_one_that_did_not_stop(self):
        x = correlated(5000, 6)
        store = FeatureStore.create(self.path(), 5000, 6)
        whole = Moments(6)
        for start in range(0, 5000, 100):
            whole.update(store.write(start, x[start : start + 100]))
        again = Moments.of(store, 1300)
        for start in range(1300, 5000, 100):
            again.update(store.write(start, x[start : start + 100]))
        for ours, theirs in zip(again.reduce(Solo()), whole.reduce(Solo()), strict=True):
            self.assertEqual(np.asarray(ours).tobytes(), np.asarray(theirs).tobytes())

    def path(self):
        return os.path.join(tempfile.mkdtemp(dir=self.get_temp_dir()), "store")

    def test_rows_may_be_overwritten_once_they_are_added(self):
        x = correlated(60, 4)
        moments, buffer = Moments(4), np.empty((20, 4), np.float32)
        for start in range(0, 60, 20):
            buffer[:] = x[start : start + 20]
            moments.update(buffer)
        self.assertAllClose(moments.reduce(Solo())[1], x.astype(np.float64).mean(0), rtol=1e-12)


class WhiteningTest(tf.test.TestCase):
    def test_any_number_of_workers_fits_what_numpy_fits_on_all_rows(self):
        x = correlated(400, 12)
        mean, basis = plain(x, 8)
        self.assertAllClose(fit(x, Solo(), 8).basis, basis, rtol=1e-4, atol=1e-5)
        for n in (2, 4):
            results = workers.on_workers(n, fit_share, x, 8)
            for worker_mean, worker_basis in results:
                self.assertAllClose(worker_mean, mean, rtol=1e-5)
                self.assertAllClose(worker_basis, basis, rtol=1e-4, atol=1e-5)
                self.assertAllEqual(worker_basis, results[0][1])

    def test_white_rows_are_decorrelated_before_normalisation_and_of_norm_one_after(self):
        x = correlated(400, 12)
        whitening = fit(x, Solo(), 8)
        white = (x - whitening.mean) @ whitening.basis
        self.assertAllClose(white.T @ white / len(x), np.eye(8), atol=1e-3)
        expected = white / np.linalg.norm(white, axis=1, keepdims=True)
        self.assertAllClose(whitening.apply(x), expected, atol=1e-5)

    def test_a_large_offset_costs_no_digits(self):
        x = correlated(400, 12, offset=0)
        moved = fit(x.astype(np.float64) + 1e5, Solo(), 12)
        self.assertAllClose(moved.basis, fit(x, Solo(), 12).basis, rtol=1e-4, atol=1e-5)

    def test_weak_directions_are_not_blown_up(self):
        x = correlated(400, 12)
        x[:, 5] = x[:, 4]  # one direction without any variance
        whitening = fit(x, Solo(), 12)
        _, basis = plain(x, 12)
        self.assertAllClose(
            np.linalg.norm(whitening.basis, axis=0), np.linalg.norm(basis, axis=0), rtol=1e-3
        )

    def test_fewer_rows_than_components_are_enough(self):
        whitening = fit(correlated(5, 12), Solo(), 12)
        self.assertTrue(np.isfinite(whitening.apply(correlated(20, 12, seed=1))).all())

    def test_rows_of_one_number(self):
        whitening = fit(np.array([[1], [2], [6]], np.float32), Solo(), 1)
        self.assertAllEqual(
            whitening.apply(np.array([[1], [3], [6]], np.float16)), [[-1], [0], [1]]
        )

    def test_a_row_equal_to_the_mean_becomes_zero(self):
        whitening = fit(correlated(100, 4), Solo(), 4)
        self.assertAllEqual(whitening.apply(whitening.mean[None]), np.zeros((1, 4)))

    def test_collapsed_features_are_reported_on_all_workers(self):
        for message in workers.on_workers(2, error_of_fit, np.full((50, 4), 0.7, np.float32)):
            self.assertIn("collapsed", message)
        self.assertIn("collapsed", error_of_fit(Solo(), np.zeros((50, 4), np.float32)))

    def test_rows_that_are_not_finite_are_reported_on_all_workers(self):
        for value in (np.nan, np.inf):
            x = correlated(50, 4)
            x[3, 1] = value
            for message in workers.on_workers(2, error_of_fit, x):
                self.assertIn("not finite", message)

    def test_too_few_rows_and_too_many_directions_are_refused(self):
        for rows in (0, 1):
            with self.assertRaisesRegex(DataError, f"at least 2 rows and has {rows}"):
                fit(correlated(rows, 4), Solo(), 4)
        for dim in (0, 5):
            with self.assertRaisesRegex(ConfigError, "1 to 4"):
                fit(correlated(50, 4), Solo(), dim)

    def test_a_saved_map_is_the_same(self):
        whitening = fit(correlated(100, 4), Solo(), 3)
        path = os.path.join(tempfile.mkdtemp(dir=self.get_temp_dir()), "whitening.npz")
        whitening.save(path)
        again = Whitening.load(path)
        self.assertAllEqual(again.mean, whitening.mean)
        self.assertAllEqual(again.basis, whitening.basis)
        self.assertEqual(again.name, whitening.name)
        self.assertNotEqual(fit(correlated(100, 4, seed=1), Solo(), 3).name, whitening.name)


class WhitenStoreTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = tempfile.mkdtemp(dir=self.get_temp_dir())
        self.x = correlated(100, 6).astype(np.float16)
        self.store = raw_store(os.path.join(self.folder, "raw"), self.x)
        self.white = os.path.join(self.folder, "white")

    def test_a_second_store_holds_the_white_rows_and_the_first_stays(self):
        whitening = fit(self.x, Solo(), 3)
        white = whiten_store(self.store, whitening, self.white)
        self.assertEqual((white.rows, white.dim, white.first_row), (100, 3, 40))
        self.assertAllClose(white.read(0, 100), whitening.apply(self.x), atol=1e-3)
        self.assertAllEqual(self.store.read(0, 100), self.x)

    def test_rows_change_in_place_when_they_keep_their_length(self):
        whitening = fit(self.x, Solo(), 6)
        whiten_store(self.store, whitening)
        again = FeatureStore.open(self.store.path)
        again.check_complete()
        self.assertAllClose(again.read(0, 100), whitening.apply(self.x), atol=1e-3)

    def test_what_is_white_is_not_whitened_again(self):
        square, narrow = fit(self.x, Solo(), 6), fit(self.x, Solo(), 3)
        white = whiten_store(self.store, narrow, self.white).read(0, 100).tobytes()
        with mock.patch.object(Whitening, "apply", side_effect=AssertionError):
            self.assertEqual(
                whiten_store(self.store, narrow, self.white).read(0, 100).tobytes(), white
            )
        rows = whiten_store(self.store, square).read(0, 100).tobytes()
        with mock.patch.object(Whitening, "apply", side_effect=AssertionError):
            self.assertEqual(whiten_store(self.store, square).read(0, 100).tobytes(), rows)
            for other in (fit(self.x[:50], Solo(), 6), square):
                if other.name != square.name:
                    with self.assertRaisesRegex(DataError, "are already mapped by whitening 6x6"):
                        whiten_store(self.store, other)

    def test_a_second_store_of_another_map_or_shape_is_made_anew(self):
        whitening = fit(self.x, Solo(), 3)
        expected = whiten_store(self.store, whitening, self.white).read(0, 100).tobytes()
        for settings in (
            {"rows": 100, "dim": 3, "first_row": 40},
            {"rows": 100, "dim": 3, "first_row": 40, "made_by": "another"},
            {"rows": 100, "dim": 3, "first_row": 41, "made_by": whitening.name},
            {"rows": 99, "dim": 3, "first_row": 40, "made_by": whitening.name},
            {"rows": 100, "dim": 3, "first_row": 40, "dtype": "float32", "made_by": whitening.name},
        ):
            earlier = FeatureStore.create(self.white, **settings)
            earlier.write(0, np.ones((99, 3), np.float32))
            earlier.flush()
            white = whiten_store(self.store, whitening, self.white)
            self.assertEqual(white.read(0, 100).tobytes(), expected)

    def test_a_store_that_was_made_to_reserve_the_space_is_used(self):
        FeatureStore.create(self.white, 100, 3, 40)
        inode = os.stat(os.path.join(self.white, "rows.npy")).st_ino
        whiten_store(self.store, fit(self.x, Solo(), 3), self.white).check_complete()
        self.assertEqual(os.stat(os.path.join(self.white, "rows.npy")).st_ino, inode)

    def test_rows_that_cannot_stay_and_stores_in_their_own_place_are_refused(self):
        with self.assertRaisesRegex(ConfigError, "give a path"):
            whiten_store(self.store, fit(self.x, Solo(), 3))
        for path in (self.store.path, os.path.join(self.folder, "x", "..", "raw")):
            with self.assertRaisesRegex(ConfigError, "is the store itself"):
                whiten_store(self.store, fit(self.x, Solo(), 6), path)
        self.assertAllEqual(self.store.read(0, 100), self.x)

    def test_a_map_that_is_not_finite_leaves_the_rows_as_they_were(self):
        broken = Whitening(np.zeros(6, np.float32), np.full((6, 6), np.nan, np.float32))
        with self.assertRaisesRegex(DataError, "row 40 are not finite"):
            whiten_store(self.store, broken)
        self.assertAllEqual(FeatureStore.open(self.store.path).read(0, 100), self.x)

    @pytest.mark.slow
    def test_killed_while_it_whitens_it_resumes_to_the_same_bytes(self):
        # Each time so many chunks further.
        for dim, kills in ((6, (0, 3, 5)), (3, (1, 5))):
            whitening_map = fit(self.x, Solo(), dim)
            kept = os.path.join(self.folder, f"{dim}.npz")
            whitening_map.save(kept)
            results = []
            for stops in ((), kills):
                raw = os.path.join(self.folder, f"raw-{dim}-{len(stops)}")
                raw_store(raw, self.x)
                target = None if dim == 6 else f"{raw}-white"
                for kill in stops:
                    self.assertEqual(in_process(whiten, raw, kept, target, kill), -signal.SIGKILL)
                store = whiten(raw, kept, target)
                store.check_complete()
                results.append(store.read(0, 100).tobytes())
            self.assertEqual(*results)


class MemoryTest(tf.test.TestCase):
    @pytest.mark.slow
    def test_all_of_whitening_takes_memory_for_a_few_matrices(self):
        self.assertLess(self.more_mb(2048), 384)

    @pytest.mark.extended
    def test_features_of_the_papers_length_take_less_than_1_gb(self):
        self.assertLess(self.more_mb(4096), 1000)

    def more_mb(self, dim):
        """By how much whitening of rows of `dim` components raises the peak of a process."""
        folder = tempfile.mkdtemp(dir=self.get_temp_dir())
        queue = multiprocessing.get_context("forkserver").SimpleQueue()
        self.assertEqual(in_process(whiten_wide_rows, folder, dim, queue), 0)
        return queue.get()


def raw_store(path, x):
    store = FeatureStore.create(path, *x.shape, first_row=40)
    store.write(0, x)
    store.flush()
    return store


def in_process(function, *args):
    """The exit code of a process that runs a function; a fork of one that has loaded TensorFlow."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["dc_tf.clustering.store.whitening"])
    process = context.Process(target=function, args=args)
    process.start()
    process.join(LIMIT_S)
    process.kill()
    process.join()
    return process.exitcode


def whiten(raw, kept, target, kill_after=None):
    """Whitens in chunks of 8 rows and blocks of 16; killed when so many chunks are done."""
    left = itertools.count(kill_after or 0, -1)

    def apply_or_die(self, rows, apply=Whitening.apply):
        if kill_after is not None and next(left) == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return apply(self, rows)

    with (
        mock.patch.multiple(whitening, _CHUNK_BYTES=8 * 4 * 6, _FLUSH_BYTES=16 * 2 * 6),
        mock.patch.object(in_place, "BLOCK_BYTES", 16 * 2 * 6),
        mock.patch.object(Whitening, "apply", apply_or_die),
    ):
        return whiten_store(FeatureStore.open(raw), Whitening.load(kept), target)


def whiten_wide_rows(folder, dim, queue):
    """All of whitening, and by how many MB it raised the peak of this process."""
    tf.matmul(tf.ones((8, 8)), tf.ones((8, 8)))
    before = peak_mb()
    rows = dim // 200 * 200 + 200  # more than components
    store = FeatureStore.create(os.path.join(folder, "raw"), rows, dim)
    moments = Moments(dim)
    rng = np.random.default_rng(0)
    for start in range(0, rows, 200):
        features = rng.standard_normal((200, dim), np.float32)
        moments.update(store.write(start, features))
    whitening_map = Whitening.fit(moments, Solo(), dim)
    whiten_store(store, whitening_map)
    queue.put(peak_mb() - before)


def peak_mb():
    with open("/proc/self/status") as file:
        text = file.read()
    return int(text.split("VmHWM:")[1].split()[0]) / 1024


if __name__ == "__main__":
    tf.test.main()
