"""Search by example: against NumPy, with vectors of any origin and with a run's own network."""

import csv
import json
import os
import shutil
import tempfile
from unittest import mock

import numpy as np
import pictures
import pyarrow.parquet
import pytest
import runs
import tensorflow as tf
from PIL import Image, ImageOps

import dc_tf
from dc_tf.curation.features.directions import Directions
from dc_tf.curation.features.neighbours import nearest_rows, without_row
from dc_tf.curation.features.open import open_features
from dc_tf.curation.search import find as search
from dc_tf.curation.search import inverted_file
from dc_tf.curation.search.find import as_text, search_and_write
from dc_tf.curation.search.inverted_file import InvertedFile
from dc_tf.data.convert import convert
from dc_tf.data.storage.manifest import Dataset
from dc_tf.data.storage.reader import RowReader
from dc_tf.errors import ConfigError, DataError


def cosines(x, vectors):
    """(n, rows) cosines in float64."""
    x, vectors = (y / np.linalg.norm(y, axis=1, keepdims=True) for y in (x, vectors))
    return vectors.astype(np.float64) @ x.T


def save(test, x, name="x.npy"):
    path = os.path.join(tempfile.mkdtemp(dir=test.get_temp_dir()), name)
    np.save(path, x)
    return path


class NearestTest(tf.test.TestCase):
    def test_rows_and_cosines_are_those_of_numpy_in_any_blocks(self):
        rng = np.random.default_rng(0)
        x, vectors = rng.standard_normal((300, 8)), rng.standard_normal((5, 8))
        x[7] = x[201]
        vectors[0] = 3 * x[7]
        expected = cosines(x, vectors)
        features = open_features(features=save(self, x))
        for block_bytes in (32, 32 * 50, 1 << 20):
            with mock.patch("dc_tf.curation.features.neighbours.BLOCK_BYTES", block_bytes):
                found = nearest_rows(features, vectors, 6)
            self.assertAllEqual(found.rows[1:], np.argsort(-expected, 1)[1:, :6])
            self.assertAllEqual(found.rows[0, :2], [7, 201])
            self.assertAllClose(found.cosines, -np.sort(-expected, 1)[:, :6], atol=1e-6)
            self.assertLessEqual(found.cosines.max(), 1)

    def test_more_neighbours_than_rows_leave_places_empty(self):
        features = open_features(features=save(self, np.eye(3)))
        found = nearest_rows(features, np.eye(3)[:1], 5)
        self.assertAllEqual(found.rows, [[0, 1, 2, -1, -1]])
        found = without_row(found, [0], 3)
        self.assertAllEqual(found.rows, [[1, 2, -1]])

    def test_a_row_that_is_not_finite_is_named(self):
        x = np.random.default_rng(0).standard_normal((100, 4))
        x[2, 1] = np.inf
        features = open_features(features=save(self, x))
        for find in (lambda: nearest_rows(features, x[:1], 1), lambda: Directions.of(features)):
            with self.assertRaisesRegex(DataError, "row 2 of .*x.npy is not finite"):
                find()


