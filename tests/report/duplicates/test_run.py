"""`dc_tf duplicates` on images: equal bytes, equal pixels, near copies, and what is written."""

import csv
import io
import json
import os
import re
import shutil
import tempfile
from unittest import mock

import numpy as np
import pictures
import pyarrow.parquet
import pytest
import tensorflow as tf
from PIL import Image

from dc_tf.commands.main import main
from dc_tf.curation.duplicates import row_facts
from dc_tf.curation.duplicates.row_facts import RowFacts
from dc_tf.curation.selection.row_files import read_rows
from dc_tf.data.convert import convert
from dc_tf.data.storage.manifest import Dataset
from dc_tf.errors import ConfigError, Preempted
from dc_tf.report.duplicates.run import as_text, find_and_write

HOSTILE = "d\"><script>alert(1)<script>'.png"


def photo(seed, size=(48, 40)):
    """A smooth picture of its own."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8)).resize(size, Image.BICUBIC)


def encoded(image, form="PNG", **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def lines_of(output):
    """[(row, source)] of the list of what stays."""
    with open(os.path.join(output, "keep.jsonl"), encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    assert all(list(line) == ["row", "source"] for line in lines), lines
    return [(line["row"], line["source"]) for line in lines]


class FoundTest(tf.test.TestCase):
    """Six pictures: a, the same bytes, the same pixels, smaller, and two others."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.root = tempfile.mkdtemp()
        cls.addClassCleanup(shutil.rmtree, cls.root)
        folder, cls.data = os.path.join(cls.root, "images"), os.path.join(cls.root, "data")
        a = photo(0)
        for name, content in {
            "a.png": encoded(a),
            "b/same_bytes.png": encoded(a),
            "c/same_pixels.png": encoded(a, compress_level=0),
            HOSTILE: encoded(a.resize((24, 20))),
            "e.png": encoded(photo(1)),
            "f.png": encoded(photo(2)),
        }.items():
            pictures.write(folder, name, content)
        convert(folder, cls.data, workers=1)
        cls.sources = pictures.sources(cls.data)
        assert len(cls.sources) == 6
        x = [cls.vector(source) for source in cls.sources]
        cls.features = os.path.join(cls.root, "x.npy")
        np.save(cls.features, np.array(x, np.float32))

    @staticmethod
    def vector(source):
        """Almost the same for the copies."""
        if source in ("e.png", "f.png"):
            return [0, source == "e.png", source == "f.png"]
        return [1, 0.1 * source.startswith("d"), 0]

    def find(self, **arguments):
        given = {"features": self.features, "data": self.data, "whiten": 0, "threshold": 0.9}
        return find_and_write(**given | arguments)

    def output(self):
        return os.path.join(tempfile.mkdtemp(dir=self.get_temp_dir()), "out")

    def test_the_table_has_each_copy_with_its_kind_and_the_largest_first_row_stays(self):
        output = self.output()
        found = self.find(output=output)
        self.assertEqual((found["groups"], found["would_go"], found["rows"]), (1, 3, 6))
        self.assertEqual(found["by_kind"], {"bytes": 1, "pixels": 1, "near": 1})
        table = pyarrow.parquet.read_table(os.path.join(output, "duplicates.parquet")).to_pylist()
        self.assertEqual(table[0]["source"], "a.png")
        self.assertEqual([one["keeper"] for one in table], [True, False, False, False])
        kinds = {one["source"][0]: one["kind"] for one in table}
        self.assertEqual(kinds, {"a": "", "b": "bytes", "c": "pixels", "d": "near"})
        self.assertEqual({(one["width"], one["height"]) for one in table}, {(48, 40), (24, 20)})
        self.assertAllClose(table[-1]["similarity"], 1 / np.hypot(1, 0.1))

    def test_what_stays_is_a_view_of_the_data_set_and_nothing_is_deleted(self):
        before = pictures.files(self.data)
        output = self.output()
        self.find(output=output)
        keep = np.load(os.path.join(output, "keep.npy"))
        self.assertEqual([self.sources[row] for row in keep], ["a.png", "e.png", "f.png"])
        kept = os.path.join(output, "kept")
        self.assertEqual(pictures.sources(kept), ["a.png", "e.png", "f.png"])
        with open(os.path.join(kept, "sources.jsonl")) as file:
            named = [json.loads(line)["source"] for line in file]
        self.assertEqual(named, ["a.png", "e.png", "f.png"])
        self.assertEqual(lines_of(output), [(row, self.sources[row]) for row in keep])
        self.assertAllEqual(read_rows(os.path.join(output, "keep.jsonl"), "--rows", 6), keep)
        self.assertEqual(pictures.files(self.data), before)

    def test_a_dry_run_counts_the_same_and_writes_nothing(self):
        before = sorted(os.listdir(self.root))
        found = self.find(dry_run=True)
        self.assertEqual((found["would_go"], found["output"]), (3, None))
        self.assertEqual(
            sorted({*os.listdir(self.root)} - {"x.index"}), sorted({*before} - {"x.index"})
        )
        self.assertIn("3 of 6 images (50.0 %) would go", as_text(found))
        self.assertIn("nothing was written", as_text(found))

    def test_without_pixels_only_equal_bytes_and_near_ones_are_told_apart(self):
        found = self.find(dry_run=True, pixels=False)
        self.assertEqual(found["by_kind"], {"bytes": 1, "pixels": 0, "near": 2})
        strict = self.find(dry_run=True, threshold=1.0)
        self.assertEqual(strict["by_kind"], {"bytes": 1, "pixels": 1, "near": 0})

    def test_without_a_data_set_features_alone_decide(self):
        output = self.output()
        found = self.find(output=output, data=None, format="csv")
        self.assertEqual(found["by_kind"], {"bytes": 0, "pixels": 0, "near": 3})
        with open(os.path.join(output, "duplicates.csv"), newline="") as file:
            self.assertEqual([one["source"] for one in csv.DictReader(file)], [""] * 4)
        keep = np.load(os.path.join(output, "keep.npy"))
        self.assertLen(keep, 3)
        self.assertEqual(lines_of(output), [(row, None) for row in keep])
        self.assertNotIn("gallery.html", os.listdir(output))

    def test_hostile_names_are_text_in_the_gallery(self):
        output = self.output()
        self.find(output=output)
        with open(os.path.join(output, "gallery.html"), encoding="utf-8") as file:
            page = file.read()
        self.assertNotIn("<script", page)
        self.assertIn("&lt;", page)
        self.assertEqual(page.count("<img "), 4)
        self.assertNotRegex(page, r'alt="\s*"')
        policy = re.search(r'Security-Policy" content="([^"]*)"', page)[1]
        self.assertStartsWith(
            policy, "default-src &#39;none&#39;; img-src data:; style-src &#39;sha256"
        )
        self.assertNotIn("script-src", policy)

    def test_a_result_is_not_replaced_by_one_of_other_settings_unless_asked(self):
        output = self.output()
        self.find(output=output)
        self.assertEqual(self.find(output=output)["would_go"], 3)
        with self.assertRaisesRegex(ConfigError, "different: threshold"):
            self.find(output=output, threshold=0.999)
        self.assertEqual(self.find(output=output, threshold=0.999, overwrite=True)["would_go"], 2)
        with open(os.path.join(output, "duplicates.json")) as file:
            self.assertEqual(json.load(file)["threshold"], 0.999)

    def test_clusters_of_kmeans_are_looked_in(self):
        clusters = os.path.join(tempfile.mkdtemp(dir=self.get_temp_dir()), "clusters")
        flags = [f"--input={self.features}", "--k=3", f"--output={clusters}"]
        self.assertEqual(main(["kmeans", *flags]), 0)
        found = self.find(dry_run=True, clusters=clusters)
        self.assertEqual((found["would_go"], found["clusters"]), (3, 3))
        self.assertEqual(self.find(dry_run=True, clusters=clusters, data=None)["would_go"], 3)

    def test_wrong_inputs_are_refused_with_what_would_work(self):
        strangers = tempfile.mkdtemp(dir=self.get_temp_dir())
        pictures.write(strangers, "mine.txt", "mine")
        one_more = os.path.join(self.get_temp_dir(), "seven.npy")
        np.save(one_more, np.ones((7, 3), np.float32))
        for message, arguments in (
            ("give --output=FOLDER, or --dry_run", {}),
            ("holds other files", {"output": strangers}),
            ("--format=json; use parquet or csv", {"dry_run": True, "format": "json"}),
            ("--threshold=1.5", {"dry_run": True, "threshold": 1.5}),
            ("--groups=-1", {"dry_run": True, "groups": -1}),
            ("7 rows, but --data=.* has 6", {"dry_run": True, "features": one_more}),
            (
                "neither a run nor the --output of",
                {"dry_run": True, "clusters": strangers},
            ),
        ):
            with self.assertRaisesRegex(ConfigError, message):
                self.find(**arguments)
        tf_config = {"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 0}}
        with mock.patch.dict(os.environ, TF_CONFIG=json.dumps(tf_config)):
            with self.assertRaisesRegex(ConfigError, "names 2 workers.*give --output=FOLDER"):
                self.find(dry_run=True)

    def test_the_command_prints_how_many_would_go(self):
        flags = [f"--features={self.features}", f"--data={self.data}", "--dry_run", "--whiten=0"]
        with mock.patch("sys.stdout", new_callable=io.StringIO) as out:
            self.assertEqual(main(["duplicates", *flags, "--threshold=0.9"]), 0)
        lines = out.getvalue().splitlines()
        self.assertStartsWith(
            lines[0], "3 of 6 images (50.0 %) would go: 1 bytes, 1 pixels, 1 near"
        )
        self.assertEqual(json.loads(lines[-1])["would_go"], 3)


class FactsTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.root = tempfile.mkdtemp(dir=self.get_temp_dir())
        for number in range(40):
            content = encoded(photo(number % 11), compress_level=number % 2)
            pictures.write(f"{self.root}/images", f"{number:02d}.png", content)
        self.data = f"{self.root}/data"
        convert(f"{self.root}/images", self.data, workers=1)

    def facts(self, **options):
        with mock.patch.object(row_facts, "_BLOCK_ROWS", 16):
            dataset = Dataset.open(self.data)
            return RowFacts.of(dataset, f"{self.root}/facts", workers=1, **options)

    def pairs(self, column):
        with mock.patch.object(row_facts, "_BLOCK_ROWS", 16):
            with mock.patch.object(row_facts, "_PASS_ROWS", 5):  # several passes
                found = list(self.facts().equal_rows(column))
        return {
            pair
            for first, other in found
            for pair in zip(first.tolist(), other.tolist(), strict=True)
        }

    def test_equal_rows_are_those_of_all_pairs(self):
        seeds = [number % 11 for number in range(40)]
        pixels = {(seeds.index(seed), row) for row, seed in enumerate(seeds) if row > 10}
        self.assertEqual(self.pairs("pixels"), pixels)
        own = [number % 22 for number in range(40)]
        self.assertEqual(
            self.pairs("bytes"), {(own.index(x), row) for row, x in enumerate(own) if row > 21}
        )

    def test_corrupt_images_equal_none(self):
        dataset = Dataset.open(self.data)
        _, entries = dataset.locate([3, 14])
        with open(dataset.shard_path(0), "r+b") as file:
            for offset, length, _ in entries.tolist():
                file.seek(offset + length // 2)
                file.write(b"\0" * 8)
        facts = self.facts()
        self.assertAllEqual(facts.corrupt(), [3, 14])
        with mock.patch.object(row_facts, "_BLOCK_ROWS", 16):
            self.assertAllEqual(facts.take([14, 5])["width"], [0, 48])
            rows = np.concatenate([np.stack(pair) for pair in facts.equal_rows()], axis=1)
        self.assertNotIn(14, rows)
        self.assertIn([25, 36], rows.T.tolist())  # the lowest of 3, 14, 25 and 36 that is whole

    @pytest.mark.slow
    def test_processes_find_the_same(self):
        alone = np.concatenate([block for _, block in self.facts().blocks()])
        shutil.rmtree(f"{self.root}/facts")
        with mock.patch.object(row_facts, "_FEW_ROWS", 0):
            dataset = Dataset.open(self.data)
            found = RowFacts.of(dataset, f"{self.root}/facts", workers=2)
        again = np.concatenate([block for _, block in found.blocks()])
        self.assertEqual(again.tolist(), alone.tolist())

    def test_a_stopped_reading_resumes_after_the_last_whole_file(self):
        whole = self.facts()
        expected = np.concatenate([block for _, block in whole.blocks()])
        os.remove(f"{self.root}/facts/rows-{16:012d}.npy")
        read = []
        original = row_facts._facts_of
        counted = lambda path, pixels, rows: read.extend(rows) or original(path, pixels, rows)  # noqa: E731
        with mock.patch.object(row_facts, "_facts_of", counted):
            again = self.facts()
        self.assertEqual(read, list(range(16, 32)))
        found = np.concatenate([block for _, block in again.blocks()])
        self.assertEqual(found.tolist(), expected.tolist())

    def test_a_request_to_stop_ends_it(self):
        stop = Preempted("asked")
        with mock.patch.object(row_facts.stop_request, "raise_if_requested", side_effect=stop):
            self.assertRaises(Preempted, self.facts)
        self.assertEqual(os.listdir(f"{self.root}/facts"), ["owner.json"])


if __name__ == "__main__":
    tf.test.main()
