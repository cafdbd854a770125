"""Views: data sets that list rows of another one, and what they become when they are copied."""

import json
import os
import shutil
import tempfile
import unittest

import numpy as np
import pictures

from dc_tf.commands.main import main
from dc_tf.data.convert import convert
from dc_tf.data.inspection import inspect
from dc_tf.data.storage import processes
from dc_tf.data.storage.example import Example
from dc_tf.data.storage.index_tfrecords import index_tfrecords
from dc_tf.data.storage.manifest import MANIFEST, Dataset
from dc_tf.data.storage.materialize import materialize
from dc_tf.data.storage.reader import RowReader
from dc_tf.data.storage.schema import Features
from dc_tf.data.storage.tfrecord import frame
from dc_tf.data.storage.verify import describe, verify
from dc_tf.data.storage.view import write_view
from dc_tf.data.storage.writer import DatasetWriter
from dc_tf.errors import ConfigError, DataError

CHOSEN = [13, 2, 7, 8, 0, 11]


class ViewCase(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.folder)
        self.base = self.made("base")

    def path(self, *names):
        return os.path.join(self.folder, *names)

    def made(self, name, rows=14, seed=0):
        with DatasetWriter(self.path(name), ["a", "b", "c"], rows_per_shard=4) as writer:
            for row in range(rows):
                meta = {"camera": f"c{row}", "latitude": row / 2}
                label = None if row == 7 else row % 3
                writer.write(pictures.encoded(seed + row), label, f"{row}.png", meta)
        return Dataset.open(self.path(name))

    def view(self, rows=CHOSEN, name="view", **options):
        return write_view(self.base, rows, self.path(name), **options)


