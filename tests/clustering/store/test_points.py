"""Points: arrays, parts of them, and reading one block ahead."""

import threading

import numpy as np
import scipy.sparse
import tensorflow as tf

from dc_tf.clustering.store.points import DTYPES, Subset, as_points, chunks
from dc_tf.errors import DataError


def numbers(rows, dim, dtype=np.float32):
    return np.arange(rows * dim).reshape(rows, dim).astype(dtype)


class Watched:
    """Points that record what is read of them, and fail at a row."""

    dim, dtype = 1, np.dtype(np.float32)

    def __init__(self, rows, fails_at=None):
        self.rows = rows
        self.reads = {start: threading.Event() for start in range(rows)}
        self._fails_at = fails_at

    def read(self, start, stop):
        self.reads[start].set()
        if start == self._fails_at:
            raise DataError(f"row {start} is lost")
        return np.arange(start, stop, dtype=np.float32)[:, None]


class PointsTest(tf.test.TestCase):
    def test_rows_of_an_array_come_in_the_type_they_are_stored_in(self):
        for dtype in DTYPES:
            x = numbers(7, 3, dtype)
            points = as_points(x)
            self.assertEqual((points.rows, points.dim, points.dtype), (7, 3, dtype))
            for ours, theirs in (
                (points.read(2, 5), x[2:5]),
                (points.take([6, 0, 0]), x[[6, 0, 0]]),
            ):
                self.assertEqual(ours.dtype, dtype)
                self.assertAllEqual(ours, theirs)
            self.assertAllEqual(points.read(5, 99), x[5:])

    def test_what_numpy_takes_for_an_array_is_one(self):
        x = numbers(7, 3)
        for source in (x.tolist(), tf.constant(x), np.ma.masked_array(x)):
            self.assertAllEqual(as_points(source).read(2, 5), x[2:5])

    def test_what_is_no_array_is_refused_by_its_name(self):
        sparse = scipy.sparse.csr_matrix(numbers(7, 3))
        for bad, name in ((sparse, "csr_matrix"), ("x.npy", "str"), ([["a"]], "list")):
            with self.assertRaisesRegex(DataError, f"points are a {name}"):
                as_points(bad)

    def test_values_that_are_masked_and_rows_of_different_length_are_refused(self):
        x = numbers(4, 3)
        with self.assertRaisesRegex(DataError, "masked values"):
            as_points(np.ma.masked_equal(x, 5))
        with self.assertRaisesRegex(DataError, "no array of numbers"):
            as_points([[1.0, 2.0], [3.0]])

    def test_arrays_of_the_other_byte_order_are_read_in_this_machines(self):
        x = numbers(7, 3)
        for dtype in (">f2", ">f4", ">f8"):
            points = as_points(x.astype(dtype))
            for rows in (points.read(2, 5), points.take([2, 3, 4])):
                self.assertEqual(rows.dtype, np.dtype(dtype).newbyteorder("="))
                self.assertAllEqual(rows, x[2:5])

    def test_arrays_that_are_no_floating_matrix_are_refused(self):
        x = numbers(4, 3)
        for bad in (x[0], x[None], x[:, :0], x.astype(int), x.astype(bool), x.astype(complex)):
            with self.assertRaisesRegex(DataError, "matrix|convert them"):
                as_points(bad)
        for dtype in (np.longdouble, object, "U5"):
            with self.assertRaisesRegex(DataError, "one of float16, bfloat16, float32, float64"):
                as_points(x.astype(dtype))

    def test_rows_in_any_order_of_memory_are_the_same(self):
        x = numbers(6, 4)
        for view in (np.asfortranarray(x), np.repeat(x, 2, axis=0)[::2], x[::-1][::-1]):
            self.assertAllEqual(as_points(view).read(1, 5), x[1:5])
            self.assertAllEqual(as_points(view).take(np.array([3, 2])), x[[3, 2]])

    def test_a_subset_of_a_subset_has_rows_of_the_source(self):
        x = numbers(20, 3, np.float16)
        positions = np.array([1, 4, 4, 9, 17])
        outer = Subset(as_points(x), positions)
        inner = Subset(outer, np.array([4, 1, 0]))
        self.assertEqual((inner.rows, inner.dim, inner.dtype), (3, 3, np.float16))
        self.assertAllEqual(outer.read(1, 4), x[[4, 4, 9]])
        self.assertAllEqual(inner.read(0, 3), x[[17, 4, 1]])
        self.assertAllEqual(inner.take(np.array([2])), x[[1]])
        self.assertEqual(Subset(as_points(x), positions[:0]).read(0, 0).shape, (0, 3))


class ChunksTest(tf.test.TestCase):
    def test_chunks_are_all_rows_in_order(self):
        x = numbers(10, 2)
        for size in (1, 3, 5, 10, 99):
            starts, blocks = zip(*chunks(as_points(x), size), strict=True)
            self.assertEqual(starts, tuple(range(0, 10, size)))
            self.assertAllEqual(np.concatenate(blocks), x)
        found = [(start, len(block)) for start, block in chunks(as_points(x), 3, 2, 9)]
        self.assertEqual(found, [(2, 3), (5, 3), (8, 1)])
        self.assertEmpty(list(chunks(as_points(x[:0]), 3)))
        self.assertEmpty(list(chunks(as_points(x), 3, 10)))

    def test_the_next_block_is_read_while_one_is_used(self):
        points = Watched(4)
        for start, _ in chunks(points, 1):
            if start < 3:
                self.assertTrue(points.reads[start + 1].wait(timeout=30))
            self.assertFalse(any(points.reads[row].is_set() for row in range(start + 2, 4)))

    def test_what_fails_in_the_reading_thread_is_raised_where_the_rows_are_used(self):
        seen = []
        with self.assertRaisesRegex(DataError, "row 2 is lost"):
            for start, _ in chunks(Watched(4, fails_at=2), 1):
                seen.append(start)
        self.assertEqual(seen, [0, 1])

    def test_a_reader_that_is_left_in_the_middle_ends_its_thread(self):
        before = threading.active_count()
        reading = chunks(Watched(4), 1)
        next(reading)
        self.assertGreater(threading.active_count(), before)
        reading.close()
        self.assertEqual(threading.active_count(), before)


if __name__ == "__main__":
    tf.test.main()
