"""Retrieval end to end: against NumPy and scikit-learn, on workers, from the command line."""

import csv
import io
import json
import os
import shutil
import tempfile
from unittest import mock

import numpy as np
import pictures
import pytest
import tensorflow as tf
import workers
from PIL import Image
from reference_ap import area_by_steps
from sklearn.decomposition import PCA
from striped import call, write_model

from dc_tf.distributed.collectives import Solo
from dc_tf.errors import ConfigError, DataError
from dc_tf.evaluation.models import open_model
from dc_tf.evaluation.retrieval import rmac
from dc_tf.evaluation.retrieval import task as retrieval
from dc_tf.evaluation.retrieval.ground_truth import images_in
from dc_tf.evaluation.retrieval.images import scaled_image
from dc_tf.evaluation.retrieval.rmac_features import RMACExtractor
from dc_tf.evaluation.retrieval.task import Protocol, read_ground_truth
from dc_tf.evaluation.tasks import Request

PROTOCOL = Protocol(longest_side=96, dimensions=16)


def picture(kind, seed, size=(60, 80)):
    """PNG of an object: a pattern of its kind, moved about and under noise."""
    pattern = np.random.default_rng(kind).integers(0, 256, (6, 8, 3), np.uint8)
    image = Image.fromarray(pattern).resize((size[1], size[0]), Image.Resampling.NEAREST)
    random = np.random.default_rng(seed)
    pixels = np.roll(np.asarray(image, np.float64), random.integers(-3, 4, 2), (0, 1))
    pixels = np.clip(pixels + random.normal(0, 25, pixels.shape), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write_groups(folder, kinds, each, seed):
    for kind in kinds:
        for i in range(each):
            size = (60, 80) if i % 2 else (80, 60)
            name = f"object{kind}/{i}.png"
            pictures.write(folder, name, picture(kind, 1000 * seed + 100 * kind + i, size))
    return folder


def write_oxford(folder):
    """Two queries of three images of each of two objects, one more as junk, four distractors."""
    for kind in range(2):
        for i in range(4):
            pictures.write(folder, f"jpg/obj{kind}_{i}.png", picture(kind, 10 * kind + i))
        for kinds, names in (("good", (0, 1)), ("ok", (2,)), ("junk", (3,))):
            listed = "".join(f"obj{kind}_{i}\n" for i in names)
            pictures.write(folder, f"gt/obj{kind}_1_{kinds}.txt", listed)
        query = f"oxc1_obj{kind}_0 5.5 4 70 57.5\n"
        pictures.write(folder, f"gt/obj{kind}_1_query.txt", query)
    for i in range(4):
        pictures.write(folder, f"jpg/other_{i}.png", picture(5 + i, i))
    return folder


def measured(world, model, test, train, protocol):
    frozen = open_model(model)
    return retrieval.evaluate(frozen, read_ground_truth(test), images_in(train), protocol, world)


@pytest.mark.slow
class RetrievalTest(tf.test.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.root = tempfile.mkdtemp()
        cls.addClassCleanup(shutil.rmtree, cls.root)
        cls.model = write_model(os.path.join(cls.root, "model"))
        cls.train = write_groups(os.path.join(cls.root, "train"), range(20, 24), 3, seed=1)
        cls.groups = write_groups(os.path.join(cls.root, "groups"), range(3), 4, seed=2)
        cls.oxford = write_oxford(os.path.join(cls.root, "oxford"))

    def run_task(self, protocol=PROTOCOL, **changes):
        settings = dict(test=self.groups, train=self.train, random_init=False) | changes
        return retrieval.run(Request("retrieval", self.model, **settings), protocol)

    def test_it_is_what_numpy_and_scikit_learn_find(self):
        trunk = open_model(self.model).trunk

        def regions(path, box=None):
            maps = trunk.convolutions(scaled_image(path, box, 96)[None])["conv13"].numpy()[0]
            vectors = [
                maps[y : y + s, x : x + s].reshape(-1, 32).max(0)
                for y, x, s in rmac.grid(*maps.shape[:2])
            ]
            return np.stack([v / np.linalg.norm(v) for v in vectors])

        others = np.concatenate([regions(path) for path in images_in(self.train)])
        pca = PCA(16, whiten=True, svd_solver="full").fit(others.astype(np.float64))

        def vector(path, box=None):
            white = pca.transform(regions(path, box).astype(np.float64))
            total = (white / np.linalg.norm(white, axis=1, keepdims=True)).sum(0)
            return total / np.linalg.norm(total)

        for folder in (self.oxford, self.groups):
            ground_truth = read_ground_truth(folder)
            database = np.stack([vector(path) for path in ground_truth.database])
            areas = []
            for query in ground_truth.queries:
                ranked = np.argsort(-database @ vector(query.path, query.box))
                answer = query.answers["map"]
                areas.append(
                    area_by_steps(ranked.tolist(), answer.positives.tolist(), answer.junk.tolist())
                )
            found = measured(Solo(), self.model, folder, self.train, PROTOCOL)
            self.assertAllClose(found["map"], np.mean(areas), atol=1e-6)
            self.assertLess(found["map"], 1.0 + 1e-9)

    def test_vectors_of_two_workers_are_those_of_one(self):
        alone = measured(Solo(), self.model, self.oxford, self.train, PROTOCOL)
        both = workers.on_workers(2, measured, self.model, self.oxford, self.train, PROTOCOL)
        self.assertAllClose(both[0]["map"], alone["map"])
        self.assertEqual(both[0], both[1])

    def test_convolutions_take_any_size_and_at_the_networks_own_are_those_of_the_call(self):
        trunk = open_model(self.model).trunk
        images = np.random.default_rng(0).random((2, 32, 32, 3), np.float32)
        expected = trunk(images)
        for name, maps in trunk.convolutions(images).items():
            self.assertAllClose(maps, expected[name])
        maps = trunk.convolutions(np.zeros((1, 14, 61, 3), np.float32))["conv13"]
        self.assertEqual(maps.shape, [1, 1, 3, 32])

    def test_broken_images_are_named_or_left_out(self):
        folder = shutil.copytree(self.groups, os.path.join(self.root, "broken"))
        pictures.write(folder, "object0/0.png", b"no image")
        with self.assertRaisesRegex(DataError, "1 of 12 images .*object0/0.png cannot be used"):
            self.run_task(test=folder)
        protocol = Protocol(longest_side=96, dimensions=16, ignore_unreadable=True)
        result, _ = self.run_task(protocol, test=folder)
        self.assertLen(result["metrics"]["unreadable"], 1)
        os.remove(os.path.join(folder, "object0/0.png"))
        self.assertAllClose(self.run_task(test=folder)[0]["map"], result["map"])
        pictures.write(folder, "train/0.png", b"no image")
        train = shutil.copytree(self.train, os.path.join(self.root, "broken_train"))
        pictures.write(train, "0.png", b"no image")
        with self.assertRaisesRegex(DataError, "1 of 13 images .*broken_train/0.png"):
            self.run_task(train=train)
        self.assertAllClose(
            self.run_task(protocol, train=train)[0]["map"], self.run_task()[0]["map"]
        )

    def test_what_cannot_be_measured_is_refused(self):
        one = os.path.dirname(pictures.write(self.root, "one/0.png", picture(0, 0)))
        for changes, message in (
            (dict(train=None), "--train is missing"),
            (dict(train=self.groups), "are the same"),
            (
                dict(train=one, protocol=Protocol(longest_side=96)),
                "whitening to 32 dimensions needs .* 1 images of --train have 20",
            ),
            (dict(protocol=Protocol(longest_side=96, dimensions=33)), "has 32 channels"),
            (dict(test=os.path.join(self.root, "absent")), "not a folder"),
        ):
            with self.assertRaisesRegex(ConfigError, message):
                self.run_task(**changes)

    def test_features_that_are_not_finite_are_an_error(self):
        bad = np.full((9, 32), np.nan, np.float32)
        with mock.patch.object(RMACExtractor, "regions", return_value=bad):
            with self.assertRaisesRegex(DataError, "not finite"):
                self.run_task()

    def test_the_command_compares_with_random_weights_and_with_the_paper(self):
        table = os.path.join(self.root, "neighbours.csv")
        code, out, err = call(
            "evaluate",
            "--task=retrieval",
            "--params_override=longest_side=96,paper=oxford5k",
            "--noestimate",
            f"--neighbours={table}",
            f"--model={self.model}",
            f"--train={self.train}",
            f"--test={self.oxford}",
        )
        self.assertEqual(code, 0, err)
        result = json.loads(out.splitlines()[-1])
        self.assertEqual((result["kind"], result["images"], result["queries"]), ("classic", 12, 2))
        self.assertGreater(result["map"], 0.5)  # patterns differ even to random features
        self.assertRegex(out, r"\nmodel +\d+\.\d\d\nrandom init +\d+\.\d\d\n")
        self.assertRegex(out, r"\npaper: DeeperCluster +55\.8\n")
        self.check_neighbours(table, result)

    def check_neighbours(self, path, result):
        """The first ten images of both queries, by their files; average precision from them."""
        ground_truth = read_ground_truth(self.oxford)
        with open(path, newline="") as file:
            lines = list(csv.DictReader(file))
        self.assertLen(lines, 20)
        areas = []
        for number, query in enumerate(ground_truth.queries):
            own = lines[10 * number : 10 * number + 10]
            self.assertEqual({line["query"] for line in own}, {query.path})
            self.assertEqual([int(line["rank"]) for line in own], list(range(1, 11)))
            similarities = [float(line["similarity"]) for line in own]
            self.assertEqual(similarities, sorted(similarities)[::-1])
            answer = query.answers["map"]
            for line in own:
                row = int(line["row"])
                self.assertEqual(line["source"], ground_truth.database[row])
                known = "positive" if row in answer.positives else "none"
                self.assertEqual(line["relevance"], "junk" if row in answer.junk else known)
            ranked = [int(line["row"]) for line in own]
            areas.append(area_by_steps(ranked, answer.positives.tolist(), answer.junk.tolist()))
        found = [line["relevance"] for line in lines].count("positive")
        if found == 6:  # none of the positives is among the two images that are not listed
            self.assertAllClose(result["map"], np.mean(areas))

    def test_the_command_names_a_missing_image_before_any_work(self):
        folder = shutil.copytree(self.oxford, os.path.join(self.root, "gap"))
        os.remove(os.path.join(folder, "jpg/obj0_2.png"))
        with mock.patch.object(RMACExtractor, "__init__", side_effect=AssertionError):
            code, out, err = call(
                "evaluate",
                "--task=retrieval",
                f"--model={self.model}",
                f"--train={self.train}",
                f"--test={folder}",
            )
        self.assertEqual((code, out), (1, ""))
        self.assertRegex(err, "'obj0_2', named in .*obj0_1_ok.txt, is missing")


if __name__ == "__main__":
    tf.test.main()
