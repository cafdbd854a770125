"""Embeddings in .npy files: many files are one matrix, and what cannot be used says what would."""

import concurrent.futures
import itertools
import os
import tempfile
from unittest import mock

import numpy as np
import tensorflow as tf
from npy_folder import FolderTest

from dc_tf.clustering.store.embeddings import Embeddings, UnitRows, find_files
from dc_tf.clustering.store.points import as_points
from dc_tf.errors import DataError

BFLOAT16 = tf.bfloat16.as_numpy_dtype


class EmbeddingsTest(FolderTest):
    def setUp(self):
        super().setUp()
        self.x = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)

    def shards(self, dtype="float32", cuts=(0, 7, 7, 30, 50)):
        """Files with rows [0, 7), none, [7, 30) and [30, 50)."""
        parts = itertools.pairwise(cuts)
        return [
            self.save(f"{i}.npy", self.x[start:stop].astype(dtype))
            for i, (start, stop) in enumerate(parts)
        ]

    def test_files_are_one_matrix_in_their_own_precision(self):
        for dtype in ("float16", BFLOAT16, "float32", "float64", ">f4"):
            embeddings = Embeddings.open(self.shards(dtype))
            expected = self.x.astype(dtype)
            native = np.dtype(np.float32) if dtype == ">f4" else np.dtype(dtype)
            self.assertEqual((embeddings.rows, embeddings.dim), (50, 6))
            self.assertEqual(embeddings.dtype, native)
            for start, stop in ((0, 50), (3, 6), (5, 31), (7, 30), (49, 50), (4, 4)):
                block = embeddings.read(start, stop)
                self.assertEqual(block.dtype, native)
                self.assertAllEqual(block.astype(np.float64), expected[start:stop].astype(float))
            positions = np.array([49, 0, 7, 6, 7, 29, 30])
            rows = embeddings.take(positions)
            self.assertEqual(rows.dtype, native)
            self.assertAllEqual(rows.astype(np.float64), expected[positions].astype(np.float64))

    def test_rows_far_apart_and_rows_close_together_are_taken_alike(self):
        x = np.arange(4000.0).reshape(2000, 2)
        embeddings = Embeddings.open([self.save("x.npy", x)])
        for positions in ([1999, 3, 1000], [5, 5], [], [11, 10, 12], range(2000)):
            positions = np.array(positions, np.int64)
            self.assertAllEqual(embeddings.take(positions), x[positions])

    def test_files_of_different_precisions_are_read_as_float32(self):
        names = [self.save("a.npy", self.x.astype(BFLOAT16)), self.save("b.npy", self.x)]
        embeddings = Embeddings.open([*names, self.save("c.npy", self.x.astype(np.float16))])
        block = embeddings.read(49, 101)
        self.assertEqual(block.dtype, np.float32)
        self.assertAllEqual(block[1:51], self.x)
        self.assertAllEqual(block[0], self.x[49].astype(BFLOAT16).astype(np.float32))

    def test_a_part_counts_from_its_own_first_row(self):
        part = Embeddings.open(self.shards()).part(5, 40).part(1, 30)
        self.assertEqual((part.first_row, part.rows), (6, 29))
        self.assertAllEqual(part.read(0, 29), self.x[6:35])
        self.assertAllEqual(part.take(np.array([28, 0])), self.x[[34, 6]])

    def test_a_row_is_named_by_its_file_and_its_place_there(self):
        embeddings = Embeddings.open(self.shards())
        self.assertEqual(embeddings.where(6), f"row 6 of {self.path('0.npy')}")
        self.assertEqual(embeddings.where(7), f"row 0 of {self.path('2.npy')}")

    def test_threads_read_at_the_same_time(self):
        embeddings = Embeddings.open(self.shards())
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            blocks = list(pool.map(lambda i: embeddings.read(i % 40, i % 40 + 10), range(400)))
        for i, block in enumerate(blocks):
            self.assertAllEqual(block, self.x[i % 40 : i % 40 + 10])

    def test_a_file_larger_than_memory_is_read_where_it_is_asked_for(self):
        rows = 1 << 31
        with open(self.path("x.npy"), "wb") as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": (rows, 64)}
            np.lib.format.write_array_header_2_0(file, header)
            start = file.tell()
            file.seek(start + (rows - 1) * 256)  # a hole of 512 GiB, which takes no disk
            file.write(np.arange(64, dtype=np.float32))
        embeddings = Embeddings.open([self.path("x.npy")])
        self.assertAllEqual(embeddings.read(rows - 2, rows)[1], np.arange(64))
        self.assertAllEqual(embeddings.take(np.array([rows - 1, 0]))[0], np.arange(64))

    def test_a_file_that_is_cut_short_or_removed_while_it_is_read_is_an_error_of_the_data(self):
        embeddings = Embeddings.open([self.save("x.npy", self.x)])
        os.truncate(self.path("x.npy"), 500)
        with self.assertRaisesRegex(DataError, "x.npy ends at byte .* was truncated"):
            embeddings.read(0, 50)
        os.remove(self.path("x.npy"))
        with self.assertRaisesRegex(DataError, "x.npy cannot be opened: No such file"):
            embeddings.read(0, 50)

    def test_rows_of_different_lengths_name_both_files(self):
        paths = [self.save("a.npy", self.x), self.save("b.npy", self.x[:, :5])]
        with self.assertRaisesRegex(DataError, "b.npy has rows of 5 and .*a.npy rows of 6"):
            Embeddings.open(paths)


