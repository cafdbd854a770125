"""Tables of near-duplicates."""

import os
import tempfile

import clustered
import pyarrow
import pyarrow.parquet
import tensorflow as tf

from dc_tf import atomic
from dc_tf.data.storage.manifest import Dataset
from dc_tf.errors import ConfigError
from dc_tf.report.sections.copies import find, read


class CopiesTest(tf.test.TestCase):
    def path(self, name):
        return os.path.join(tempfile.mkdtemp(dir=self.get_temp_dir()), name)

    def test_groups_of_both_formats_the_largest_and_the_keeper_first(self):
        columns = {
            "row": [9, 4, 1, 7, 2],
            "group": [5, 5, 0, 5, 0],
            "keeper": [False, False, True, True, False],
            "source": list("abcde"),
        }
        parquet, csv = self.path("duplicates.parquet"), self.path("found.csv")
        pyarrow.parquet.write_table(pyarrow.table(columns), parquet)
        with open(csv, "w") as file:
            file.write("row,group,keeper\n9,5,false\n4,5,false\n1,0,true\n7,5,true\n2,0,false\n")
        for path in (parquet, os.path.dirname(parquet), csv):
            found = read(path, 10)
            self.assertEqual((found.count, found.rows), (2, 5))
            self.assertEqual([group.rows for group in found.groups], [[7, 4, 9], [1, 2]])
            self.assertEqual(found.groups[0].size, 3)

    def test_the_newest_complete_output_over_the_data_set_is_found(self):
        run = tempfile.mkdtemp(dir=self.get_temp_dir())
        data = Dataset.open(clustered.write_data(os.path.join(run, "data"), rows=4))
        self.assertIsNone(find(run, data))
        outputs = ("old", data.fingerprint(), 1), ("new", data.fingerprint(), 2), ("other", "x", 3)
        for name, owner, time in outputs:
            os.makedirs(os.path.join(run, name))
            atomic.write_json(os.path.join(run, name, "settings.json"), {"data": owner})
            result = os.path.join(run, name, "duplicates.json")
            atomic.write_json(result, {})
            os.utime(result, (time, time))
        os.makedirs(os.path.join(run, "unfinished"))
        settings = os.path.join(run, "unfinished", "settings.json")
        atomic.write_json(settings, {"data": data.fingerprint()})
        self.assertEqual(find(run, data), os.path.join(run, "new"))
        self.assertIsNone(find(None, data))

    def test_what_is_no_such_table_is_refused(self):
        for name, text in (("a.csv", "row\n1\n"), ("b.csv", "row,group\nx,y\n"), ("c.parquet", "")):
            path = self.path(name)
            with open(path, "w") as file:
                file.write(text)
            with self.assertRaisesRegex(ConfigError, "--duplicates=.* no table in Parquet or CSV"):
                read(path, 10)
        with self.assertRaisesRegex(ConfigError, "no table"):
            read(self.path("none.parquet"), 10)

    def test_rows_of_another_data_set_are_refused(self):
        path = self.path("found.csv")
        with open(path, "w") as file:
            file.write("row,group\n3,0\n10,0\n")
        with self.assertRaisesRegex(ConfigError, "has row 10, but the data set has rows 0..9"):
            read(path, 10)


if __name__ == "__main__":
    tf.test.main()
