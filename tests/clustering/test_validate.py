"""The look at all embeddings: which they are, however divided, and which row is bad."""

import os
import tempfile

import numpy as np
import tensorflow as tf
import workers

from dc_tf.clustering import validate as validate_lib
from dc_tf.clustering.store.embeddings import Embeddings, find_files
from dc_tf.clustering.validate import validate
from dc_tf.distributed.collectives import Solo
from dc_tf.errors import DataError


def inspect_share(comm, pattern):
    """The checksum, or the message, of one worker; the first has fewer rows than the second."""
    embeddings = Embeddings.open(find_files(pattern))
    cut = embeddings.rows // 3
    part = embeddings.part(*((0, cut) if comm.rank == 0 else (cut, embeddings.rows)))
    try:
        return validate(part, comm)
    except DataError as error:
        return str(error)


def inspect_while_one_cannot_read(comm, pattern):
    embeddings = Embeddings.open(find_files(pattern))
    if comm.rank == 1:
        embeddings.read = lambda start, stop: _fail()
    try:
        validate(embeddings, comm)
    except DataError as error:
        return str(error)


def _fail():
    raise DataError("the disk of this worker is gone")


class InspectionTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = tempfile.mkdtemp(dir=self.get_temp_dir())
        self.pattern = os.path.join(self.folder, "*.npy")
        self.x = np.random.default_rng(0).normal(size=(90, 5)).astype(np.float32)

    def save(self, x, *cuts):
        for name in os.listdir(self.folder):
            os.remove(os.path.join(self.folder, name))
        for i, part in enumerate(np.split(x, cuts)):
            np.save(os.path.join(self.folder, f"{i}.npy"), part)
        return Embeddings.open(find_files(self.pattern))

    def refusal(self, embeddings):
        with self.assertRaises(DataError) as caught:
            validate(embeddings, Solo())
        return str(caught.exception)

    def test_the_checksum_is_of_the_rows_and_not_of_how_they_are_divided(self):
        expected = validate(self.save(self.x), Solo())
        self.assertEqual(validate(self.save(self.x, 10, 70), Solo()), expected)
        self.assertEqual(workers.on_workers(2, inspect_share, self.pattern), [expected] * 2)
        validate_lib._BLOCK_BYTES, before = 100, validate_lib._BLOCK_BYTES
        self.addCleanup(setattr, validate_lib, "_BLOCK_BYTES", before)
        self.assertEqual(validate(self.save(self.x), Solo()), expected)

    def test_the_checksum_changes_with_a_value_a_row_or_their_order(self):
        swapped_rows, swapped_columns, changed = self.x.copy(), self.x.copy(), self.x.copy()
        swapped_rows[[3, 80]] = self.x[[80, 3]]
        swapped_columns[7] = self.x[7][[1, 0, 2, 3, 4]]
        changed[50, 2] = np.nextafter(changed[50, 2], np.float32(9))
        versions = [self.x, swapped_rows, swapped_columns, changed, self.x[:-1]]
        versions.append(self.x.astype(np.float16))
        self.assertLen({validate(self.save(x), Solo()) for x in versions}, len(versions))

    def test_a_row_that_is_not_finite_is_named_by_file_row_and_component(self):
        for dtype in (np.float16, tf.bfloat16.as_numpy_dtype, np.float32, np.float64):
            for value in (np.nan, np.inf, -np.inf):
                x = self.x.astype(dtype)
                x[75, 3] = value
                message = self.refusal(self.save(x, 20, 60))
                self.assertRegex(message, rf"row 15 of .*2\.npy is not finite.*3 is {value}; leave")

    def test_a_row_that_cannot_be_squared_in_float32_is_refused(self):
        for dtype in (np.float32, np.float64):
            x = self.x.astype(dtype)
            x[4] = 1e20
            message = self.refusal(self.save(x))
            self.assertRegex(message, "row 4 of .* too large to be squared.*multiply the rows")
            self.assertEqual(len(validate(self.save(x), Solo(), any_size=True)), 16)

    def test_rows_that_are_all_too_small_are_refused(self):
        for dtype, size in ((np.float32, 1e-30), (np.float64, 1e-30), (np.float64, 1e-300)):
            x = (self.x.astype(np.float64) * size).astype(dtype)
            message = self.refusal(self.save(x))
            self.assertRegex(
                message, "the largest component .* too small to be squared.*multiply the rows"
            )
            self.assertEqual(len(validate(self.save(x), Solo(), any_size=True)), 16)
            x[7, 2] = 1e-10
            validate(self.save(x), Solo())
        validate(self.save(np.zeros((5, 2))), Solo())

    def test_all_workers_name_the_bad_row_of_one(self):
        self.x[80, 0] = np.nan
        self.save(self.x, 50)
        first, second = workers.on_workers(2, inspect_share, self.pattern)
        self.assertRegex(first, r"row 30 of .*1\.npy is not finite")
        self.assertEqual(first, second)

    def test_a_worker_that_cannot_read_ends_the_others(self):
        self.save(self.x)
        messages = workers.on_workers(2, inspect_while_one_cannot_read, self.pattern)
        self.assertEqual(messages[0], "worker 1 cannot read its embeddings; see its log.")
        self.assertEqual(messages[1], "the disk of this worker is gone")

    def test_progress_counts_own_rows(self):
        counts = []
        validate(self.save(self.x), Solo(), counts.append)
        self.assertEqual(sum(counts), 90)


if __name__ == "__main__":
    tf.test.main()
