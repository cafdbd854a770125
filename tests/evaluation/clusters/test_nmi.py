"""Agreement of clusters with labels and metadata: closed forms, columns, and whole runs."""

import contextlib
import dataclasses
import io
import json
import os
import shutil
import tempfile
from unittest import mock

import numpy as np
import pytest
import runs
import tensorflow as tf
import workers
from striped import call, write_model, write_stripes

from dc_tf.data.storage.manifest import Dataset
from dc_tf.data.storage.writer import DatasetWriter
from dc_tf.errors import ConfigError, DataError
from dc_tf.evaluation.clusters.nmi import Protocol, compare, purity, read_columns, run, table
from dc_tf.evaluation.tasks import Request


class MetricsTest(tf.test.TestCase):
    def test_in_closed_form(self):
        values = np.repeat([0, 1, 2], 8)
        same = compare(5 - values, values)  # other names, the same parts
        expected = {"nmi": 1, "adjusted_rand": 1, "purity": 1, "rows": 24, "values": 3}
        self.assertAllClose(same, expected)
        crossed = compare(np.tile([0, 1], 12), values)  # independent
        self.assertAllClose(crossed["nmi"], 0.0, atol=1e-9)
        self.assertLess(crossed["adjusted_rand"], 0.0)
        self.assertAllClose(crossed["purity"], 1 / 3)
        # Two of three clusters joined: I = H(joined), so 2 H(joined) / (H(joined) + log 3).
        joined = compare(np.minimum(values, 1), values)
        entropy = -(1 / 3 * np.log(1 / 3) + 2 / 3 * np.log(2 / 3))
        self.assertAllClose(joined["nmi"], 2 * entropy / (entropy + np.log(3)))
        self.assertAllClose(joined["purity"], 2 / 3)

    def test_rows_without_a_value_are_left_out(self):
        clusters, values = np.array([0, 0, 1, 1, 1]), np.array([0, -1, 1, -1, 1])
        self.assertAllClose(compare(clusters, values)["nmi"], 1.0)
        self.assertEqual(compare(clusters, values)["rows"], 3)
        self.assertEqual(compare(clusters, np.full(5, -1))["rows"], 0)

    def test_purity_counts_the_most_frequent_value_of_each_cluster(self):
        clusters = np.array([7, 7, 7, 2, 2, 9])
        self.assertAllClose(purity(clusters, np.array([1, 1, 0, 5, 4, 3])), 4 / 6)


class TableTest(tf.test.TestCase):
    def test_every_metric_has_a_block_with_a_line_per_round_and_a_column_per_column(self):
        nmi, rand, share = [0.1, 0.2, 0.3, 0.4], [-0.012, 0.0, 0.5, 1.0], [0.25, 0.5, 0.75, 1.0]
        places = [(number, name) for number in (0, 11) for name in ("label", "photographer")]
        result = [
            {"stage": 1, "round": number, "level": "sub_clusters", "column": name}
            | {"nmi": nmi[i], "adjusted_rand": rand[i], "purity": share[i]}
            for i, (number, name) in enumerate(places)
        ]
        blocks = [block.splitlines() for block in table(result).split("\n\n")]
        self.assertEqual(
            blocks[2],
            [
                "adjusted_rand: adjusted Rand index, 0 by chance, of clusters with",
                "stage round level          label  photographer",
                "    1     0 sub_clusters  -0.012         0.000",
                "    1    11 sub_clusters   0.500         1.000",
            ],
        )
        for block, (name, values) in zip(
            blocks[:2], (("nmi", nmi), ("purity", share)), strict=True
        ):
            self.assertStartsWith(block[0], f"{name}: ")
            self.assertEqual(block[1], blocks[2][1])
            found = [float(number) for line in block[2:] for number in line.split()[3:]]
            self.assertEqual(found, values)


class ColumnsTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        path = os.path.join(tempfile.mkdtemp(dir=self.get_temp_dir()), "data")
        png = tf.io.encode_png(np.zeros((8, 8, 3), np.uint8)).numpy()
        metas = [
            {"hashtags": ["sea", "dog"], "latitude": 10.2, "longitude": -0.5, "user": "a"},
            {"hashtags": ["sea"], "latitude": 10.9, "longitude": -0.1},
            {"hashtags": ["sea", "cat"], "latitude": 11.1, "longitude": 0.5, "user": "b"},
            {},
        ]
        with DatasetWriter(path, class_names=("x", "y")) as writer:
            for number, meta in enumerate(metas):
                writer.write(png, label=number % 2, source=f"{number}.png", meta=meta)
        self.dataset = Dataset.open(path)

    def test_an_image_has_its_rarest_hashtag_and_a_cell_for_a_place(self):
        columns = read_columns(self.dataset, Protocol()).values
        self.assertCountEqual(columns, ["label", "hashtags", "place", "user"])
        self.assertAllEqual(columns["label"], [0, 1, 0, 1])
        self.assertAllEqual(columns["hashtags"], [0, 1, 2, -1])  # dog, sea, cat
        self.assertAllEqual(columns["place"], [0, 0, 1, -1])
        self.assertAllEqual(columns["user"], [0, -1, 1, -1])
        wide = read_columns(self.dataset, Protocol(("place",), cell_degrees=30.0)).values
        self.assertAllEqual(wide["place"], [0, 0, 1, -1])  # either side of longitude 0

    def test_rows_are_spread_over_the_data_set(self):
        columns = read_columns(self.dataset, Protocol(max_rows=2))
        self.assertAllEqual(columns.rows, [0, 3])
        self.assertAllEqual(columns.values["user"], [0, -1])

    def test_a_column_that_is_not_there_is_refused(self):
        with self.assertRaisesRegex(ConfigError, "no column mood; it has label, .*hashtags"):
            read_columns(self.dataset, Protocol(("mood", "label")))