class FindFilesTest(FolderTest):
    def setUp(self):
        super().setUp()
        for name in ("b.npy", "a.npy", "c.npy", "x[1],y.npy"):
            self.save(name, np.ones((2, 2)))

    def found(self, text):
        return [os.path.basename(path) for path in find_files(text)]

    def test_a_pattern_gives_sorted_files_and_a_list_its_own_order(self):
        self.assertEqual(self.found(self.path("?.npy")), ["a.npy", "b.npy", "c.npy"])
        text = f"{self.path('c.npy')}, {self.path('[ab].npy')}"
        self.assertEqual(self.found(text), ["c.npy", "a.npy", "b.npy"])

    def test_a_file_that_exists_is_meant_whatever_its_name(self):
        self.assertEqual(self.found(self.path("x[1],y.npy")), ["x[1],y.npy"])

    def test_a_pattern_that_matches_nothing_and_a_file_given_twice_are_refused(self):
        with self.assertRaisesRegex(DataError, "d.*npy' matches no file.*pattern in quotes"):
            find_files(self.path("d*.npy"))
        with self.assertRaisesRegex(DataError, "a.npy 2 times"):
            find_files(f"{self.path('a.npy')},{self.path('*.npy')}")
        with self.assertRaisesRegex(DataError, "'' matches no file"):
            find_files("")
        with self.assertRaisesRegex(DataError, "gs://a/b.npy' is not on a file system; mount"):
            find_files("gs://a/b.npy")

    def test_a_file_in_an_unreadable_folder_is_reported_as_that(self):
        with mock.patch.object(os, "stat", side_effect=PermissionError(13, "Permission denied")):
            with self.assertRaisesRegex(DataError, "c.npy cannot be read: Permission denied"):
                Embeddings.open(find_files(self.path("c.npy")))


class UnitRowsTest(tf.test.TestCase):
    def test_rows_get_length_1_and_zeros_stay(self):
        folder = tempfile.mkdtemp(dir=self.get_temp_dir())
        x = np.array([[3, 4], [0, 0], [0, -200], [6e4, 6e4]], np.float16)
        np.save(os.path.join(folder, "x.npy"), x)
        rows = UnitRows(Embeddings.open(find_files(os.path.join(folder, "x.npy"))))
        expected = [[0.6, 0.8], [0, 0], [0, -1], [0.5**0.5, 0.5**0.5]]
        self.assertAllClose(rows.read(0, 4), expected, rtol=1e-6)
        self.assertAllClose(rows.take(np.array([2, 0])), [[0, -1], [0.6, 0.8]], rtol=1e-6)
        self.assertEqual((rows.rows, rows.dim, rows.read(0, 1).dtype), (4, 2, np.float32))

    def test_float64_rows_of_any_size_are_scaled_in_float64(self):
        x = np.array([[3e200, 4e200], [3e-200, -4e-200], [0, 0], [1e8, 1e8 + 3]])
        rows = UnitRows(as_points(x))
        self.assertEqual(rows.dtype, np.float64)
        self.assertAllClose(rows.read(0, 3), [[0.6, 0.8], [0.6, -0.8], [0, 0]], rtol=1e-15)
        first, second = rows.read(3, 4)[0]
        self.assertAllClose((second - first) / first, 3e-8, rtol=1e-6)


if __name__ == "__main__":
    tf.test.main()
