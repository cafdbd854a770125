"""The bank of features: the last of several features of a row counts, for any files and workers."""

import itertools
import os
import shutil
import tempfile
from unittest import mock

import numpy as np
import tensorflow as tf
from crash_points import killed_at

from dc_tf.clustering.store import feature_bank
from dc_tf.clustering.store.feature_bank import FeatureBank, Part, covers
from dc_tf.clustering.store.points import BFLOAT16
from dc_tf.distributed.blocks import row_block
from dc_tf.errors import DataError

ROWS, DIM, BATCH = 50, 3, 8


class FeatureBankTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.folder)
        self.random = np.random.default_rng(7)

    def bank(self, name="bank", dtype=np.float32):
        return FeatureBank(os.path.join(self.folder, name), ROWS, DIM, dtype)

    def features(self, count):
        return self.random.standard_normal((count, DIM)).astype(np.float32)

    def filled(self, size, name="bank"):
        """A bank whose base `size` workers have written, and the features."""
        bank, features = self.bank(name), self.features(ROWS)
        for rank in range(size):
            own = row_block(ROWS, rank, size)
            half = len(own) // 2
            blocks = [(0, features[own][:half]), (half, features[own][half:])]
            bank.write_base(rank, size, blocks)
        return bank, features

    def merged(self, bank, size=1):
        """The rows of all blocks of so many workers."""
        parts = bank.parts()
        blocks = [list(bank.merged(parts, row_block(ROWS, r, size))) for r in range(size)]
        for found in blocks:
            starts = np.cumsum([0, *(len(rows) for _, rows in found)])[:-1]
            self.assertAllEqual([start for start, _ in found], starts)
        return np.concatenate([rows for found in blocks for _, rows in found])

    def draw(self, bank, expected, first, last, size):
        """Writes the parts of all workers of some steps; puts what counts into `expected`."""
        count = (last - first) * BATCH
        rows, features = self.random.integers(0, ROWS, count), self.features(count)
        for row, vector in zip(rows, features, strict=True):
            expected[row] = vector
        order = first * BATCH + np.arange(count)
        owner = order % BATCH * size // BATCH
        for rank in range(size):
            own = self.random.permutation(np.flatnonzero(owner == rank))
            part = Part(first, last, size, rank)
            bank.write_part(part, rows[own], order[own], features[own])

    def test_the_last_features_of_a_row_count_for_any_parts_blocks_and_workers(self):
        bank, expected = self.filled(3)
        for first, last, size in ((0, 4, 2), (4, 5, 2), (5, 9, 4), (9, 10, 1)):
            self.draw(bank, expected, first, last, size)
        self.assertLen(bank.parts(), 9)
        for readers in (1, 2, 5):
            self.assertAllEqual(self.merged(bank, readers), expected)
        with mock.patch.object(feature_bank, "BLOCK_BYTES", 7 * bank.row_bytes):
            self.assertAllEqual(self.merged(bank, 2), expected)

    def test_rows_that_no_part_has_keep_the_features_of_the_base(self):
        bank, features = self.filled(1)
        newer = self.features(2)
        bank.write_part(Part(0, 1, 1, 0), np.array([9, 4]), np.array([0, 1]), newer)
        found = self.merged(bank)
        self.assertAllEqual(found[[9, 4]], newer)
        others = np.setdiff1d(np.arange(ROWS), [4, 9])
        self.assertAllEqual(found[others], features[others])

    def test_a_part_may_be_empty(self):
        bank, features = self.filled(1)
        none = np.zeros(0, np.int64)
        bank.write_part(Part(0, 1, 1, 0), none, none, np.zeros((0, DIM), np.float32))
        self.assertAllEqual(self.merged(bank), features)

    def test_bfloat16_is_kept_as_it_is(self):
        bank, features = self.bank(dtype=BFLOAT16), self.features(ROWS).astype(BFLOAT16)
        bank.write_base(0, 1, [(0, features)])
        newer = self.features(1).astype(BFLOAT16)
        bank.write_part(Part(0, 1, 1, 0), np.array([3]), np.array([0]), newer)
        features[3] = newer[0]
        found = self.merged(bank)
        self.assertEqual(found.dtype, BFLOAT16)
        self.assertAllEqual(found.view(np.uint16), features.view(np.uint16))

    def test_a_base_is_complete_once_every_worker_has_written(self):
        bank, features = self.bank(), self.features(ROWS)
        self.assertIsNone(bank.base_size())
        for rank in (1, 0):
            self.assertFalse(bank.has_base(rank, 2))
            bank.write_base(rank, 2, [(0, features[row_block(ROWS, rank, 2)])])
            self.assertTrue(bank.has_base(rank, 2))
            self.assertEqual(bank.base_size(), 2 if rank == 0 else None)
        self.assertAllEqual(bank.read_base(20, 31), features[20:31])
        self.assertEmpty(bank.read_base(4, 4))

    def test_a_failed_write_leaves_nothing_that_counts(self):
        bank = self.bank()

        def failing():
            yield 0, self.features(2)
            raise OSError("the disk fails")

        with self.assertRaisesRegex(OSError, "fails"):
            bank.write_base(0, 1, failing())
        self.assertIsNone(bank.base_size())
        with mock.patch.object(np, "save", side_effect=OSError("full")):
            with self.assertRaisesRegex(OSError, "full"):
                bank.write_part(Part(0, 1, 1, 0), *np.zeros((2, 1), int), self.features(1))
        self.assertEmpty(bank.parts())

    def test_killed_at_any_touch_of_the_disk_files_are_there_whole_or_not_at_all(self):
        features, newer = self.features(ROWS), self.features(6)
        rows, order = np.array([3, 9, 3, 40, 41, 9]), np.arange(6)
        merged = features.copy()
        merged[rows] = newer
        seen = set()
        for n in itertools.count():
            bank = self.bank(f"crash-{n}")

            def write(bank=bank):
                bank.write_base(0, 1, [(0, features)])
                bank.write_part(Part(0, 1, 1, 0), rows, order, newer)

            ended = killed_at(n, write)
            if bank.base_size():
                self.assertAllEqual(self.merged(bank), merged if bank.parts() else features)
            seen.add((bank.base_size(), len(bank.parts())))
            if ended:
                break
            write()  # after a restart
            self.assertAllEqual(self.merged(bank), merged)
        self.assertEqual(seen, {(None, 0), (1, 0), (1, 1)})

    def test_parts_after_a_step_are_removed_also_what_a_crash_left_of_them(self):
        bank, expected = self.filled(1)
        self.draw(bank, expected, 0, 4, 2)
        self.draw(bank, expected.copy(), 4, 6, 2)
        left = [Part(4, 6, 2, 1).name + ".npy.tmp", Part(6, 8, 2, 0).name + ".npy"]
        for name in left:
            open(os.path.join(bank.path, name), "w").close()
        bank.remove_parts(after=4)
        self.assertEqual(bank.parts(), [Part(0, 4, 2, 0), Part(0, 4, 2, 1)])
        self.assertNoCommonElements(os.listdir(bank.path), left)
        self.assertAllEqual(self.merged(bank), expected)

    def test_corrupt_and_foreign_files_are_named(self):
        bank, _ = self.filled(1)
        bank.write_part(Part(0, 1, 1, 0), np.array([3]), np.array([0]), self.features(1))
        path = os.path.join(bank.path, Part(0, 1, 1, 0).rows_file)
        for content in (b"", b"nothing"):
            with open(path, "wb") as file:
                file.write(content)
            with self.assertRaisesRegex(DataError, f"{Part(0, 1, 1, 0).name}.*corrupt"):
                self.merged(bank)
        np.save(path, np.zeros((2, 2)))
        with self.assertRaisesRegex(DataError, "float64.*int64"):
            self.merged(bank)
        other = FeatureBank(bank.path, ROWS, DIM + 1, np.float32)
        with self.assertRaisesRegex(DataError, "50 rows of 3 float32, not 50 of 4"):
            other.read_base(0, 1)

    def test_no_base_is_an_error_that_says_so(self):
        with self.assertRaisesRegex(DataError, "no features of all rows"):
            self.bank("missing").read_base(0, 1)


class CoversTest(tf.test.TestCase):
    def test_steps_are_covered_once_by_all_workers_of_each_time(self):
        whole = [Part(3, 5, 2, 0), Part(3, 5, 2, 1), Part(5, 9, 1, 0)]
        self.assertTrue(covers(whole, 3, 9))
        self.assertTrue(covers([], 3, 3))
        for missing in range(len(whole)):
            self.assertFalse(covers(whole[:missing] + whole[missing + 1 :], 3, 9))
        for first, last in ((2, 9), (3, 10), (4, 9), (3, 8)):
            self.assertFalse(covers(whole, first, last))
        self.assertFalse(covers([*whole, Part(4, 9, 1, 0)], 3, 9))


if __name__ == "__main__":
    tf.test.main()