class ViewTest(ViewCase):
    def test_its_rows_are_those_that_are_listed_in_their_order(self):
        view = self.view()
        self.assertEqual(view.rows, 6)
        self.assertEqual(RowReader(view).read(range(6)), RowReader(self.base).read(CHOSEN))
        labels = self.base.labels()
        np.testing.assert_array_equal(view.labels(), labels[CHOSEN])
        self.assertEqual(view.class_names, self.base.class_names)
        np.testing.assert_array_equal(view.locate([5, 0, 5])[1], self.base.locate([11, 13, 11])[1])
        self.assertRegex(view.describe(2), r"^row 2 \(.*base/shard-00001-of-00004.tfrecord, offset")

    def test_a_row_outside_is_named_with_the_view(self):
        view = self.view()
        for row in (-1, 6):
            with self.assertRaisesRegex(
                DataError, f"row {row} is not in .*view, which has rows 0..5"
            ):
                view.locate([row])

    def test_what_it_counts_is_about_its_own_rows(self):
        report = inspect(self.view([2, 3, 5]).path)
        self.assertEqual((report["rows"], report["shards"]), (3, 2))
        lengths = self.base.locate([2, 3, 5])[1][:, 1]
        self.assertEqual(report["bytes"], lengths.sum() + 3 * 16)
        self.assertEqual(report["record_bytes"]["least"], lengths.min())
        self.assertEqual(report["labels"]["top"], {"c": 2, "a": 1})
        self.assertEqual(report["view_of"], self.base.path)

    def test_its_fingerprint_is_that_of_its_rows(self):
        first = self.view().fingerprint()
        self.assertEqual(self.view(name="again").fingerprint(), first)
        self.assertNotEqual(self.view(sorted(CHOSEN), "sorted").fingerprint(), first)
        self.made("other", seed=100)
        other = write_view(Dataset.open(self.path("other")), CHOSEN, self.path("of_other"))
        self.assertNotEqual(other.fingerprint(), first)

    def test_the_names_of_its_files_are_written_where_asked_for_and_go_with_it(self):
        self.view(with_sources=True)
        with open(self.path("view", "sources.jsonl")) as file:
            lines = list(map(json.loads, file))
        self.assertEqual(lines[:2], [{"row": 0, "source": "13.png"}, {"row": 1, "source": "2.png"}])
        self.assertEqual(len(lines), len(CHOSEN))
        self.view(overwrite=True)
        self.assertEqual(sorted(os.listdir(self.path("view"))), [MANIFEST, "rows.npy"])

    def test_a_view_of_a_view_lists_rows_of_the_shards(self):
        view = write_view(self.view(), [4, 1], self.path("nested"))
        np.testing.assert_array_equal(view.row_list.row_ids, [0, 2])
        self.assertEqual(view.base.path, self.base.path)
        shutil.rmtree(self.path("view"))
        self.assertEqual(pictures.sources(self.path("nested")), ["0.png", "2.png"])

    def test_neighbours_are_moved_together(self):
        for place in ("view", "views/small", "base/inside"):
            fingerprint = self.view(name=place).fingerprint()
            os.rename(self.folder, moved := f"{self.folder}-moved")
            try:
                opened = Dataset.open(os.path.join(moved, place))
                self.assertEqual(opened.fingerprint(), fingerprint, place)
            finally:
                os.rename(moved, self.folder)

    def test_one_that_is_far_from_its_base_may_be_moved_alone(self):
        self.made("here/base")
        write_view(Dataset.open(self.path("here/base")), [3], self.path("there/view"))
        os.rename(self.path("there/view"), self.path("elsewhere"))
        self.assertEqual(pictures.sources(self.path("elsewhere")), ["3.png"])

    def test_a_base_that_is_gone_or_changed_is_named(self):
        self.view()
        os.rename(self.base.path, self.path("gone"))
        with self.assertRaisesRegex(DataError, "view lists rows of .*base, which is not there"):
            Dataset.open(self.path("view"))
        self.made("base", seed=1)
        with self.assertRaisesRegex(DataError, "base, which has changed: it had 14 rows, sha256"):
            Dataset.open(self.path("view"))

    def test_a_corrupt_one_is_refused(self):
        self.view()
        manifest = self.path("view", MANIFEST)
        with open(manifest) as file:
            whole = json.load(file)
        damages = [
            ({"rows": 5}, "the manifest says int64 of shape"),
            ({"rows": "6"}, "corrupt"),
            ({"view": None}, "corrupt"),
            ({"view": {**whole["view"], "base": 3}}, "corrupt"),
            ({"view": {**whole["view"], "base": "."}}, "is a view itself"),
            ({"view": {"base": "../base"}}, "corrupt.*fingerprint"),
        ]
        for change, message in damages:
            with open(manifest, "w") as file:
                json.dump({**whole, **change}, file)
            with self.assertRaisesRegex(DataError, message):
                Dataset.open(self.path("view"))
        with open(manifest, "w") as file:
            json.dump(whole, file)
        np.save(self.path("view", "rows.npy"), np.array([0, 1, 2, 3, 4, 99]))
        with self.assertRaisesRegex(DataError, "row 99 is not in .*base"):
            Dataset.open(self.path("view")).labels()

    def test_rows_that_cannot_be_are_refused(self):
        for rows, message in [
            ([], "no row of .*base was chosen"),
            ([1, 14], "row 14 is not in .*base, which has rows 0..13"),
            ([-1, 4], "row -1 is not in"),
            ([3, 1, 3], "row 3 is listed twice"),
            ([0.5], "float64 of shape"),
            ([[1]], "int64 of shape"),
        ]:
            with self.assertRaisesRegex(ConfigError, message):
                self.view(rows)
        self.assertEqual(os.listdir(self.folder), ["base"])

    def test_nothing_is_replaced_unasked_and_never_the_base(self):
        self.view()
        with self.assertRaisesRegex(ConfigError, "not empty"):
            self.view([1])
        self.view([1], overwrite=True)
        self.assertEqual(Dataset.open(self.path("view")).rows, 1)
        for output in (self.base.path, self.path("view")):
            with self.assertRaisesRegex(ConfigError, "is the data set that the rows are of"):
                write_view(Dataset.open(self.path("view")), [0], output, overwrite=True)
        with self.assertRaisesRegex(ConfigError, "is the data set that the rows are of"):
            materialize(Dataset.open(self.path("view")), self.base.path, overwrite=True)
        self.assertEqual(self.base.rows, len(pictures.sources(self.base.path)))

    def test_a_data_set_in_its_place_leaves_nothing_of_it(self):
        self.view()
        with DatasetWriter(self.path("view"), overwrite=True) as writer:
            writer.write(b"x")
        self.assertNotIn("rows.npy", os.listdir(self.path("view")))
        self.assertEqual(Dataset.open(self.path("view")).rows, 1)
        self.assertEqual(Dataset.open(self.base.path).rows, 14)


class VerifyTest(ViewCase):
    def faults(self, view):
        return list(verify(Dataset.open(view.path), progress=False))

    def damage(self, row):
        (shard,), (entry,) = self.base.locate([row])
        with open(self.base.shard_path(shard), "r+b") as file:
            file.seek(entry[0] + 30)
            file.write(b"\0\1\2")
        return int(entry[0])

    def test_only_its_own_rows_count(self):
        view = self.view([2, 3, 5])
        self.damage(1)
        self.damage(12)
        self.assertEqual(self.faults(view), [])
        offset = self.damage(3)
        (fault,) = self.faults(view)
        self.assertEqual((fault.shard, fault.rows), (self.base.shards[0].name, 1))
        self.assertEqual(fault.offset, offset)
        self.assertIn(f"{self.base.shard_path(0)}, 1 rows", describe(fault, view))

    def test_a_shard_that_is_gone_counts_with_the_rows_it_had(self):
        view = self.view([2, 3, 5, 13])
        os.remove(self.base.shard_path(0))
        os.remove(self.base.shard_path(2))
        (fault,) = self.faults(view)
        self.assertEqual((fault.rows, fault.shard), (2, self.base.shards[0].name))

    def test_other_row_ids_are_found(self):
        view = self.view()
        np.save(os.path.join(view.path, "rows.npy"), np.arange(6))
        (fault,) = self.faults(view)
        self.assertEqual((fault.shard, fault.rows), ("rows.npy", 6))
        self.assertIn(os.path.join(view.path, "rows.npy"), describe(fault, view))

    def test_processes_find_the_same(self):
        view = self.view([2, 3, 5])
        self.damage(5)
        threshold = processes._WORTH_A_PROCESS
        self.addCleanup(setattr, processes, "_WORTH_A_PROCESS", threshold)
        processes._WORTH_A_PROCESS = 1
        (fault,) = verify(Dataset.open(view.path), workers=2, progress=False)
        self.assertEqual((fault.rows, fault.shard), (1, self.base.shards[1].name))

    def test_indexes_are_rebuilt_in_the_base_only(self):
        self.view()
        self.assertEqual(main(["index", f"--input={self.path('view')}"]), 2)
        os.remove(self.base.index_path(0))
        self.assertEqual(main(["index", f"--input={self.base.path}"]), 0)
        self.assertEqual(Dataset.open(self.path("view")).labels().tolist(), [1, 2, -1, 2, 0, 2])


