"""Vectors in Parquet and Arrow files: one matrix, whatever the layout and the order of reading."""

import concurrent.futures
import os
import tempfile
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf
from absl.testing import parameterized

from dc_tf.clustering.store import table_file
from dc_tf.clustering.store.embeddings import Embeddings
from dc_tf.clustering.store.table_file import TableFile
from dc_tf.errors import DataError

ROWS, DIM = 500, 6
LISTS = {
    "fixed": lambda x: pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), x.shape[1]),
    "list": lambda x: pa.array(list(x)),
    "large": lambda x: pa.array(list(x), pa.large_list(pa.from_numpy_dtype(x.dtype))),
    "tensor": lambda x: pa.FixedShapeTensorArray.from_numpy_ndarray(x),
}


class TableFileTest(tf.test.TestCase, parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = tempfile.mkdtemp(dir=self.get_temp_dir())
        self.x = np.random.default_rng(0).normal(size=(ROWS, DIM)).astype(np.float32)

    def path(self, name):
        return os.path.join(self.folder, name)

    def parquet(self, table, name="x.parquet", **options):
        pq.write_table(pa.table(table), self.path(name), **options)
        return self.path(name)

    def arrow(self, table, name, writer, rows=37):
        table = pa.table(table)
        with pa.OSFile(self.path(name), "wb") as sink, writer(sink, table.schema) as file:
            file.write_table(table, max_chunksize=rows)
        return self.path(name)

    def assert_is_matrix(self, path, x, column=None):
        file = TableFile.open(path, column)
        self.assertEqual((file.rows, file.dim, file.dtype), (*x.shape, x.dtype))
        for start, stop in ((0, len(x)), (0, 1), (99, 103), (250, 251), (3, 3), (0, len(x))):
            self.assertAllEqual(file.read(start, stop), x[start:stop])
        positions = np.array([499, 0, 3, 3, 250, 101, 100])
        self.assertAllEqual(file.take(positions), x[positions])
        self.assertAllEqual(file.take([]), x[:0])

    @parameterized.product(kind=tuple(LISTS), dtype=("float16", "float32", "float64"))
    def test_lists_of_any_kind_are_a_matrix(self, kind, dtype):
        x = self.x.astype(dtype)
        table = {"name": [str(i) for i in range(ROWS)], "vector": LISTS[kind](x)}
        if dtype != "float16":  # not every version of Parquet has it
            self.assert_is_matrix(self.parquet(table, row_group_size=101), x)
        self.assert_is_matrix(self.arrow(table, "x.arrow", pa.ipc.new_file), x)
        self.assert_is_matrix(self.arrow(table, "x.stream", pa.ipc.new_stream), x)

    def test_columns_of_one_number_each_are_a_matrix_by_a_pattern(self):
        table = {f"f{i}": self.x[:, i] for i in range(DIM)} | {"score": np.ones(ROWS)}
        self.assert_is_matrix(self.parquet(table, row_group_size=101), self.x, "f*")
        with self.assertRaisesRegex(DataError, r"no column of vectors .* f0 \(float\), .*'f\*'"):
            TableFile.open(self.path("x.parquet"))

    def test_one_of_several_columns_has_to_be_named(self):
        vectors = LISTS["fixed"](self.x)
        path = self.parquet({"a": vectors, "b": LISTS["list"](2 * self.x), "n": range(ROWS)})
        self.assert_is_matrix(path, 2 * self.x, "b")
        for column, message in (
            (None, "vectors in the columns a, b; name one with --column"),
            ("c", "has no column c; columns of vectors are a, b"),
            ("n", "column n holds int64, .*; columns of vectors are a, b"),
        ):
            with self.assertRaisesRegex(DataError, message):
                TableFile.open(path, column)

    def test_rows_that_are_no_vectors_are_named(self):
        for value, message in (
            (None, "row 7 of .*x.parquet has no vector in column v"),
            ([1.0], "row 7 of .* has 1 components and others have 6"),
        ):
            rows = [*map(list, self.x[:7]), value, *map(list, self.x[8:20])]
            path = self.parquet({"v": pa.array(rows, pa.list_(pa.float32()))}, row_group_size=5)
            file = TableFile.open(path)
            self.assertAllEqual(file.read(0, 5), self.x[:5])
            with self.assertRaisesRegex(DataError, message):
                file.read(5, 10)
            self.assertAllEqual(file.read(10, 20), self.x[10:20])  # what is good is still read

    def test_a_component_without_a_value_is_not_a_number(self):
        rows = [[1.0, None], [3.0, 4.0]]
        path = self.parquet({"v": pa.array(rows, pa.list_(pa.float32()))})
        self.assertAllEqual(np.isnan(TableFile.open(path).read(0, 2)), [[0, 1], [0, 0]])

    def test_corrupt_and_empty_files_are_refused(self):
        path = self.parquet({"v": LISTS["fixed"](self.x)})
        with open(path, "r+b") as file:
            file.truncate(os.path.getsize(path) // 2)
        with self.assertRaisesRegex(DataError, "x.parquet cannot be read as a table: "):
            TableFile.open(path)
        empty = self.parquet({"v": pa.array([], pa.list_(pa.float32()))}, "empty.parquet")
        with self.assertRaisesRegex(DataError, "empty.parquet has no rows"):
            TableFile.open(empty)

    def test_a_pass_decodes_once_and_blocks_out_of_order_are_kept(self):
        path = self.parquet({"v": LISTS["fixed"](self.x)}, row_group_size=250)
        with mock.patch.object(table_file, "_BLOCK_BYTES", 50 * DIM * 4):
            file = TableFile.open(path)
        groups = file._groups
        with mock.patch.object(groups, "batches", side_effect=groups.batches) as opened:
            for start in range(0, ROWS, 20):
                file.read(start, start + 20)
            self.assertEqual(opened.call_count, 2)  # one of each row group
            file.read(480, 500)
            self.assertEqual(opened.call_count, 2)
            file.read(0, 10)
            self.assertEqual(opened.call_count, 3)
            self.assertLessEqual(len(file._kept), 8)

    def test_threads_read_the_same_rows(self):
        path = self.parquet({"v": LISTS["list"](self.x)}, row_group_size=90)
        with mock.patch.object(table_file, "_BLOCK_BYTES", 30 * DIM * 4):
            file = TableFile.open(path)
        starts = np.random.default_rng(1).permutation(np.repeat(np.arange(0, ROWS, 25), 4))
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            blocks = list(pool.map(lambda start: file.read(start, start + 25), starts))
        for start, block in zip(starts, blocks, strict=True):
            self.assertAllEqual(block, self.x[start : start + 25])

    def test_files_of_several_kinds_are_one_matrix(self):
        paths = [
            self.parquet({"v": LISTS["list"](self.x[:100])}),
            self.arrow({"v": LISTS["fixed"](self.x[100:300])}, "y.arrow", pa.ipc.new_stream),
            self.path("z.npy"),
        ]
        np.save(paths[2], self.x[300:])
        embeddings = Embeddings.open(paths)
        self.assertAllEqual(embeddings.read(0, ROWS), self.x)
        self.assertEqual(embeddings.where(120), f"row 20 of {paths[1]}")
        with self.assertRaisesRegex(DataError, "z.npy has no columns"):
            Embeddings.open(paths, column="v")


if __name__ == "__main__":
    tf.test.main()
