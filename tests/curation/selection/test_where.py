"""Conditions on labels, classes, sources and metadata."""

import os
import shutil
import tempfile
import unittest
from unittest import mock

import numpy as np
import pictures

from dc_tf.curation.selection import where
from dc_tf.curation.selection.conditions import Condition
from dc_tf.curation.selection.where import matching_rows
from dc_tf.data.storage.manifest import Dataset
from dc_tf.data.storage.writer import DatasetWriter
from dc_tf.errors import ConfigError


class ConditionTest(unittest.TestCase):
    def holds(self, text, value):
        return Condition.parse(text).holds(value)

    def test_texts_are_taken_apart(self):
        for text, expected in [
            ("meta/hashtag=sea", ("meta/hashtag", "=", "sea")),
            ("meta/a b >= 3", ("meta/a b", ">=", "3")),
            ("label!=2", ("label", "!=", "2")),
            ("source=a=b", ("source", "=", "a=b")),
            ("class=", ("class", "=", "")),
        ]:
            found = Condition.parse(text)
            self.assertEqual((found.name, found.comparison, found.value), expected)
        for text in ("", "hashtag=sea", "meta/=3", "label", "meta/x~3", "label 3"):
            with self.assertRaisesRegex(ConfigError, f"--where={text} is not a condition"):
                Condition.parse(text)

    def test_numbers_compare_as_numbers_and_texts_as_texts(self):
        self.assertTrue(self.holds("meta/x=3", 3.0))
        self.assertTrue(self.holds("meta/x<10", 9))
        self.assertTrue(self.holds("meta/x<10", "9"))
        self.assertFalse(self.holds("meta/x<10", "nine"))
        self.assertTrue(self.holds("meta/x<b", "a"))
        self.assertFalse(self.holds("meta/x=Sea", "sea"))
        self.assertTrue(self.holds("meta/x>=-1.5", -1.5))

    def test_one_of_several_values_is_enough_and_none_may_be_equal(self):
        self.assertTrue(self.holds("meta/x=sea", ["dog", "sea"]))
        self.assertFalse(self.holds("meta/x!=sea", ["dog", "sea"]))
        self.assertTrue(self.holds("meta/x!=sea", ["dog", "cat"]))

    def test_a_row_without_a_value_is_only_unequal(self):
        self.assertTrue(self.holds("meta/x!=sea", None))
        for comparison in ("=", "<", ">="):
            self.assertFalse(self.holds(f"meta/x{comparison}1", None))


class MatchingRowsTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        path = os.path.join(folder, "data")
        with DatasetWriter(path, ["cat", "dog"]) as writer:
            for row in range(10):
                meta = {"year": 1980 + row, "hashtag": ["sea", "sun"] if row % 3 else "dog"}
                label = None if row == 4 else row % 2
                writer.write(pictures.encoded(row), label, f"{row}.png", meta)
        self.dataset = Dataset.open(path)

    def found(self, *texts, rows=range(10)):
        rows = np.array(rows)
        found = matching_rows(self.dataset, rows, [Condition.parse(text) for text in texts])
        self.assertEqual(found.corrupt, 0)
        return rows[found.kept].tolist()

    def test_all_conditions_hold(self):
        self.assertEqual(self.found("meta/hashtag=dog"), [0, 3, 6, 9])
        self.assertEqual(self.found("meta/hashtag=sun", "meta/year>=1985"), [5, 7, 8])
        self.assertEqual(self.found("source!=7.png", "meta/year>1986"), [8, 9])
        self.assertEqual(self.found("meta/none=1"), [])

    def test_labels_and_classes_need_no_records(self):
        os.remove(self.dataset.shard_path(0))
        self.assertEqual(self.found("class=dog"), [1, 3, 5, 7, 9])
        self.assertEqual(self.found("label=0"), [0, 2, 6, 8])
        self.assertEqual(self.found("class!=dog", "label!=0"), [4])

    def test_only_the_given_rows_are_looked_at(self):
        self.assertEqual(self.found("meta/hashtag=dog", "label=1", rows=[9, 3, 2]), [9, 3])

    def test_a_killed_call_reads_only_the_parts_that_are_missing(self):
        folder, rows = os.path.join(os.path.dirname(self.dataset.path), "kept"), np.arange(10)
        conditions, states = [Condition.parse("meta/hashtag=dog")], where._states
        read = []

        def killed_at_the_third(reader, part, *args):
            read.append(part.tolist())
            if len(read) == 3:
                raise KeyboardInterrupt
            return states(reader, part, *args)

        small = mock.patch.object(where, "_LEAST_ROWS", 2)
        with small, mock.patch.object(where, "_states", killed_at_the_third):
            with self.assertRaises(KeyboardInterrupt):
                matching_rows(self.dataset, rows, conditions, folder)
            found = matching_rows(self.dataset, rows, conditions, folder)
        self.assertEqual(rows[found.kept].tolist(), [0, 3, 6, 9])
        self.assertEqual(read, [[0, 1], [2, 3], [4, 5], [4, 5], [6, 7], [8, 9]])
        other = matching_rows(self.dataset, rows, [Condition.parse("meta/year<1982")], folder)
        self.assertEqual(rows[other.kept].tolist(), [0, 1])

    def test_a_corrupt_row_is_counted_and_left_out(self):
        _, ((offset, _, _),) = self.dataset.locate([3])
        with open(self.dataset.shard_path(0), "r+b") as file:
            file.seek(offset + 20)
            file.write(b"\0\1\2")
        rows = np.arange(10)
        found = matching_rows(self.dataset, rows, [Condition.parse("meta/hashtag=dog")])
        self.assertEqual(rows[found.kept].tolist(), [0, 6, 9])
        self.assertEqual(found.corrupt, 1)


if __name__ == "__main__":
    unittest.main()
