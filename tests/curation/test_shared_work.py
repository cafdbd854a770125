"""Two workers make what one makes: features, an index, copies, tables, assignments."""

import contextlib
import io
import json
import os
import pathlib
import shutil
import signal
import tempfile
from unittest import mock

import clustered
import faiss
import jobs
import numpy as np
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import runs
import tensorflow as tf
import workers

from dc_tf.atomic import write_json
from dc_tf.clustering.nearness import two_nearest
from dc_tf.commands.main import main
from dc_tf.curation.clusters import kmeans_nearness, record_parts
from dc_tf.curation.clusters.assign import assign_images
from dc_tf.curation.clusters.open import open_clustering, with_distances
from dc_tf.curation.clusters.table import write_cluster_table
from dc_tf.curation.duplicates import find as duplicates
from dc_tf.curation.features.open import open_features
from dc_tf.curation.search import inverted_file
from dc_tf.curation.search.inverted_file import InvertedFile
from dc_tf.curation.selection import where
from dc_tf.curation.selection.conditions import Condition
from dc_tf.data.storage.manifest import Dataset
from dc_tf.distributed.collectives import ALONE
from dc_tf.evaluation.frozen import feature_parts
from dc_tf.evaluation.frozen.embed import embed
from dc_tf.evaluation.models import open_model
from dc_tf.exporting.saved_model import export_saved_model
from dc_tf.nn.vgg16 import VGG16
from dc_tf.run_dir import RunDir

LIMIT_S = 120
SLOW = ("embed", 0.3)  # seconds longer for each batch


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


def matching(comm, data, folder):
    where._LEAST_ROWS = 8
    dataset = Dataset.open(data)
    conditions = [Condition.parse("meta/user!=user1"), Condition.parse("source>b")]
    return where.matching_rows(dataset, np.arange(dataset.rows), conditions, folder, comm)


def table(comm, clusters, data, output):
    record_parts._LEAST_ROWS = kmeans_nearness._LEAST_ROWS = 8
    made = with_distances(open_clustering(clusters=clusters, data=data), comm)
    return write_cluster_table(made, output, 1, comm)


def assigned(comm, run, data, scratch):
    found = assign_images(data, scratch, run=run, comm=comm)
    return [np.array(column) for column in (found.cluster, found.sub, found.distance)]


