"""The feature store: what is written is read, what is not whole says so."""

import errno
import itertools
import json
import os
import shutil
import tempfile
from unittest import mock

import numpy as np
import tensorflow as tf
from crash_points import killed_at

from dc_tf.clustering.store.feature_store import FeatureStore
from dc_tf.clustering.store.points import BFLOAT16, chunks
from dc_tf.clustering.store.row_file import RowFile
from dc_tf.errors import ConfigError, DataError

DTYPES = {"float16": np.dtype("f2"), "bfloat16": BFLOAT16, "float32": np.dtype("f4")}


class StoreTestCase(tf.test.TestCase):
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

    def change_metadata(self, **changes):
        path = os.path.join(self.path, "store.json")
        with open(path) as file:
            note = json.load(file) | changes
        with open(path, "w") as file:
            json.dump(note, file)


class FeatureStoreTest(StoreTestCase):
    def test_rows_come_back_in_the_type_of_the_file(self):
        for name, dtype in DTYPES.items():
            self.filled(name)
            store = FeatureStore.open(self.path)
            expected = self.x.astype(dtype)
            self.assertEqual((store.rows, store.dim, store.first_row), (50, 6, 100))
            self.assertEqual(store.dtype, dtype)
            for ours, theirs in (
                (store.read(7, 19), expected[7:19]),
                (store.take(np.array([40, 3, 3])), expected[[40, 3, 3]]),
                (np.concatenate([block for _, block in chunks(store, 16)]), expected),
            ):
                self.assertEqual(ours.dtype, dtype)
                self.assertAllEqual(ours.astype(np.float32), theirs.astype(np.float32))

    def test_numpy_reads_the_file(self):
        for name, dtype in DTYPES.items():
            self.filled(name)
            rows = np.load(os.path.join(self.path, "rows.npy"), allow_pickle=False).view(dtype)
            self.assertAllEqual(rows.astype(np.float32), self.x.astype(dtype).astype(np.float32))

    def test_writing_tells_what_is_stored(self):
        for name in DTYPES:
            store = FeatureStore.create(self.path, 50, 6, dtype=name)
            stored = store.write(0, tf.constant(self.x))
            self.assertEqual(stored.tobytes(), store.read(0, 50).tobytes())

    def test_an_extraction_in_progress_can_be_read_as_far_as_it_is(self):
        store = FeatureStore.create(self.path, 50, 6)
        store.write(0, self.x[:20])
        self.assertAllEqual(store.read(0, 20), self.x[:20].astype(np.float16))
        for reading in (
            lambda: store.read(0, 21),
            lambda: store.take(np.array([19, 20])),
            lambda: list(chunks(store, 10)),
            store.check_complete,
        ):
            with self.assertRaisesRegex(DataError, "20 of 50 rows"):
                reading()

    def test_rows_that_are_not_there_are_refused(self):
        store = self.filled()
        for reading in (lambda: store.read(40, 51), lambda: store.take(np.array([-1, 3]))):
            with self.assertRaises(IndexError):
                reading()

    def test_killed_at_any_touch_of_the_disk_an_extraction_resumes_to_the_same_bytes(self):
        self.filled()
        expected = self.bytes()
        kills = 0
        for n in itertools.count():
            shutil.rmtree(self.path)
            if killed_at(n, self.extract):
                break
            self.extract()
            self.assertEqual(self.bytes(), expected, n)
            kills += 1
        self.assertGreater(kills, 15)

    def extract(self):
        """Batches of 12, every second of them flushed, from where an earlier process stopped."""
        try:
            store = FeatureStore.open(self.path)
        except DataError:
            store = FeatureStore.create(self.path, 50, 6, first_row=100)
        for start in range(store.written, 50, 12):
            store.write(start, self.x[start : start + 12])
            if start % 24:
                store.flush()
        store.flush()

    def bytes(self):
        store = FeatureStore.open(self.path)
        store.check_complete()
        return store.read(0, 50).tobytes()

    def test_only_what_was_flushed_counts_after_a_crash(self):
        def crash():
            store = FeatureStore.create(self.path, 50, 6)
            store.write(0, self.x[:20])
            store.flush()
            store.write(20, self.x[20:30])

        self.assertTrue(killed_at(10**6, crash))
        store = FeatureStore.open(self.path)
        self.assertEqual(store.written, 20)
        store.write(20, self.x[20:])
        self.assertAllEqual(store.read(0, 50), self.x.astype(np.float16))

    def test_rows_are_synced_before_the_note_counts_them(self):
        store = FeatureStore.create(self.path, 50, 6)
        store.write(0, self.x)
        with mock.patch.object(RowFile, "sync", side_effect=DataError("disk")):
            with self.assertRaises(DataError):
                store.flush()
        self.assertEqual(FeatureStore.open(self.path).written, 0)

    def test_rows_out_of_order_or_of_wrong_shape_are_refused(self):
        store = FeatureStore.create(self.path, 50, 6)
        for start, rows in (
            (1, self.x[:1]),
            (-1, self.x[:1]),
            (0, self.x[:, :5]),
            (0, np.zeros((51, 6))),
            (0, self.x[0]),
            (0, np.float32(1)),
        ):
            with self.assertRaisesRegex(DataError, "does not fit"):
                store.write(start, rows)
        for dtype in (int, complex, object, ">f4"):
            with self.assertRaisesRegex(DataError, "need to be floating"):
                store.write(0, self.x.astype(dtype))

    def test_values_beyond_the_range_are_clipped_and_counted(self):
        store = FeatureStore.create(self.path, 2, 2)
        store.write(0, np.array([[7e4, 1], [-1e9, 65520]], np.float32))
        store.flush()
        store = FeatureStore.open(self.path)
        self.assertAllEqual(store.read(0, 2), [[65504, 1], [-65504, 65504]])
        self.assertEqual(store.clipped, 3)
        store.forget()
        self.assertEqual((store.written, store.clipped), (0, 0))
        for name, largest in (("bfloat16", 3.3895314e38), ("float32", 3.4028235e38)):
            store = FeatureStore.create(self.path, 1, 3, dtype=name)
            stored = store.write(0, np.array([[-1e300, 1e300, 3e38]]))
            self.assertAllClose(stored.astype(np.float64), [[-largest, largest, 3e38]], rtol=4e-3)
            self.assertEqual(store.clipped, 2)

    def test_a_row_that_is_not_finite_is_named_by_its_row_id(self):
        for value, name in itertools.product((np.nan, np.inf, -np.inf), DTYPES):
            store = FeatureStore.create(self.path, 50, 6, first_row=100, dtype=name)
            self.x[17, 3] = value
            self.x[16, 0] = 1e5  # beyond float16, which is no error
            with self.assertRaisesRegex(DataError, "row 117 are not finite"):
                store.write(0, self.x)

    def test_a_store_of_no_rows_is_complete(self):
        FeatureStore.create(self.path, 0, 6)
        store = FeatureStore.open(self.path)
        store.check_complete()
        self.assertEqual(list(chunks(store, 10)), [])
        self.assertEqual(store.take(np.zeros(0, np.int64)).shape, (0, 6))

    def test_memory_does_not_grow_with_what_is_written_and_read(self):
        rows, dim = 1 << 17, 1024
        block = np.ones((4096, dim), np.float16)
        store = FeatureStore.create(self.path, rows, dim)
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # the peak is counted from here
        before = peak_mb()
        for start in range(0, rows, len(block)):
            store.write(start, block)
        for _ in chunks(store, 4096):
            pass
        for start in range(0, rows, 1 << 16):
            store.take(np.arange(start, start + (1 << 16), 5))
        self.assertLess(peak_mb() - before, 100)  # the rows are 268 MB


