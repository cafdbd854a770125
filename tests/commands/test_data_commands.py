"""convert, index and inspect as they are called: flags, exit codes, and the last line on stdout."""

import contextlib
import io
import json
import os

import numpy as np
import pictures
import tensorflow as tf
from PIL import Image

from dc_tf.commands.main import main
from dc_tf.data.storage.manifest import Dataset


class DataCommandsTest(tf.test.TestCase):
    def call(self, *argv):
        """(exit code, what the last line on stdout says or None, stderr)."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(list(argv))
        lines = out.getvalue().splitlines()
        self.assertNotIn("Traceback", err.getvalue())
        return code, json.loads(lines[-1]) if lines else None, err.getvalue()

    def path(self, name):
        return os.path.join(self.get_temp_dir(), name)

    def converted(self):
        for number in range(10):
            folder = self.path("images")
            pictures.write(folder, f"{'ab'[number % 2]}/{number}.png", pictures.encoded(number % 9))
        pictures.write(self.path("images"), "a/blank.png", b"")
        return self.call(
            "convert", f"--input={self.path('images')}", f"--output={self.path('data')}",
            "--labels_from_folders", "--drop_duplicates", "--drop_blank", "--workers=1",
            "--rows_per_shard=4", "--short_side=8", "--format=png",
        )  # fmt: skip

    def test_convert_tells_what_became_of_the_files(self):
        code, result, err = self.converted()
        self.assertEqual(code, 0, err)
        self.assertEqual((result["rows"], result["rejected"], result["classes"]), (9, 2, 2))
        self.assertRegex(err, "convert: 11/11 images.*images/s, rejected 2")
        self.assertEqual(Dataset.open(self.path("data")).class_names, ("a", "b"))
        with self.assertLogs("absl", "WARNING") as logged:
            self.assertEqual(self.converted()[:2], (0, result))
        self.assertIn("is already complete", logged.output[0])

    def test_splits_encodings_and_ranges_of_values_are_flags(self):
        deep = np.full((9, 9), 1000, np.uint16)
        for split in ("train", "val"):
            path = pictures.write(self.path("root"), f"{split}/cat/1.png", b"")
            Image.fromarray(deep).save(path)
        convert = "convert", f"--output={self.path('out')}", "--workers=1", "--overwrite"
        root = f"--input={self.path('root')}", "--labels_from_folders", "--value_range=0,2000"
        code, _, err = self.call(*convert, *root)
        self.assertEqual(code, 2)
        self.assertIn("which are splits and not classes; use --split=train", err)
        code, result, err = self.call(*convert, *root, "--split=train")
        self.assertEqual((code, result["rows"]), (0, 1), err)
        (example,) = pictures.examples(self.path("out"))
        self.assertAllClose(tf.io.decode_image(example["encoded"])[0, 0], [127.5] * 3, atol=1)
        csv = "path,label\nroot/train/cat/1.png,Bär\n".encode("cp1252")
        listed = f"--input={pictures.write(self.get_temp_dir(), 'list.csv', csv)}"
        code, _, err = self.call(*convert, listed)
        self.assertEqual(code, 1)
        self.assertRegex(err, "list.csv, line 2, column 23: the byte 0xe4 is not UTF-8")
        self.assertEqual(self.call(*convert, listed, "--encoding=cp1252")[0], 0)
        self.assertEqual(Dataset.open(self.path("out")).class_names, ("Bär",))

    def test_inspect_takes_its_data_set_with_or_without_the_flags_name(self):
        self.converted()
        sheet = self.path("sheet.png")
        code, report, err = self.call("inspect", self.path("data"), "--verify", f"--output={sheet}")
        self.assertEqual(code, 0, err)
        self.assertEqual((report["rows"], report["corrupt_shards"]), (9, []))
        self.assertTrue(os.path.exists(sheet))
        with open(f"{sheet}.jsonl") as file:
            lines = [json.loads(line) for line in file]
        self.assertEqual([line["row"] for line in lines], list(range(9)))
        self.assertLen({line["source"] for line in lines}, 9)
        self.assertEqual(self.call("inspect", f"--data={self.path('data')}")[1]["rows"], 9)
        code, report, err = self.call("inspect")
        self.assertEqual((code, report), (2, None))
        self.assertIn("dc_tf inspect DATASET", err)
        self.assertEqual(self.call("inspect", self.path("data"), "another")[0], 2)
        self.assertEqual(self.call("inspect", self.path("nowhere"))[0], 1)

    def test_inspect_names_each_corrupt_shard_and_exits_with_one(self):
        self.converted()
        dataset = Dataset.open(self.path("data"))
        for shard in (0, 2):
            os.truncate(dataset.shard_path(shard), 100)
        code, report, err = self.call("inspect", dataset.path, "--verify", "--sample=2")
        self.assertEqual(code, 1)
        self.assertEqual(
            [d["shard"] for d in report["corrupt_shards"]], [dataset.shards[i].name for i in (0, 2)]
        )
        self.assertIn("2 of 3 shards are corrupt, 5 of 9 rows", err)
        for shard in (0, 2):
            self.assertIn(f"{dataset.shard_path(shard)}, ", err)
        code, report, err = self.call("inspect", dataset.path)
        self.assertEqual((code, report["rows"], report["sample"]["corrupt"]), (1, 9, 5))
        self.assertIn("5 of the 9 rows of the sample are corrupt; --verify", err)

    def test_index_reads_records_with_other_names_and_repairs_a_data_set(self):
        folder = self.path("theirs")
        os.makedirs(folder)
        example = tf.train.Example()
        example.features.feature["img"].bytes_list.value.append(pictures.encoded())
        example.features.feature["y"].int64_list.value.append(3)
        with tf.io.TFRecordWriter(os.path.join(folder, "a.tfrecord")) as writer:
            writer.write(example.SerializeToString())
        names = pictures.write(self.get_temp_dir(), "names.txt", "zero\none\n\ntwo\n")
        flags = ["--image_feature=img", "--label_feature=y", "--label_offset=-1"]
        code, result, err = self.call(
            "index", f"--input={folder}/*.tfrecord", f"--class_names={names}", *flags
        )
        self.assertEqual(code, 0, err)
        self.assertEqual((result["rows"], result["labels"]), (1, [2, 2]))
        self.assertEqual(pictures.examples(folder)[0]["label"], 2)
        self.assertEqual(self.call("inspect", folder, "--verify")[1]["labels"]["top"], {"two": 1})
        names = pictures.write(
            self.get_temp_dir(), "names.txt", "null\nBär\nBör\n".encode("cp1252")
        )
        index = "index", f"--input={folder}/*.tfrecord", f"--class_names={names}", *flags
        code, _, err = self.call(*index, "--overwrite")
        self.assertEqual(code, 1)
        self.assertRegex(err, "names.txt, line 2, column 2: the byte 0xe4 is not UTF-8.*--encoding")
        self.assertEqual(self.call(*index, "--overwrite", "--encoding=cp1252")[0], 0)
        self.assertEqual(Dataset.open(folder).class_names, ("null", "Bär", "Bör"))
        os.remove(Dataset.open(folder).index_path(0))
        code, result, err = self.call("index", f"--input={folder}")
        self.assertEqual((code, result["repaired"]), (0, ["a.tfrecord"]), err)
        code, _, err = self.call("index", f"--input={folder}/*.tfrecord", "--overwrite")
        self.assertEqual(code, 2)
        self.assertIn("has no image/encoded; it has img, y", err)


if __name__ == "__main__":
    tf.test.main()