class DirectionsTest(tf.test.TestCase):
    def test_whitened_rows_have_no_mean_and_no_correlation(self):
        rng = np.random.default_rng(0)
        x = rng.standard_normal((2000, 6)) @ rng.standard_normal((6, 6)) + 50
        directions = Directions.of(open_features(features=save(self, x)))
        found = directions.read(0, 2000)
        self.assertAllClose(np.linalg.norm(found, axis=1), np.ones(2000), atol=1e-5)
        self.assertAllClose(found.T @ found / 2000, np.eye(6) / 6, atol=0.02)
        self.assertAllClose(directions.take([7, 3]), found[[7, 3]], atol=1e-6)
        self.assertAllClose(directions.apply(x[:5]), found[:5], atol=1e-5)

    def test_the_map_is_kept_beside_the_features_and_made_again_for_others(self):
        x = np.random.default_rng(0).standard_normal((100, 4))
        path = save(self, x)
        first = Directions.of(open_features(features=path))
        with mock.patch("dc_tf.curation.features.directions._fit", side_effect=AssertionError):
            again = Directions.of(open_features(features=path))
        self.assertAllEqual(again.whitening.basis, first.whitening.basis)
        np.save(path, x**3)
        other = Directions.of(open_features(features=path))
        self.assertNotAllClose(other.whitening.basis, first.whitening.basis)
        self.assertNotEqual(other.fingerprint(), first.fingerprint())

    def test_few_rows_are_not_whitened(self):
        x = np.random.default_rng(0).standard_normal((63, 20))
        self.assertEqual(Directions.of(open_features(features=save(self, x))).whitened, 0)
        more = np.concatenate([x, x[:9] + 1])
        self.assertEqual(Directions.of(open_features(features=save(self, more))).whitened, 18)

    def test_without_whitening_rows_are_only_scaled(self):
        x = np.random.default_rng(0).standard_normal((30, 4))
        directions = Directions.of(open_features(features=save(self, x)), whiten=0)
        self.assertAllClose(directions.read(3, 5), x[3:5] / np.linalg.norm(x[3:5], axis=1)[:, None])
        self.assertEqual(directions.dim, 4)


class InvertedFileTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        rng = np.random.default_rng(0)
        centres = rng.standard_normal((20, 8))
        self.x = centres[rng.integers(0, 20, 2000)] + 0.3 * rng.standard_normal((2000, 8))
        self.path = save(self, self.x.astype(np.float32))

    def open(self):
        return open_features(features=self.path)

    def test_its_recall_is_what_a_comparison_with_every_row_says(self):
        index = InvertedFile.of(self.open())
        self.assertGreaterEqual(index.about["recall"], inverted_file.RECALL)
        self.assertLess(index.about["probes"], index.about["lists"])
        vectors = self.x[::17]
        found, exact = index.nearest_rows(vectors, 10), np.sort(cosines(self.x, vectors), 1)
        recall = np.mean(found.cosines >= exact[:, -10:-9] - 1e-6)
        self.assertGreater(recall, 0.85)
        by_row = np.take_along_axis(cosines(self.x, vectors), found.rows, 1)
        self.assertAllClose(found.cosines, by_row, atol=1e-6)
        self.assertRegex(index.statement, r"recall@10 0\.9\d\d .*200 sampled rows \(\d+ of \d+ li")

    def test_it_is_kept_beside_the_features_and_belongs_to_them_only(self):
        InvertedFile.of(self.open())
        folder = os.path.join(os.path.dirname(self.path), "x.index", "lists")
        self.assertContainsSubset(["index.json", "index.faiss"], os.listdir(folder))
        with mock.patch.object(inverted_file, "_build", side_effect=AssertionError):
            InvertedFile.of(self.open())
        np.save(self.path, self.x[::-1].astype(np.float32))
        found = InvertedFile.of(self.open()).nearest_rows(self.x[:3], 1)
        self.assertAllEqual(found.rows[:, 0], [1999, 1998, 1997])

    def test_a_stopped_build_resumes_after_its_last_part(self):
        with mock.patch.object(inverted_file, "_PART_BYTES", 8 * 600):
            with mock.patch.object(inverted_file, "_merged", side_effect=KeyboardInterrupt):
                self.assertRaises(KeyboardInterrupt, lambda: InvertedFile.of(self.open()))
            folder = os.path.join(os.path.dirname(self.path), "x.index", "lists")
            parts = sorted(name for name in os.listdir(folder) if name.startswith("part"))
            self.assertLen(parts, 4)
            os.remove(os.path.join(folder, parts[2]))
            with mock.patch.object(inverted_file, "_trained", side_effect=AssertionError):
                index = InvertedFile.of(self.open())
        self.assertAllEqual(index.nearest_rows(self.x[::100], 1).rows[:, 0], range(0, 2000, 100))
        self.assertNotIn("part", " ".join(os.listdir(folder)))

    def test_a_search_of_many_rows_says_its_recall_and_exact_does_without(self):
        with mock.patch.object(search, "EXACT_ROWS", 100):
            found = search_and_write(["7"], features=self.path, whiten=0, k=3)
            self.assertIn("recall@10 0.", found["search"])
            exact = search_and_write(["7"], features=self.path, whiten=0, k=3, exact=True)
        self.assertEqual((exact["search"], exact["recall"]), ("exact", 1.0))
        with mock.patch.object(search, "EXACT_ROWS", 100):
            failing = mock.patch.object(InvertedFile, "of", side_effect=PermissionError("no"))
            with failing:  # a folder that cannot be written
                found = search_and_write(["7"], features=self.path, whiten=0, k=3)
        self.assertEqual(found, exact)
        expected = np.argsort(-cosines(self.x, self.x[7:8])[0])[1:4]
        self.assertEqual([one["row"] for one in exact["neighbours"]], expected.tolist())


