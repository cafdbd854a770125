"""The feature store: what is written is read, what is not whole says so."""

import json
import os
import tempfile

import numpy as np
import tensorflow as tf

from dc_tf.clustering import feature_store
from dc_tf.clustering.feature_store import FeatureStore
from dc_tf.errors import ConfigError, DataError


class FeatureStoreTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.path = os.path.join(tempfile.mkdtemp(dir=self.get_temp_dir()), "store")
        self.x = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)

    def filled(self, dtype="float16"):
        store = FeatureStore.create(self.path, 50, 6, first_row=100, dtype=dtype)
        store.write(0, self.x[:30])
        store.write(30, self.x[30:])
        store.flush()
        return store

    def test_rows_come_back_in_the_precision_of_the_file(self):
        for dtype in ("float16", "float32"):
            self.filled(dtype)
            store = FeatureStore.open(self.path)
            expected = self.x.astype(dtype).astype(np.float32)
            self.assertEqual((store.rows, store.dim, store.first_row), (50, 6, 100))
            self.assertAllEqual(store.read(7, 19), expected[7:19])
            self.assertAllEqual(store.take(np.array([40, 3, 3])), expected[[40, 3, 3]])
            starts, blocks = zip(*store.chunks(16))
            self.assertEqual(starts, (0, 16, 32, 48))
            self.assertAllEqual(np.concatenate(blocks), expected)
            self.assertEqual(store.read(0, 2).dtype, np.float32)

    def test_the_file_is_plain_npy(self):
        self.filled()
        self.assertAllEqual(np.load(os.path.join(self.path, "rows.npy")), self.x.astype(np.float16))

    def test_an_interrupted_extraction_goes_on_where_it_was_flushed(self):
        store = FeatureStore.create(self.path, 50, 6)
        store.write(0, self.x[:20])
        store.flush()
        store.write(20, self.x[20:30])  # never flushed: a crash comes here
        again = FeatureStore.open(self.path)
        self.assertEqual(again.written, 20)
        with self.assertRaisesRegex(DataError, "20 of 50 rows"):
            next(again.chunks(10))
        with self.assertRaisesRegex(DataError, "20 of 50 rows"):
            again.take(np.array([0]))
        again.write(20, self.x[20:])
        self.assertAllEqual(next(again.chunks(50))[1], self.x.astype(np.float16))

    def test_rows_out_of_order_or_of_wrong_shape_are_refused(self):
        store = FeatureStore.create(self.path, 50, 6)
        for start, rows in ((1, self.x[:1]), (0, self.x[:, :5]), (0, np.zeros((51, 6)))):
            with self.assertRaisesRegex(DataError, "does not fit"):
                store.write(start, rows)

    def test_values_beyond_float16_are_clipped_and_counted(self):
        store = FeatureStore.create(self.path, 2, 2)
        store.write(0, np.array([[7e4, 1], [-1e9, 65519]], np.float32))
        store.flush()
        store = FeatureStore.open(self.path)
        self.assertAllEqual(store.read(0, 2), [[65504, 1], [-65504, 65504]])
        self.assertEqual(store.clipped, 3)

    def test_a_row_that_is_not_finite_is_named_by_its_row_id(self):
        for value in (np.nan, np.inf):
            store = FeatureStore.create(self.path, 50, 6, first_row=100)
            self.x[17, 3] = value
            with self.assertRaisesRegex(DataError, "row 117 are not finite"):
                store.write(0, self.x)

    def test_a_store_of_no_rows_is_complete(self):
        FeatureStore.create(self.path, 0, 6)
        store = FeatureStore.open(self.path)
        self.assertEqual(list(store.chunks(10)), [])
        self.assertEqual(store.take(np.zeros(0, np.int64)).shape, (0, 6))

    def test_too_little_space_is_noticed_before_anything_is_written(self):
        with self.assertRaisesRegex(DataError, "GB free"):
            FeatureStore.create(self.path, 10**12, 4096)
        self.assertFalse(os.path.exists(os.path.join(self.path, "rows.npy")))

    def test_pages_are_given_back_and_nothing_is_lost(self):
        bound = feature_store._MAPPED_BYTES
        feature_store._MAPPED_BYTES = 64
        self.addCleanup(setattr, feature_store, "_MAPPED_BYTES", bound)
        store = self.filled("float32")
        self.assertAllEqual(np.concatenate([block for _, block in store.chunks(9)]), self.x)
        self.assertAllEqual(FeatureStore.open(self.path).read(0, 50), self.x)

    def test_impossible_settings_and_missing_stores_are_refused(self):
        with self.assertRaisesRegex(ConfigError, "float16 or float32"):
            FeatureStore.create(self.path, 1, 1, dtype="int8")
        with self.assertRaises(ConfigError):
            FeatureStore.create(self.path, 1, 0)
        with self.assertRaisesRegex(DataError, "no feature store"):
            FeatureStore.open(self.path + "-absent")

    def test_a_damaged_note_is_reported(self):
        self.filled()
        with open(os.path.join(self.path, "store.json"), "w") as file:
            file.write(json.dumps({"first_row": 0})[:-3])
        with self.assertRaisesRegex(DataError, "no feature store"):
            FeatureStore.open(self.path)
