"""Matrices in `.npz` archives: read by position, or as a whole where they are compressed."""

import zipfile
from unittest import mock

import numpy as np
import tensorflow as tf
from npy_folder import FolderTest

from dc_tf.clustering.store import npz_file
from dc_tf.clustering.store.embeddings import Embeddings
from dc_tf.clustering.store.npz_file import is_npz
from dc_tf.errors import DataError


class NpzFileTest(FolderTest):
    def setUp(self):
        super().setUp()
        self.x = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)

    def savez(self, name="x.npz", save=np.savez, **arrays):
        save(self.path(name), **arrays)
        return self.path(name)

    def test_the_only_matrix_is_read_by_position_and_compressed_as_a_whole(self):
        names = np.array([f"{i}.jpg" for i in range(60)])
        for save in (np.savez, np.savez_compressed):
            rows = Embeddings.open(
                [self.savez(save=save, x=self.x, names=names, ids=np.arange(60))]
            )
            self.assertEqual((rows.rows, rows.dim, rows.dtype), (60, 5, np.float32))
            self.assertAllEqual(rows.read(10, 40), self.x[10:40])
            self.assertAllEqual(rows.take([59, 0, 3]), self.x[[59, 0, 3]])

    def test_an_array_is_named_where_there_are_several(self):
        path = self.savez(a=self.x, b=2 * self.x)
        self.assertAllEqual(Embeddings.open([path], "b").read(0, 60), 2 * self.x)
        for column, message in (
            (None, "matrices a, b; name one"),
            ("c", "no array c; it has a, b"),
        ):
            with self.assertRaisesRegex(DataError, message):
                Embeddings.open([path], column)

    def test_archives_without_a_matrix_are_refused_with_what_they_have(self):
        for save in (np.savez, np.savez_compressed):
            for arrays, message in (
                ({"labels": np.arange(3)}, "labels|int64"),
                ({"a": np.arange(3), "b": np.zeros(4)}, "no matrix .* among a, b"),
            ):
                with self.assertRaisesRegex(DataError, message):
                    Embeddings.open([self.savez(save=save, **arrays)])

    def test_a_compressed_matrix_larger_than_memory_is_refused(self):
        rows = Embeddings.open([self.savez(save=np.savez_compressed, x=self.x)])
        with mock.patch.object(npz_file, "free_memory", return_value=100):
            with self.assertRaisesRegex(DataError, "takes 1.33 kB of memory, 100 B are free"):
                rows.read(0, 1)

    def test_other_zip_files_are_none(self):
        with zipfile.ZipFile(self.path("x.pt"), "w") as archive:
            archive.writestr("archive/data.pkl", b"x")
        self.assertFalse(is_npz(self.path("x.pt")))
        with self.assertRaisesRegex(DataError, r"a zip archive .* or a PyTorch file"):
            Embeddings.open([self.path("x.pt")])


if __name__ == "__main__":
    tf.test.main()