@pytest.mark.slow
class RunTest(tf.test.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.folder = tempfile.mkdtemp()
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        settings, cls.run_folder = runs.undisturbed(1)
        cls.data = settings["data"]["path"]

    def test_every_round_is_compared_with_every_column(self):
        output = os.path.join(self.folder, "nmi.json")
        code, out, err = call(
            "evaluate",
            "--task=nmi",
            f"--model={self.run_folder}",
            "--params_override=columns=[label,camera]",
            f"--output={output}",
        )
        self.assertEqual(code, 0, err)
        result = json.loads(out.splitlines()[-1])
        found = {(o["round"], o["level"], o["column"]): o for o in result["clusterings"]}
        self.assertLen(found, 2 * 2 * 2)
        logged = [m for m in runs_metrics(self.run_folder) if m["event"] == "clustering"]
        for line in logged:
            ours = found[line["round"], "sub_clusters", "label"]
            self.assertAllClose(ours["nmi"], line["nmi_labels"])
        with open(output, encoding="utf-8") as file:
            self.assertEqual(json.load(file), result)
        shown = r"stage round level +label +camera\n +1 +0 clusters"
        for metric in ("nmi", "purity", "adjusted_rand"):
            self.assertRegex(out, rf"(^|\n){metric}: .*\n{shown}")

    def test_what_cannot_be_compared_is_refused(self):
        other = runs.make_data(tempfile.mkdtemp(dir=self.folder), images=41)
        for flags, code, message in (
            ((f"--model={self.data}",), 2, "neither a run .* nor the --output of a `dc_tf kmeans`"),
            ((f"--model={self.run_folder}", f"--train={other}"), 1, "clustered 128 .* has 41"),
            (
                (f"--model={self.run_folder}", "--params_override=columns=[mood]"),
                2,
                "no column mood",
            ),
            ((f"--model={self.run_folder}", "--params_override=max_rows=0"), 2, "max_rows is 0"),
        ):
            found, _, err = call("evaluate", "--task=nmi", *flags)
            self.assertEqual(found, code, err)
            self.assertRegex(err, message)

    def test_two_workers_find_what_one_finds_and_only_the_first_shows_progress(self):
        for max_rows in (128, 53):
            arguments = self.run_folder, self.data, {"max_rows": max_rows}
            ((alone, _),) = workers.on_cluster(1, measured_on, *arguments)
            (first, shown), (second, silence) = workers.on_cluster(2, measured_on, *arguments)
            self.assertEqual((first, second), (alone, alone))
            self.assertEqual(alone["rows"], max_rows)
            self.assertContainsSubset(
                ["label", "camera"], {line["column"] for line in alone["clusterings"]}
            )
            self.assertIn(f"metadata: {max_rows}/{max_rows} images (100%), done", shown)
            self.assertEmpty(silence)

    def test_a_read_error_on_one_of_two_workers_stops_both(self):
        corrupt = os.path.join(self.folder, "corrupt")
        shutil.copytree(self.run_folder, corrupt)
        second = sorted(os.listdir(os.path.join(corrupt, "clusterings")))[-1]
        (block,) = tf.io.gfile.glob(os.path.join(corrupt, "clusterings", second, "block-*"))
        os.remove(block)
        first, second = workers.on_cluster(2, measured_on, corrupt, self.data, {})
        self.assertIn("worker 1 failed; see its log", first[0])
        self.assertIn("has no complete assignments", second[0])


def measured_on(cluster, model, train, settings):
    """A worker's result or error, and its progress output."""
    from dc_tf.evaluation.clusters import nmi

    shown = io.StringIO()
    request = Request("nmi", model, train=train, cluster=cluster)
    with mock.patch.object(nmi, "_BLOCK", 7), contextlib.redirect_stderr(shown):
        try:
            found, _ = nmi.run(request, Protocol(**settings))
        except DataError as error:
            found = str(error)
    return found, shown.getvalue()


class FeaturesTest(tf.test.TestCase):
    def test_clusters_of_given_features_are_compared_with_labels(self):
        folder = self.get_temp_dir()
        data = write_stripes(os.path.join(folder, "data"), 30, 0, "abc", lambda c: c == "c")
        labels = Dataset.open(data).labels().astype(np.int64)
        exact = np.eye(3, dtype=np.float32)[labels] + np.float32(3)
        np.save(os.path.join(folder, "x.npy"), exact)
        request = Request("nmi", train=data, features=os.path.join(folder, "x.npy"))
        found, text = run(request, Protocol(columns=("label",)))  # as many as classes
        (line,) = found["clusterings"]
        self.assertAllClose((line["nmi"], line["rows"], line["values"]), (1.0, len(labels), 3))
        self.assertIn("nmi: normalised mutual information", text)
        shared = workers.on_cluster(2, measured_on_features, request)
        self.assertEqual(shared, [found, found])
        found, _ = run(request, Protocol(columns=("label",), k=2))
        self.assertLess(found["clusterings"][0]["nmi"], 1.0)
        flags = f"--train={data}", f"--features={request.features}"
        code, _, err = call("evaluate", "--task=nmi", *flags)
        self.assertEqual(code, 0, err)
        self.assertRegex(err, r"nmi: 1 clustering of 30 images: about \d+ s on this machine\n")
        with self.assertRaisesRegex(ConfigError, "--train is missing"):
            run(dataclasses.replace(request, train=None), Protocol())
        with self.assertRaisesRegex(ConfigError, "k is 3, but --model=RUN has clusters already"):
            run(Request("nmi", model="RUN"), Protocol(k=3))


def measured_on_features(cluster, request):
    request = dataclasses.replace(request, cluster=cluster)
    return run(request, Protocol(columns=("label",)))[0]


@pytest.mark.slow
class KMeansTest(tf.test.TestCase):
    """Clusters of rows that `dc_tf embed` wrote, or of any others."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.folder = tempfile.mkdtemp()
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        # Three classes, so that a different order of rows gives different labels.
        cls.data = write_stripes(os.path.join(cls.folder, "data"), 50, 0, "abc", lambda c: c == "c")
        model = write_model(os.path.join(cls.folder, "model"))
        cls.features = os.path.join(cls.folder, "features")
        done("embed", f"--model={model}", f"--data={cls.data}", f"--output={cls.features}")
        embed = [f"--model={model}", f"--data={cls.data}", "--batch_size=8", "--rows_per_file=16"]
        cls.parts = os.path.join(cls.folder, "parts")
        done("embed", *embed, f"--output={cls.parts}")

    def clustered(self, pattern):
        output = tempfile.mkdtemp(dir=self.folder)
        done("kmeans", f"--input={pattern}", "--k=4", f"--output={output}")
        return output

    def measured(self, clusters):
        text = done("evaluate", "--task=nmi", f"--model={clusters}", f"--train={self.data}")
        return json.loads(text.splitlines()[-1])["clusterings"], text

    def refusal(self, clusters, *flags):
        code, _, err = call("evaluate", "--task=nmi", f"--model={clusters}", *flags)
        self.assertGreater(code, 0)
        return err

    def expected(self, labels):
        place = {"stage": None, "round": None, "level": "clusters", "column": "label"}
        return [place | compare(labels, Dataset.open(self.data).labels().astype(np.int64))]

    def test_the_labels_are_those_of_the_rows_in_whatever_order_they_were_clustered(self):
        whole = self.clustered(f"{self.features}/fc7-*.npy")
        found, text = self.measured(whole)
        self.assertEqual(found, self.expected(np.load(f"{whole}/assignments.npy")))
        self.assertRegex(text, r"stage round level +label\n +- +- clusters +\d\.\d\d\d\n")
        names = [f"{self.parts}/fc7-{i:05d}-of-00004.npy" for i in range(4)]
        turned = self.clustered(",".join(names[::-1]))
        found, _ = self.measured(turned)
        labels = np.load(f"{turned}/assignments.npy")
        pieces = np.split(labels, np.cumsum([2, 16, 16]))
        self.assertEqual(found, self.expected(np.concatenate(pieces[::-1])))
        self.assertNotEqual(found, self.expected(labels))

    def test_rows_from_elsewhere_are_taken_in_the_order_of_the_data_set(self):
        path = os.path.join(self.folder, "mine.npy")
        np.save(path, np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32))
        clusters = self.clustered(path)
        with self.assertLogs("absl", "WARNING") as logs:
            found, _ = self.measured(clusters)
        self.assertIn(f"lie beside {path}", logs.output[0])
        self.assertEqual(found, self.expected(np.load(f"{clusters}/assignments.npy")))

    def test_rows_that_are_not_those_of_the_data_set_are_refused(self):
        clusters = self.clustered(f"{self.features}/fc7-*.npy")
        self.assertRegex(self.refusal(clusters), "--train is missing, .* data set that was embed")
        other = write_stripes(os.path.join(self.folder, "other"), 50, seed=1)
        message = self.refusal(clusters, f"--train={other}")
        self.assertRegex(message, "data set of 50 rows, sha.* --train=.*/other has 50 rows")
        part = self.clustered(f"{self.parts}/fc7-00001-of-*.npy")
        message = self.refusal(part, f"--train={self.data}")
        self.assertRegex(message, "clustered 16 rows of .*fc7-00001.* not the 50 rows of --train")
        self.assertIn(f"all files of one layer of `dc_tf embed --data={self.data}`", message)
        twice = self.clustered(f"{self.parts}/fc7-*.npy,{self.features}/fc7-*.npy")
        message = self.refusal(twice, f"--train={self.data}")
        self.assertRegex(message, "clustered 100 rows of .* and 4 more")
        os.remove(os.path.join(clusters, "assignments.npy"))
        self.assertIn("no clustering that can be", self.refusal(clusters, f"--train={self.data}"))
        os.remove(os.path.join(clusters, "clustering.json"))
        self.assertIn("that has finished", self.refusal(clusters, f"--train={self.data}"))

    def test_a_folder_is_found_from_wherever_the_command_is_called(self):
        before = os.getcwd()
        os.chdir(self.features)
        try:
            clusters = self.clustered("fc7-*.npy")
        finally:
            os.chdir(before)
        with self.assertNoLogs("absl", "WARNING"):
            self.measured(clusters)


def done(*arguments):
    """Standard output of a command that must succeed."""
    code, out, err = call(*arguments)
    assert code == 0, err
    return out


def runs_metrics(folder):
    with open(os.path.join(folder, "metrics.jsonl"), encoding="utf-8") as file:
        return [json.loads(line) for line in file]


if __name__ == "__main__":
    tf.test.main()
