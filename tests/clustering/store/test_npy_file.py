"""Files of a matrix: what can be used is read, what cannot says what would work."""

import contextlib
import os

import numpy as np
import tensorflow as tf
from npy_folder import FolderTest

from dc_tf.clustering.store.embeddings import Embeddings
from dc_tf.clustering.store.npy_file import NpyFile
from dc_tf.errors import DataError

BFLOAT16 = tf.bfloat16.as_numpy_dtype


class UnusableFileTest(FolderTest):
    """Each message is one line and names the file, what it is, and what would work."""

    def refused(self, path, *expected):
        with self.assertRaises(DataError) as caught:
            NpyFile.open(path)
        message = str(caught.exception)
        self.assertNotIn("\n", message)
        for text in (path, *expected):
            self.assertIn(text, message)

    def test_wrong_shapes(self):
        shapes = {(7,): "x[None]", (): "a matrix", (2, 3, 4): "x.reshape", (4, 0): "one number"}
        for shape, advice in shapes.items():
            self.refused(self.save("x.npy", np.zeros(shape, np.float32)), f"shape {shape}", advice)

    def test_wrong_types(self):
        x = np.ones((2, 3))
        for dtype in ("int64", "uint8", "bool", "longdouble", "S3"):
            path = self.save("x.npy", x.astype(dtype))
            self.refused(path, np.dtype(dtype).name, "(2, 3)", "x.astype(np.float32)")
        self.refused(self.save("x.npy", x.astype(np.uint16)), "bfloat16", "x.view")
        self.refused(self.save("x.npy", x.astype(complex)), "complex128", "x.real, x.imag")
        fields = np.zeros((2, 3), [("a", "f4")])
        self.refused(self.save("x.npy", fields), "structured_to_unstructured(x)")

    def test_pickled_objects_are_not_opened(self):
        rows = np.array([np.zeros(2), np.zeros(3)], object)
        self.refused(self.save("x.npy", rows), "object of shape (2,)", "not opened", "np.stack")

    def test_files_that_are_not_whole(self):
        path = self.save("x.npy", np.ones((4, 3), np.float32))
        os.truncate(path, 170)
        self.refused(path, "float32 of shape (4, 3) takes 176 bytes", "has 170", "not complete")
        os.truncate(path, 60)
        self.refused(path, "np.save")
        os.truncate(path, 0)
        self.refused(path, "is empty (0 bytes)")

    def test_text_says_how_its_numbers_are_read(self):
        for text, load in {
            "1 2 3\n": "np.loadtxt('x.csv').astype",
            "1.5,2,-3e-4\n4,nan,6\n": "np.loadtxt('x.csv', delimiter=',').astype",
            "1\t2\n": r"np.loadtxt('x.csv', delimiter='\t').astype",
            "a;b\n1;2\n": "np.loadtxt('x.csv', delimiter=';', skiprows=1).astype",
            "1,5;2,5\r\n3,5;4\r\n": "pandas.read_csv('x.csv', sep=';', decimal=',', header=None)",
            "\ufeffa,b;c\n1,5;2\n": "pandas.read_csv('x.csv', sep=';', decimal=',').to_numpy()",
        }.items():
            with open(self.path("x.csv"), "w", encoding="utf-8") as file:
                file.write(text)
            self.refused(self.path("x.csv"), "is text, not a .npy file", load)

    def test_the_advice_for_a_csv_makes_a_file_that_is_read(self):
        with open(self.path("x.csv"), "w") as file:
            file.write("a;b\n1;2\n3;4\n")
        with self.assertRaises(DataError) as caught:
            NpyFile.open(self.path("x.csv"))
        advice = str(caught.exception).split("save its matrix: ")[1].rstrip(".")
        with contextlib.chdir(self.folder):
            exec(advice, {"np": np})
        rows = NpyFile.open(self.path("x.npy")).open_rows()
        self.assertAllEqual(rows.read(0, 2), [[1, 2], [3, 4]])

    def test_files_that_are_something_else(self):
        np.savez(self.path("x.npz"), np.ones((4, 3)))
        self.refused(self.path("x.npz"), "zip archive", "np.save", "np.load('x.npz')[NAME]")
        for start, kind in {
            b"PAR1\x15\x04": "Parquet",
            b"\x89HDF\r\n\x1a\n": "HDF5",
            b"\x1f\x8b\x08": "gzip",
            b"\x80\x04\x95": "not a .npy file that can be read",
            b"\x93NUMPY\x01\x00\x05\x00 ": "not a .npy file that can be read",
        }.items():
            with open(self.path("x.bin"), "wb") as file:
                file.write(start)
            self.refused(self.path("x.bin"), kind, "np.save")
        os.mkdir(self.path("d"))
        self.refused(self.path("d"), "is a folder", "/d/*.npy")
        self.refused(self.path("none.npy"), "No such file")
        os.mkfifo(self.path("pipe"))
        self.refused(self.path("pipe"), "not a regular file")


class FortranOrderTest(FolderTest):
    def test_columns_that_lie_together_are_read_as_rows(self):
        x = np.arange(60.0).reshape(20, 3)
        for dtype in ("f4", ">f4", "f8", BFLOAT16, "f2"):
            file = NpyFile.open(self.save("x.npy", np.asfortranarray(x.astype(dtype))))
            self.assertTrue(file.by_column)
            rows = file.open_rows()
            self.assertAllEqual(rows.read(3, 20).astype(float), x[3:])
            self.assertAllEqual(rows.read(4, 4), x[4:4])
            self.assertAllEqual(rows.take([7, 0, 19, 7]).astype(float), x[[7, 0, 19, 7]])
        self.assertFalse(NpyFile.open(self.save("y.npy", np.asfortranarray(x[:, :1]))).by_column)

    def test_files_of_both_orders_are_one_matrix(self):
        x = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
        paths = [self.save("a.npy", x[:11]), self.save("b.npy", np.asfortranarray(x[11:]))]
        embeddings = Embeddings.open(paths)
        self.assertAllEqual(embeddings.read(5, 30), x[5:])
        self.assertAllEqual(embeddings.take(np.array([29, 3, 12])), x[[29, 3, 12]])

    def test_a_file_cut_short_is_reported(self):
        path = self.save("x.npy", np.asfortranarray(np.ones((50, 4))))
        rows = NpyFile.open(path).open_rows()
        os.truncate(path, 600)
        with self.assertRaisesRegex(DataError, "x.npy ends at byte"):
            rows.read(0, 50)


if __name__ == "__main__":
    tf.test.main()
