"""Rows in a file: every way of reading gives what NumPy gives, and disks that fail say so."""

import concurrent.futures
import os
import tempfile
from unittest import mock

import numpy as np
import tensorflow as tf

from dc_tf.clustering.store import row_file
from dc_tf.clustering.store.row_file import RowFile
from dc_tf.errors import DataError

HALF = np.dtype(np.float16)


class RowFileTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.path = os.path.join(tempfile.mkdtemp(dir=self.get_temp_dir()), "rows.npy")

    def file_with(self, rows):
        file = RowFile.create(self.path, *rows.shape, rows.dtype)
        file.write(0, rows)
        return file

    def test_rows_at_any_positions_are_those_of_numpy(self):
        rng = np.random.default_rng(0)
        # Rows far smaller than a window, about as large, and larger.
        for dim, window in ((3, 256), (40, 128), (200, 128)):
            x = rng.normal(size=(500, dim)).astype(HALF)
            file = self.file_with(x)
            for share in (1, 0.5, 0.1, 0.01):
                ascending = np.flatnonzero(rng.random(500) < share)
                for positions in (
                    ascending,
                    rng.permutation(ascending),
                    np.repeat(ascending, 3),
                    rng.choice(500, 50),
                ):
                    with mock.patch.multiple(row_file, _WINDOW_BYTES=window, _BYTES_PER_CALL=64):
                        self.assertAllEqual(file.take(positions), x[positions])
                    self.assertAllEqual(file.take(positions.tolist()), x[positions])

    def test_dense_rows_are_read_in_one_piece_and_sparse_ones_alone(self):
        file = self.file_with(np.zeros((4096, 128), HALF))  # 256 B a row, 4096 rows a window
        for step, reads in ((2, 1), (32, 1), (1024, 4)):
            with mock.patch.object(os, "preadv", wraps=os.preadv) as preadv:
                file.take(np.arange(0, 4096, step))
            self.assertEqual(preadv.call_count, reads, step)

    def test_many_threads_read_at_once(self):
        x = np.random.default_rng(0).normal(size=(2000, 8)).astype(np.float32)
        file = self.file_with(x)

        def same(seed):
            positions = np.random.default_rng(seed).choice(2000, 300)
            first = int(positions[0] // 2)
            whole = np.array_equal(file.read(first, first + 500), x[first : first + 500])
            return whole and np.array_equal(file.take(positions), x[positions])

        with concurrent.futures.ThreadPoolExecutor(8) as threads:
            self.assertTrue(all(threads.map(same, range(64))))

    def test_pieces_that_the_system_cuts_are_put_together(self):
        x = np.random.default_rng(0).normal(size=(9, 5)).astype(HALF)
        read, write = os.preadv, os.pwrite
        with (
            mock.patch.object(os, "pwrite", lambda fd, data, at: write(fd, data[:7], at)),
            mock.patch.object(os, "preadv", lambda fd, parts, at: read(fd, [parts[0][:3]], at)),
        ):
            file = self.file_with(x)
            self.assertAllEqual(file.read(2, 9), x[2:])
        self.assertAllEqual(np.load(self.path), x)

    def test_a_file_cut_short_is_reported_and_does_not_kill_the_process(self):
        file = self.file_with(np.zeros((100, 8), HALF))
        os.truncate(self.path, 128 + 50 * 16 + 3)
        self.assertAllEqual(file.read(0, 50), np.zeros((50, 8)))
        for reading in (lambda: file.read(0, 51), lambda: file.take(np.array([3, 99]))):
            with self.assertRaisesRegex(DataError, "rows.npy ends at byte .* truncated"):
                reading()

    def test_a_full_disk_is_reported_when_rows_are_written(self):
        full = RowFile("/dev/full", 0, 10, 4, HALF, writable=True)
        with self.assertRaisesRegex(DataError, "/dev/full cannot be written: No space left"):
            full.write(0, np.zeros((10, 4), HALF))

    def test_a_disk_that_fails_is_reported(self):
        file = self.file_with(np.zeros((10, 4), HALF))
        broken = OSError(5, "Input/output error")
        with mock.patch.object(os, "preadv", side_effect=broken):
            with self.assertRaisesRegex(DataError, "rows.npy cannot be read: Input/output"):
                file.read(0, 1)
        with mock.patch.object(os, "fsync", side_effect=broken):
            with self.assertRaisesRegex(DataError, "rows.npy cannot be written: Input/output"):
                file.sync()
        with self.assertRaisesRegex(DataError, "absent cannot be opened: No such file"):
            RowFile(self.path + "absent", 0, 1, 1, HALF)

    def test_a_file_that_nobody_uses_any_more_is_closed(self):
        files = os.listdir("/proc/self/fd")
        file = self.file_with(np.zeros((10, 4), HALF))
        self.assertLen(os.listdir("/proc/self/fd"), len(files) + 1)
        del file
        self.assertLen(os.listdir("/proc/self/fd"), len(files))


if __name__ == "__main__":
    tf.test.main()