class DamageTest(StoreTestCase):
    """What is asked of the disk and of the folder, and what they can do."""

    def test_too_little_space_is_noticed_before_anything_is_written(self):
        with self.assertRaisesRegex(DataError, r"needs 8192000.0 GB and \d+.\d [GM]B are free"):
            FeatureStore.create(self.path, 10**12, 4096)
        self.assertFalse(os.path.exists(self.path))

    def test_a_disk_that_fills_up_while_space_is_taken_leaves_no_half_store(self):
        for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            full = OSError(code, os.strerror(code))
            with mock.patch.object(os, "posix_fallocate", side_effect=full):
                with self.assertRaisesRegex(DataError, r"needs 0.0 MB and .* [GM]B are free"):
                    FeatureStore.create(self.path, 50, 6)
            self.assertFalse(os.path.exists(self.path))

    def test_a_disk_that_cannot_reserve_space_still_holds_a_store(self):
        unknown = OSError(errno.EOPNOTSUPP, "Operation not supported")
        with mock.patch.object(os, "posix_fallocate", side_effect=unknown):
            self.filled()
        self.assertAllEqual(FeatureStore.open(self.path).read(0, 50), self.x.astype(np.float16))

    def test_impossible_settings_and_missing_stores_are_refused(self):
        for dtype in ("int8", np.float64, "half"):
            with self.assertRaisesRegex(ConfigError, "one of float16, bfloat16, float32"):
                FeatureStore.create(self.path, 1, 1, dtype=dtype)
        for rows, dim in ((1, 0), (-1, 1)):
            with self.assertRaisesRegex(ConfigError, "at least"):
                FeatureStore.create(self.path, rows, dim)
        with self.assertRaisesRegex(DataError, "has no feature store: No such file"):
            FeatureStore.open(self.path + "-absent")

    def test_a_store_takes_the_place_of_a_store_and_of_nothing_else(self):
        self.filled()
        self.assertEqual(FeatureStore.create(self.path, 3, 2).read(0, 0).shape, (0, 2))
        treasure = os.path.join(self.path, "thesis.tex")
        with open(treasure, "w"):
            pass
        for path, message in ((self.path, "holds thesis.tex"), (treasure, "is not a folder")):
            with self.assertRaisesRegex(ConfigError, message):
                FeatureStore.create(path, 3, 2)
        self.assertTrue(os.path.exists(treasure))
        with self.assertRaisesRegex(DataError, "Not a directory"):
            FeatureStore.create(os.path.join(treasure, "below"), 3, 2)

    def test_a_corrupt_note_is_reported(self):
        for changes in (
            {"written": 51},
            {"written": "50"},
            {"written": True},
            {"first_row": -1},
            {"mapped": 51},
            {"made_by": None},
            {"matrix": [50, 6]},
            {"matrix": [50, 6, "int8"]},
            {"matrix": ["50", 6, "float16"]},
            {"surprise": 0},
        ):
            self.filled()
            self.change_metadata(**changes)
            with self.assertRaisesRegex(DataError, "store.json is corrupt"):
                FeatureStore.open(self.path)
        for text in ("", '{"written": 5', "[]", "null", "7"):
            with open(os.path.join(self.path, "store.json"), "w") as file:
                file.write(text)
            with self.assertRaisesRegex(DataError, "store.json is corrupt"):
                FeatureStore.open(self.path)

    def test_rows_of_another_store_are_not_taken_for_its_own(self):
        rows = os.path.join(self.path, "rows.npy")
        for other in (self.x[:40], self.x.astype(np.float16)[:, :5], self.x):
            self.filled()
            np.save(rows, other)
            with self.assertRaisesRegex(DataError, "do not belong together"):
                FeatureStore.open(self.path)

    def test_rows_that_are_missing_or_cut_short_are_reported(self):
        rows = os.path.join(self.path, "rows.npy")
        self.filled()
        os.truncate(rows, os.path.getsize(rows) - 1)
        with self.assertRaisesRegex(DataError, "rows.npy.* takes 728 bytes and the file has 727"):
            FeatureStore.open(self.path)
        os.remove(rows)
        with self.assertRaisesRegex(DataError, "rows.npy cannot be read: No such file"):
            FeatureStore.open(self.path)

    def test_rows_that_are_half_mapped_are_neither_read_nor_written(self):
        self.filled()
        self.change_metadata(made_by="whitening", mapped=20)
        store = FeatureStore.open(self.path)
        for use in (
            lambda: store.read(0, 1),
            lambda: store.take(np.array([0])),
            lambda: store.write(0, self.x),
            store.check_complete,
        ):
            with self.assertRaisesRegex(DataError, "20 of 50 rows are mapped by whitening"):
                use()
        store.forget()
        store.write(0, self.x)
        store.check_complete()


def peak_mb():
    with open("/proc/self/status") as file:
        text = file.read()
    return int(text.split("VmHWM:")[1].split()[0]) / 1024


if __name__ == "__main__":
    tf.test.main()