class MaterializeTest(ViewCase):
    def test_shards_have_the_same_records(self):
        view = self.view()
        result = materialize(view, self.path("own"), rows_per_file=4, progress=False)
        self.assertEqual(result, {"output": self.path("own"), "rows": 6, "files": 2})
        own = Dataset.open(self.path("own"))
        self.assertEqual(own.class_names, view.class_names)
        self.assertEqual(RowReader(own).read(range(6)), RowReader(view).read(range(6)))
        np.testing.assert_array_equal(own.labels(), view.labels())
        self.assertEqual(list(verify(own, progress=False)), [])
        before = pictures.files(own.path)
        again = materialize(view, self.path("own"), rows_per_file=4, progress=False)
        self.assertEqual((again, pictures.files(own.path)), (result, before))

    def test_records_of_others_get_the_names_of_a_data_set(self):
        path = self.path("theirs.tfrecord")
        with open(path, "wb") as file:
            for row in range(3):
                example = Example()
                example.features.feature["img"].bytes_list.value.append(pictures.encoded(row))
                example.features.feature["class"].int64_list.value.append(row + 1)
                file.write(frame(example.SerializeToString()))
        features = Features("img", "class", "", meta="", label_offset=-1)
        index_tfrecords(path, self.path("theirs"), features, workers=1, progress=False)
        view = write_view(Dataset.open(self.path("theirs")), [2, 0], self.path("view"))
        materialize(view, self.path("own"), progress=False)
        found = pictures.examples(self.path("own"))
        self.assertEqual([example["label"] for example in found], [2, 0])
        self.assertEqual([e["encoded"] for e in found], [pictures.encoded(r) for r in (2, 0)])

    def test_tars_convert_to_the_same_images(self):
        view = self.view()
        tars = self.path("tars")
        result = materialize(view, tars, "webdataset", rows_per_file=4, progress=False)
        self.assertEqual((result["rows"], result["files"]), (6, 2))
        convert(os.path.join(tars, "*.tar"), self.path("back"), workers=1)
        back, there = pictures.examples(self.path("back")), pictures.examples(view.path)
        for name in ("encoded", "label"):
            self.assertEqual([e[name] for e in back], [e[name] for e in there])
        for ours, theirs in zip(back, there, strict=True):
            self.assertEqual((ours["meta"], ours["source"]), (theirs["meta"], theirs["source"]))

    def test_tars_that_are_whole_are_kept_and_others_replaced_when_asked(self):
        view, tars = self.view(), self.path("tars")
        materialize(view, tars, "webdataset", rows_per_file=2, progress=False)
        whole = pictures.files(tars)
        os.remove(os.path.join(tars, "00001.tar"))
        kept = os.stat(os.path.join(tars, "00000.tar")).st_mtime_ns
        materialize(view, tars, "webdataset", rows_per_file=2, progress=False)
        self.assertEqual(pictures.files(tars), whole)
        self.assertEqual(os.stat(os.path.join(tars, "00000.tar")).st_mtime_ns, kept)
        with self.assertRaisesRegex(ConfigError, "holds other tar files.*rows_per_file"):
            materialize(view, tars, "webdataset", rows_per_file=3, progress=False)
        materialize(view, tars, "webdataset", rows_per_file=3, overwrite=True, progress=False)
        self.assertCountEqual(os.listdir(tars), ["00000.tar", "00001.tar", "webdataset.json"])

    def test_settings_that_cannot_work_are_refused(self):
        for options, message in [
            ({"format": "zip"}, "use one of shards, webdataset, folder"),
            ({"rows_per_file": 0}, "must be at least 1"),
        ]:
            with self.assertRaisesRegex(ConfigError, message):
                materialize(self.view(overwrite=True), self.path("own"), **options)


if __name__ == "__main__":
    unittest.main()