class CommandTest(tf.test.TestCase):
    """With images and the network of a run."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        settings, trained = runs.undisturbed(1)
        cls.data = settings["data"]["path"]
        cls.run_folder = os.path.join(tempfile.mkdtemp(), "run")
        cls.addClassCleanup(shutil.rmtree, os.path.dirname(cls.run_folder))
        shutil.copytree(trained, cls.run_folder)
        record = {"path": cls.data, "fingerprint": Dataset.open(cls.data).fingerprint()}
        with open(os.path.join(cls.run_folder, "data.json"), "w") as file:
            json.dump(record, file)

    def path(self, name):
        return os.path.join(tempfile.mkdtemp(dir=self.get_temp_dir()), name)

    def image(self, row):
        """A file with the image of a row."""
        (example,) = RowReader(Dataset.open(self.data)).examples([row])
        path = self.path("query.jpg")
        with open(path, "wb") as file:
            file.write(example["encoded"])
        return path

    def test_a_file_finds_its_own_row_and_what_the_row_finds(self):
        queries = [self.image(11), "11"]
        found = search_and_write(queries, run=self.run_folder, layer="conv4", k=5)
        rows = [one["row"] for one in found["neighbours"]]
        self.assertEqual(rows[0], 11)
        self.assertGreater(found["neighbours"][0]["similarity"], 0.999)
        self.assertEqual(rows[1:5], rows[5:9])
        self.assertNotIn(11, rows[5:])
        self.assertEqual([one["rank"] for one in found["neighbours"]], [1, 2, 3, 4, 5] * 2)

    @pytest.mark.merge
    @pytest.mark.slow
    def test_with_features_of_mirror_images_a_mirrored_file_finds_its_row(self):
        with Image.open(self.image(23)) as image:
            mirrored = ImageOps.mirror(image.convert("RGB"))
        path = self.path("mirrored.png")
        mirrored.save(path)
        features = open_features(run=self.run_folder, layer="conv4", mirror=True)
        self.assertTrue(features.about["mirror"])
        (first,) = search_and_write([path], features=features.path, k=1)["neighbours"]
        self.assertEqual(first["row"], 23)
        self.assertGreater(first["similarity"], 0.85)

    def test_tables_and_sheet_hold_what_was_found(self):
        given = {"run": self.run_folder, "layer": "conv4", "k": 3}
        tables = {ending: self.path(f"found.{ending}") for ending in ("csv", "json", "parquet")}
        for path in tables.values():
            found = search_and_write(["3", "4"], output=path, **given)["neighbours"]
        with open(tables["csv"], newline="") as file:
            rows = [(int(one["row"]), one["source"]) for one in csv.DictReader(file)]
        self.assertEqual(rows, [(one["row"], one["source"]) for one in found])
        with open(tables["json"]) as file:
            self.assertEqual([one["rank"] for one in json.load(file)], [1, 2, 3] * 2)
        table = pyarrow.parquet.read_table(tables["parquet"]).to_pydict()
        self.assertAllClose(table["similarity"], [one["similarity"] for one in found])
        sheet = self.path("found.jpg")
        search_and_write(["3", self.image(4)], sheet=sheet, **given)
        with Image.open(sheet) as image:
            self.assertEqual((image.format, image.width), ("JPEG", 4 * 128))
            self.assertGreater(image.height, 2 * 128)

    @pytest.mark.merge
    @pytest.mark.slow
    def test_features_of_another_network_are_refused_and_a_stage_is_recognised(self):
        features = open_features(run=self.run_folder, layer="conv4").path
        about = os.path.join(features, "embed.json")
        with open(about) as file:
            recorded = json.load(file)
        self.addCleanup(lambda: open(about, "w").write(json.dumps(recorded)))
        query = self.image(5)
        with open(about, "w") as file:
            json.dump({**recorded, "weights": "sha256:other"}, file)
        with self.assertRaisesRegex(ConfigError, "other weights than the network that made"):
            search_and_write([query], features=features, data=self.data)
        with open(about, "w") as file:
            json.dump({**recorded, "model": "/moved"}, file)
        with self.assertRaisesRegex(ConfigError, "/moved.*Name what made .* with --model"):
            search_and_write([query], features=features, data=self.data)
        found = search_and_write([query], features=features, model=self.run_folder, k=1)
        self.assertEqual(found["neighbours"][0]["row"], 5)
        (source,) = dc_tf.sources_of(self.data, [5])
        self.assertEqual(found["neighbours"][0]["source"], source)

    def test_wrong_inputs_are_refused_with_what_would_work(self):
        text = pictures.write(self.path("x"), "text.jpg", "no image")
        bare = save(self, np.eye(9, dtype=np.float32))
        own = {"run": self.run_folder, "layer": "conv4"}
        for kind, message, arguments in (
            (ConfigError, "there is no --query", {"queries": [], **own}),
            (
                ConfigError,
                "--query=128 is not a row .*0..127; .*./128",
                {"queries": ["128"], **own},
            ),
            (
                DataError,
                "text.jpg cannot be used as a query: not an im",
                {"queries": [text], **own},
            ),
            (DataError, "nowhere.jpg cannot be used", {"queries": ["nowhere.jpg"], **own}),
            (
                ConfigError,
                "does not record which network",
                {"queries": [self.image(1)], "features": bare},
            ),
            (
                ConfigError,
                "name their data set",
                {"queries": ["1"], "features": bare, "sheet": "/a.jpg"},
            ),
            (ConfigError, "--k=0", {"queries": ["1"], "features": bare, "k": 0}),
            (ConfigError, "--whiten=-1", {"queries": ["1"], "features": bare, "whiten": -1}),
            (ConfigError, "use .parquet, .csv or .json", {"queries": ["1"], "output": "x.txt"}),
            (ConfigError, "--sheet=x.gif .*use .jpg", {"queries": ["1"], "sheet": "x.gif"}),
            (
                ConfigError,
                "/nowhere does not exist",
                {"queries": ["1"], "output": "/nowhere/x.csv"},
            ),
            (ConfigError, "give --run=RUN", {"queries": ["1"]}),
        ):
            with self.assertRaisesRegex(kind, message):
                search_and_write(**arguments)

    def test_names_that_would_move_the_cursor_are_shown_without(self):
        folder = self.path("images")
        name = "a\x1b[2Jb\nc.png"
        for seed, one in enumerate([name, "d.png"]):
            pictures.write(folder, one, pictures.encoded(seed, size=(40, 40)))
        data = self.path("data")
        convert(folder, data, workers=1)
        given = save(self, np.eye(2, dtype=np.float32))
        found = search_and_write(["1"], features=given, data=data)
        shown = as_text(found).splitlines()
        self.assertLen(shown, 3)
        self.assertNotIn("\x1b", "".join(shown))


if __name__ == "__main__":
    tf.test.main()
