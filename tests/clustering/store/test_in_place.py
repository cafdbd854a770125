"""Rewriting in place: whatever happens on the way, every row goes through the map once."""

import itertools
import os
import shutil
import tempfile
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
from crash_points import killed_at

from dc_tf.clustering.store import in_place as in_place_lib
from dc_tf.clustering.store.feature_store import FeatureStore
from dc_tf.clustering.store.in_place import map_in_place
from dc_tf.errors import DataError

ROWS, CHUNK = 24, 8
# Two chunks; the second block is a half one.
BLOCK_BYTES = 2 * CHUNK * 3 * 4


def moved(rows):
    """A map that shows in the result if it is applied twice, or to other chunks."""
    return 3 * rows + len(rows)


def never(rows):
    raise AssertionError("the map is applied again")


class RewriteTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.path = os.path.join(tempfile.mkdtemp(dir=self.get_temp_dir()), "store")
        self.x = np.random.default_rng(0).normal(size=(ROWS, 3)).astype(np.float32)
        self.enter_context(mock.patch.object(in_place_lib, "BLOCK_BYTES", BLOCK_BYTES))
        self.enter_context(mock.patch.object(os, "fsync"))  # slow, and a kill does not need it
        self.raw = self.path + "-raw"
        store = FeatureStore.create(self.raw, ROWS, 3, first_row=70, dtype="float32")
        store.write(0, self.x)
        store.flush()
        self.begin()

    def begin(self):
        shutil.rmtree(self.path, ignore_errors=True)
        shutil.copytree(self.raw, self.path)

    def resume(self, function=moved, name="moved"):
        store = FeatureStore.open(self.path)
        map_in_place(store, function, name, CHUNK)
        return store

    def assert_moved(self, message=None):
        self.assertEqual(os.listdir(self.path), os.listdir(self.raw), message)
        store = FeatureStore.open(self.path)
        store.check_complete()
        self.assertEqual((store.made_by, store.first_row), ("moved", 70), message)
        self.assertAllEqual(store.read(0, ROWS), 3 * self.x + CHUNK, message)

    def test_every_row_is_what_the_map_makes_of_it(self):
        store = self.resume()
        self.assert_moved()
        self.assertAllEqual(store.read(0, ROWS), 3 * self.x + CHUNK)

    @pytest.mark.slow
    def test_killed_at_any_touch_of_the_disk_it_resumes_to_the_same_bytes(self):
        for n in itertools.count():
            self.begin()
            if killed_at(n, self.resume):
                break
            self.resume()
            self.assert_moved(n)
        self.assert_moved()
        self.assertGreater(n, 40)

    def test_killed_again_and_again_it_still_ends(self):
        kills = 0
        while not killed_at(14, self.resume):  # a block takes 22, and 12 of them to be kept
            kills += 1
        self.assert_moved()
        self.assertGreater(kills, 1)

    def test_what_is_finished_is_not_done_again(self):
        self.resume()
        self.resume(never)
        self.assert_moved()

    def test_rows_of_one_map_do_not_go_through_another(self):
        for n in (10**6, 25):
            killed_at(n, self.resume)
            with self.assertRaisesRegex(DataError, "are already mapped by moved"):
                self.resume(never, "other")

    def test_new_rows_of_another_map_that_were_not_used_yet_are_not_used(self):
        # Killed when the first block is ready and the store does not know of it.
        n = next(n for n in itertools.count() if self.is_ready_after(n))
        self.begin()
        killed_at(n, self.resume)
        self.resume(lambda rows: 5 * rows, "other")
        self.assertAllEqual(FeatureStore.open(self.path).read(0, ROWS), 5 * self.x)

    def is_ready_after(self, n):
        self.begin()
        killed_at(n, self.resume)
        try:
            block = FeatureStore.open(os.path.join(self.path, "mapping"))
        except DataError:
            return False
        return block.written == block.rows

    def test_a_map_that_fails_at_once_leaves_the_rows_as_they_are(self):
        with self.assertRaisesRegex(DataError, "row 70 are not finite"):
            self.resume(lambda rows: rows + np.nan, "broken")
        self.assertAllEqual(FeatureStore.open(self.path).read(0, ROWS), self.x)
        self.resume()
        self.assert_moved()

    def test_a_map_that_fails_later_leaves_a_store_that_says_so(self):
        first = iter([True, True])
        with self.assertRaisesRegex(DataError, "row 86 are not finite"):
            self.resume(lambda rows: moved(rows) if next(first, False) else rows + np.nan)
        with self.assertRaisesRegex(DataError, "16 of 24 rows are mapped by moved"):
            FeatureStore.open(self.path).check_complete()
        self.resume()
        self.assert_moved()

    def test_a_store_that_is_not_complete_or_empty(self):
        store = FeatureStore.create(self.path, 4, 3)
        with self.assertRaisesRegex(DataError, "0 of 4 rows"):
            map_in_place(store, never, "moved", CHUNK)
        store = FeatureStore.create(self.path, 0, 3)
        map_in_place(store, never, "moved", CHUNK)
        self.assertEqual(FeatureStore.open(self.path).made_by, "moved")


if __name__ == "__main__":
    tf.test.main()
