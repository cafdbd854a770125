"""Whitening against NumPy on the gathered rows."""

import os
import tempfile

import numpy as np
import tensorflow as tf
import workers

from dc_tf.clustering.feature_store import FeatureStore
from dc_tf.clustering.whitening import Moments, Whitening, whiten_store
from dc_tf.distributed.collectives import Solo
from dc_tf.errors import ConfigError, DataError


def correlated(n, dim, seed=0, offset=3.0):
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(dim, dim)) * np.geomspace(1, 0.03, dim)
    return (rng.normal(size=(n, dim)) @ mix.T + offset).astype(np.float32)


def fit(x, comm, dim, chunk=37):
    moments = Moments(x.shape[1])
    for start in range(0, len(x), chunk):
        moments.update(x[start : start + chunk])
    return Whitening.fit(moments, comm, dim)


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

    def test_a_row_equal_to_the_mean_becomes_zero(self):
        whitening = fit(correlated(100, 4), Solo(), 4)
        self.assertAllEqual(whitening.apply(whitening.mean[None]), np.zeros((1, 4)))

    def test_collapsed_features_are_reported_on_all_workers(self):
        for message in workers.on_workers(2, error_of_fit, np.full((50, 4), 0.7, np.float32)):
            self.assertIn("collapsed", message)
        self.assertIn("collapsed", error_of_fit(Solo(), np.zeros((50, 4), np.float32)))

    def test_rows_that_are_not_finite_are_reported_on_all_workers(self):
        x = correlated(50, 4)
        x[3, 1] = np.nan
        for message in workers.on_workers(2, error_of_fit, x):
            self.assertIn("not finite", message)

    def test_too_few_rows_and_too_many_directions_are_refused(self):
        with self.assertRaisesRegex(DataError, "at least 2 rows"):
            fit(correlated(1, 4), Solo(), 4)
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


class WhitenStoreTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = tempfile.mkdtemp(dir=self.get_temp_dir())
        self.x = correlated(100, 6).astype(np.float16)
        self.store = FeatureStore.create(os.path.join(self.folder, "raw"), 100, 6, first_row=40)
        self.store.write(0, self.x)
        self.store.flush()

    def test_a_second_store_holds_the_white_rows_and_the_first_stays(self):
        whitening = fit(self.x, Solo(), 3)
        white = whiten_store(self.store, whitening, os.path.join(self.folder, "white"))
        self.assertEqual((white.rows, white.dim, white.first_row), (100, 3, 40))
        self.assertAllClose(white.read(0, 100), whitening.apply(self.x), atol=1e-3)
        self.assertAllEqual(self.store.read(0, 100), self.x)

    def test_rows_change_in_place_when_they_keep_their_length(self):
        whitening = fit(self.x, Solo(), 6)
        whiten_store(self.store, whitening)
        again = FeatureStore.open(self.store.path)
        self.assertEqual(again.written, 100)
        self.assertAllClose(again.read(0, 100), whitening.apply(self.x), atol=1e-3)
        with self.assertRaisesRegex(ConfigError, "give a path"):
            whiten_store(self.store, fit(self.x, Solo(), 3))

    def test_an_interrupted_change_in_place_is_not_taken_for_complete(self):
        broken = Whitening(np.zeros(6, np.float32), np.full((6, 6), np.nan, np.float32))
        with self.assertRaises(DataError):
            whiten_store(self.store, broken)
        self.assertEqual(FeatureStore.open(self.store.path).written, 0)
