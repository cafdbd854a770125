"""Parts of work: their sizes, and which worker makes which."""

import os

import numpy as np
import tensorflow as tf

from dc_tf.distributed.collectives import ALONE
from dc_tf.distributed.parts import all_missing, own_missing, part_rows


class Rank:
    """One of several workers that all see the same files."""

    def __init__(self, rank, size):
        self.rank, self.size = rank, size

    def broadcast(self, tensor, root=0):
        return tf.convert_to_tensor(tensor)


class PartsTest(tf.test.TestCase):
    def files(self, parts):
        return [[os.path.join(self.get_temp_dir(), f"{n}.{kind}") for kind in "ab"] for n in parts]

    def test_a_part_is_missing_until_all_its_files_are_there(self):
        files = self.files(range(3))
        for path in (*files[1], files[2][0]):
            open(path, "w").close()
        self.assertAllEqual(all_missing(files, ALONE), [0, 2])

    def test_workers_divide_what_is_missing_evenly(self):
        files = self.files(range(10, 21))
        for path in files[3]:
            open(path, "w").close()
        for size in (1, 2, 3, 16):
            own = [own_missing(files, Rank(rank, size)) for rank in range(size)]
            self.assertAllEqual(np.concatenate(own), [0, 1, 2, *range(4, 11)])
            self.assertLessEqual(max(map(len, own)) - min(map(len, own)), 1)

    def test_nothing_to_do_is_nothing_for_everyone(self):
        self.assertEmpty(own_missing([], Rank(1, 2)))

    def test_parts_are_a_share_of_the_rows_within_bounds(self):
        self.assertEqual(part_rows(6400, most=1000), 100)
        self.assertEqual(part_rows(10**9, most=1000), 1000)
        self.assertEqual(part_rows(50, most=1000), 1)
        self.assertEqual(part_rows(50, most=1000, multiple=8), 8)
        self.assertEqual(part_rows(50, most=1000, least=30), 30)
        self.assertEqual(part_rows(50, most=20, least=30), 20)


if __name__ == "__main__":
    tf.test.main()
