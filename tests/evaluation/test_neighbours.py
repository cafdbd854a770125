"""The table of nearest images: file names, labels and similarities of the right rows."""

import csv
import json
import os
import shutil
import tempfile

import jobs
import numpy as np
import pytest
import tensorflow as tf
from striped import NAMES, call, write_model, write_stripes

from dc_tf.evaluation.frozen import knn


def read(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
class NeighboursTest(tf.test.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.root = tempfile.mkdtemp()
        cls.addClassCleanup(shutil.rmtree, cls.root)
        cls.train = write_stripes(os.path.join(cls.root, "train"), 60, seed=0)
        cls.test = write_stripes(os.path.join(cls.root, "test"), 41, seed=1)
        cls.model = write_model(os.path.join(cls.root, "model"))

    def flags(self, table, test=None, layers="conv2,conv4,fc7"):
        return [
            "--task=knn",
            f"--model={self.model}",
            f"--train={self.train}",
            f"--test={test or self.test}",
            f"--layer={layers}",
            f"--neighbours={table}",
            "--compute_dtype=float32",
            "--noestimate",
        ]

    def test_they_are_the_nearest_rows_with_their_names_and_labels(self):
        table = os.path.join(self.root, "near.csv")
        code, out, err = call("evaluate", *self.flags(table))
        self.assertEqual(code, 0, err)
        result = json.loads(out.splitlines()[-1])
        lines = read(table)
        self.assertLen(lines, 41 * 5)
        self.assertEqual({line["layer"] for line in lines}, {result["best_layer"]})
        hits = []
        for number, line in enumerate(lines):
            test_row, rank = divmod(number, 5)
            self.assertEqual((int(line["test_row"]), int(line["rank"])), (test_row, rank + 1))
            self.assertEqual(line["test_source"], f"{test_row}.png")
            self.assertEqual(line["label"], NAMES[test_row % 2])
            row = int(line["row"])
            self.assertEqual(line["source"], f"{row}.png")
            self.assertEqual(line["neighbour_label"], NAMES[row % 2])
            hits.append(line["prediction"] == line["label"])
        self.assertAllClose(np.mean(hits), result["top1"])
        similarities = np.array([float(line["similarity"]) for line in lines]).reshape(-1, 5)
        self.assertAllEqual(similarities, -np.sort(-similarities, axis=1))

    def test_an_image_is_its_own_nearest(self):
        table = os.path.join(self.root, "self.csv")
        code, _, err = call("evaluate", *self.flags(table, self.train, "conv4"), "--norandom_init")
        self.assertEqual(code, 0, err)
        for line in read(table)[::5]:
            self.assertEqual(line["row"], line["test_row"])
            self.assertAllClose(float(line["similarity"]), 1.0, atol=1e-4)

    def test_votes_of_given_neighbours_are_those_of_classify(self):
        random = np.random.default_rng(0)
        train, test = (random.standard_normal((n, 6)).astype(np.float32) for n in (50, 20))
        labels = random.integers(0, 3, 50)
        expected = knn.classify(train, test, labels, 3, (1, 5))
        found = knn.voted(*knn.nearest(train, test, 5), labels, 3, (1, 5), 0.07)
        for k in (1, 5):
            self.assertAllEqual(found[k], expected[k])

    def test_other_tasks_and_endings_are_refused(self):
        flags = [f"--model={self.model}", f"--train={self.train}", f"--test={self.test}"]
        for task, name, message in (
            ("low_shot", "x.csv", "is for the tasks knn and retrieval"),
            ("knn", "x.json", "its end must be .csv"),
        ):
            given = [f"--task={task}", f"--neighbours={os.path.join(self.root, name)}"]
            code, out, err = call("evaluate", *flags, *given)
            self.assertEqual((code, out), (2, ""))
            self.assertIn(message, err)

    def test_two_workers_find_what_one_finds(self):
        tables = [os.path.join(self.root, name) for name in ("alone.csv", "both.csv")]
        self.assertEqual(call("evaluate", *self.flags(tables[0]))[0], 0)
        command = ["evaluate", *self.flags(tables[1])]
        with jobs.Job(2, command, os.path.join(self.root, "logs")) as job:
            self.assertEqual(job.wait(120), [0, 0], job.log(0))
        alone, both = map(read, tables)
        for name in ("layer", "test_source", "row", "source", "prediction"):
            self.assertEqual([a[name] for a in alone], [b[name] for b in both], name)


if __name__ == "__main__":
    tf.test.main()
