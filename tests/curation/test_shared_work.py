"""Two workers make what one makes: features, an index, copies, tables, assignments."""

import json
import os
import shutil
import tempfile

import faiss
import jobs
import numpy as np
import runs
import tensorflow as tf
import workers

from dc_tf.commands.main import main
from dc_tf.curation import duplicates, inverted_file
from dc_tf.curation.features import open_features
from dc_tf.curation.inverted_file import InvertedFile
from dc_tf.data.storage.manifest import Dataset
from dc_tf.distributed.collectives import ALONE
from dc_tf.evaluation.frozen import feature_parts
from dc_tf.evaluation.frozen.embed import embed
from dc_tf.evaluation.models import open_model
from dc_tf.exporting.saved_model import export_saved_model
from dc_tf.nn.vgg16 import VGG16

LIMIT_S = 120


def embedded(comm, model, data, output):
    feature_parts._MOST_ROWS = 8
    frozen, dataset = open_model(model), Dataset.open(data)
    return embed(frozen, dataset, output, ("fc7",), batch_size=4, rows_per_file=24, comm=comm)


def indexed(comm, path, folder):
    inverted_file._PART_LEAST = 64
    InvertedFile.of(open_features(features=path), folder, comm)


def copies(comm, path, data, work):
    duplicates._PART_LEAST = 8
    settings = duplicates.Settings(threshold=0.9, whiten=0, k=6)
    features = open_features(features=path, data=data)
    return duplicates.find_duplicates(features, settings, work, workers=1, comm=comm)


class SharedWorkTest(tf.test.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.root = tempfile.mkdtemp()
        cls.addClassCleanup(shutil.rmtree, cls.root)
        cls.data = runs.make_data(cls.root, images=60)
        cls.model = os.path.join(cls.root, "model")
        trunk = VGG16(width=1 / 16, resolution=32, fc=12, seed=7).built_at_resolution()
        export_saved_model(trunk, cls.model, short_side=32)

    def folder(self):
        return os.path.join(tempfile.mkdtemp(dir=self.root), "out")

    def test_features_have_the_same_bytes(self):
        alone, spread = self.folder(), self.folder()
        embedded(ALONE, self.model, self.data, alone)
        abouts = workers.on_workers(2, embedded, self.model, self.data, spread, timeout_s=LIMIT_S)
        self.assertEqual(abouts[0], abouts[1])
        self.assert_same_files(alone, spread)
        self.assertLen(os.listdir(spread), 1 + 3 * 3)  # embed.json; three files of each kind

    def test_the_command_shares_them_and_the_first_worker_says_what_they_are(self):
        alone, spread = self.folder(), self.folder()
        flags = [f"--model={self.model}", f"--data={self.data}", "--layer=fc7", "--batch_size=4"]
        flags.append("--compute_dtype=float32")
        self.assertEqual(main(["embed", *flags, f"--output={alone}"]), 0)
        command = ["embed", *flags, f"--output={spread}"]
        with jobs.Job(2, command, os.path.join(self.root, "logs")) as job:
            self.assertEqual(job.wait(LIMIT_S), [0, 0], job.log(0))
            self.assertEqual(job.result()["rows"], 60)
        self.assert_same_files(alone, spread)
        self.assertEqual(os.listdir(os.path.dirname(spread)), ["out"])

    def test_an_index_has_the_same_lists(self):
        path = os.path.join(self.root, "x.npy")
        x = np.random.default_rng(0).standard_normal((700, 8)).astype(np.float32)
        np.save(path, x)
        alone, spread = self.folder(), self.folder()
        indexed(ALONE, path, alone)
        workers.on_workers(2, indexed, path, spread, timeout_s=LIMIT_S)
        found = [self.lists(folder) for folder in (alone, spread)]
        self.assertEqual(sorted(sum(found[0], [])), list(range(700)))
        self.assertEqual(found[0], found[1])
        with open(f"{alone}/index.json") as a, open(f"{spread}/index.json") as b:
            self.assertEqual(json.load(a), json.load(b))

    def test_copies_are_the_same(self):
        x = np.random.default_rng(0).standard_normal((60, 8)).astype(np.float32)
        x[30:40] = x[:10] + 0.05
        path = os.path.join(self.root, "y.npy")
        np.save(path, x)
        work = self.folder()
        alone = copies(ALONE, path, self.data, self.folder())
        spread, nothing = workers.on_workers(2, copies, path, self.data, work, timeout_s=LIMIT_S)
        self.assertIsNone(nothing)
        self.assertGreaterEqual(len(alone.rows), 20)
        for name in ("rows", "group", "keeper", "kind", "width", "height"):
            self.assertAllEqual(getattr(spread, name), getattr(alone, name), name)
        self.assertAllClose(spread.similarity, alone.similarity, atol=1e-6)

    def lists(self, folder):
        index = faiss.read_index(f"{folder}/index.faiss", faiss.IO_FLAG_ONDISK_SAME_DIR)
        lists = index.invlists
        return [
            faiss.rev_swig_ptr(lists.get_ids(n), lists.list_size(n)).tolist()
            for n in range(index.nlist)
        ]

    def assert_same_files(self, first, second):
        self.assertCountEqual(os.listdir(first), os.listdir(second))
        for name in os.listdir(first):
            with open(os.path.join(first, name), "rb") as a:
                with open(os.path.join(second, name), "rb") as b:
                    self.assertEqual(a.read(), b.read(), name)


if __name__ == "__main__":
    tf.test.main()