@pytest.mark.slow
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

    def test_a_worker_that_is_killed_costs_only_what_it_was_computing(self):
        alone, spread = self.folder(), self.folder()
        embedded(ALONE, self.model, self.data, alone)
        flags = [f"--model={self.model}", f"--data={self.data}", "--layer=fc7", "--batch_size=4"]
        flags += ["--compute_dtype=float32", "--rows_per_file=24", f"--output={spread}"]
        logs = os.path.join(self.root, "killed")
        with jobs.Job(1, ["embed", *flags], logs, SLOW) as job:
            parts = pathlib.Path(spread, "parts")
            job.wait_until_slow()
            job.wait_until(lambda: len(list(parts.glob("sources-*"))) > 2, "parts came")
            job.signal(0, signal.SIGKILL)
            job.wait(LIMIT_S)
        err = io.StringIO()
        with contextlib.redirect_stderr(err):
            self.assertEqual(main(["embed", *flags]), 0)
        self.assertRegex(err.getvalue(), r"embed: resumes at \d+/60")
        self.assert_same_files(alone, spread)

    def test_a_stop_of_one_worker_stops_all_and_one_finishes_what_two_began(self):
        alone, spread = self.folder(), self.folder()
        embedded(ALONE, self.model, self.data, alone)
        flags = [f"--model={self.model}", f"--data={self.data}", "--layer=fc7", "--batch_size=4"]
        flags += ["--compute_dtype=float32", "--rows_per_file=24", f"--output={spread}"]
        with jobs.Job(2, ["embed", *flags], os.path.join(self.root, "stopped"), SLOW) as job:
            job.wait_until_slow()
            job.signal(1, signal.SIGTERM)
            self.assertEqual(job.wait(LIMIT_S), [42, 42], job.log(0))
        self.assertFalse(os.path.exists(os.path.join(spread, "rows-00002-of-00003.npy")))
        self.assertEqual(main(["embed", *flags]), 0)
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

    def test_a_table_with_measured_distances_is_the_same(self):
        data = clustered.write_data(self.folder(), meta=clustered.photo)
        x = np.random.default_rng(0).standard_normal((clustered.ROWS, 5)).astype(np.float32)
        path = os.path.join(self.root, "z.npy")
        np.save(path, x)
        labels, *_ = two_nearest(x, x[:4], np.ones(4, bool))
        tables = []
        for run in (lambda *args: table(ALONE, *args), self.on_two(table)):
            clusters = clustered.write_kmeans(
                self.folder(),
                labels,
                x[:4],
                settings={"k": 4, "normalize": False},
                input=[{"path": path, "rows": len(x)}],
            )
            output = f"{self.folder()}.parquet"
            self.assertEqual(run(clusters, data, output)["rows"], clustered.ROWS)
            self.assertEqual(os.listdir(os.path.dirname(output)), [os.path.basename(output)])
            tables.append(pq.read_table(output))
        self.assertTrue(tables[0].equals(tables[1]))

    def test_images_get_the_same_clusters(self):
        settings, run = runs.undisturbed(1)
        data = settings["data"]["path"]
        alone = assigned(ALONE, run, data, self.folder())
        spread = self.on_two(assigned)(run, data, self.folder())
        for one, other in zip(alone[:2], spread[:2], strict=True):
            self.assertAllEqual(one, other)
        self.assertAllClose(alone[2], spread[2], atol=1e-5)

    def test_conditions_keep_the_same_rows_and_are_read_once(self):
        data = clustered.write_data(self.folder(), meta=clustered.photo)
        folder = self.folder()
        alone = matching(ALONE, data, None)
        self.assertAllEqual(alone.kept, np.arange(clustered.ROWS) % 5 != 1)
        self.assertAllEqual(self.on_two(matching)(data, folder).kept, alone.kept)
        self.assertLen(os.listdir(folder), 1 + -(-clustered.ROWS // 8))
        with mock.patch.object(where, "_states", side_effect=AssertionError("reads again")):
            self.assertAllEqual(matching(ALONE, data, folder).kept, alone.kept)

    @pytest.mark.extended
    def test_the_commands_of_a_run_give_on_two_workers_what_they_give_on_one(self):
        settings, run = runs.undisturbed(1)
        data = Dataset.open(settings["data"]["path"])
        tables = {"duplicates": "duplicates.parquet", "search": "near.csv", "clusters": "c.csv"}
        flags = {
            "duplicates": ("--layer=conv4", "--k=4", "--threshold=0.7"),
            "search": ("--layer=conv4", "--query=3", "--query=77"),
            "clusters": (),
        }
        for command, name in tables.items():
            found = []
            for size in (1, 2):
                copy, output = self.folder(), self.folder()
                shutil.copytree(run, copy)
                about = {"path": data.path, "fingerprint": data.fingerprint()}
                write_json(RunDir(copy).data, about)
                if command != "duplicates":
                    os.makedirs(output)
                    output = os.path.join(output, name)
                words = [command, f"--run={copy}", *flags[command], f"--output={output}"]
                with jobs.Job(size, words, os.path.join(os.path.dirname(output), "logs")) as job:
                    self.assertEqual(job.wait(LIMIT_S), [0] * size, job.log(0))
                path = os.path.join(output, name) if command == "duplicates" else output
                read = pq.read_table if name.endswith("parquet") else pyarrow.csv.read_csv
                table = read(path)
                if command == "duplicates":
                    # Rounding may decide which of a group is nearest the centroid, and is kept;
                    # with equal features all is equal, as another test shows.
                    kept = table.filter(pc.field("keeper"))
                    self.assertLen(set(kept["group"].to_pylist()), kept.num_rows)
                    table = table.sort_by([("group", "ascending"), ("row", "ascending")])
                    table = table.select(["row", "group", "source", "width", "height"])
                if command == "search":  # nor which of two that are equally near comes first
                    table = table.select(["query", "rank", "similarity"])
                found.append(table.to_pydict())
            self.assertNotEmpty(found[0]["rank" if command == "search" else "row"])
            self.assertEqual(found[0].keys(), found[1].keys())
            for column, values in found[0].items():
                if column == "similarity":
                    self.assertAllClose(values, found[1][column], atol=1e-5)
                else:
                    self.assertEqual(values, found[1][column], f"{command} {column}")

    def on_two(self, function):
        """What the first of two workers returns."""
        return lambda *args: workers.on_workers(2, function, *args, timeout_s=LIMIT_S)[0]

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
