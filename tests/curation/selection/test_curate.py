"""The command from features or clusters to a view, and everything that it refuses."""

import contextlib
import io
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import numpy as np
import pictures
import pytest
import tensorflow as tf

from dc_tf.commands.main import main
from dc_tf.data.storage.manifest import Dataset
from dc_tf.data.storage.writer import DatasetWriter

ROOT = pathlib.Path(__file__).resolve().parents[3]
ROWS = 240


class CurateTest(tf.test.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.root = tempfile.mkdtemp()
        cls.addClassCleanup(shutil.rmtree, cls.root)
        rng = np.random.default_rng(0)
        cls.labels = np.minimum(rng.geometric(0.4, ROWS) - 1, 4)
        centers = 10 * rng.normal(size=(5, 6))
        features = centers[cls.labels] + rng.normal(size=(ROWS, 6))
        cls.features = os.path.join(cls.root, "features.npy")
        np.save(cls.features, features.astype(np.float32))
        cls.data = os.path.join(cls.root, "data")
        with DatasetWriter(cls.data, list("abcde"), rows_per_shard=100) as writer:
            for row, label in enumerate(cls.labels.tolist()):
                meta = {"even": (row + 1) % 2, "place": "sea" if row % 3 else "sky"}
                writer.write(pictures.encoded(row, size=(4, 4)), label, f"{row}.png", meta)
        cls.clusters = os.path.join(cls.root, "clusters")
        code, _, _ = call(
            "kmeans", f"--input={cls.features}", "--k=5", "--init=k-means++",
            f"--output={cls.clusters}",
        )  # fmt: skip
        assert code == 0

    def setUp(self):
        super().setUp()
        self.folder = tempfile.mkdtemp(dir=self.root)
        self.view = os.path.join(self.folder, "view")

    def curate(self, *flags, data=None):
        return call("curate", f"--data={data or self.data}", *flags)

    def chosen(self, *flags):
        code, result, errors = self.curate(f"--output={self.view}", *flags)
        self.assertEqual(code, 0, errors)
        rows = Dataset.open(self.view).row_list.row_ids
        self.assertEqual(result["rows"], len(rows))
        return np.asarray(rows), result

    def refused(self, *flags, code=2):
        found, _, errors = self.curate(*flags)
        self.assertEqual(found, code, errors)
        self.assertFalse(os.path.exists(self.view))
        return errors.strip().splitlines()[-1]

    def tree_flags(self):
        return f"--features={self.features}", "--levels=20,5", "--rounds=2", "--iterations=3"

    def test_a_target_gives_a_balanced_view_that_is_a_data_set(self):
        rows, result = self.chosen(*self.tree_flags(), "--target=50")
        self.assertLen(rows, 50)
        self.assertAllEqual(rows, np.unique(rows))
        before, after = (result["classes"][name]["entropy"] for name in ("before", "after"))
        self.assertGreater(after, before + 0.1)
        self.assertEqual(result["steps"], [{"rule": "target", "rows": 50}])
        view = Dataset.open(self.view)
        self.assertAllEqual(view.labels(), self.labels[rows])
        self.assertEqual(view.origin["made_by"], "dc_tf curate")
        self.assertEqual(view.origin["settings"]["target"], 50)
        with open(os.path.join(self.view, "sources.jsonl")) as file:
            lines = list(map(json.loads, file))
        expected = [{"row": i, "source": f"{row}.png"} for i, row in enumerate(rows)]
        self.assertEqual(lines, expected)
        again = self.curate(f"--output={self.view}", *self.tree_flags(), "--target=50")
        self.assertEqual((again[0], again[1]), (0, result))

    def test_the_tree_is_used_again_for_another_target_and_not_for_other_settings(self):
        self.chosen(*self.tree_flags(), "--target=50")
        tree = f"--tree={self.view}.tree"
        other = os.path.join(self.folder, "other")
        code, _, errors = self.curate(
            f"--output={other}", tree, *self.tree_flags(), "--target=30", "--choice=nearest"
        )
        self.assertEqual(code, 0, errors)
        self.assertNotIn("round 1", errors)
        self.assertEqual(Dataset.open(other).rows, 30)
        code, _, errors = self.curate(
            f"--output={other}2", tree, *self.tree_flags(), "--target=30", "--nonormalize"
        )
        self.assertEqual(code, 2)
        self.assertRegex(errors, "holds other clusters .different: normalize.; use another --tree")

    def test_a_finished_clustering_is_used(self):
        rows, result = self.chosen(f"--clusters={self.clusters}", "--max_per_cluster=7")
        found = np.load(os.path.join(self.clusters, "assignments.npy"))
        sizes = np.bincount(found)
        self.assertAllEqual(np.bincount(found[rows], minlength=5), np.minimum(sizes, 7))
        self.assertEqual(result["clusters"]["after"]["used"], 5)
        self.assertFalse(os.path.exists(f"{self.view}.tree"))

    def test_the_nearest_of_a_finished_clustering_need_features(self):
        flags = (f"--clusters={self.clusters}", "--max_per_cluster=1", "--choice=nearest")
        message = self.refused(f"--output={self.view}", *flags)
        self.assertIn("--choice=nearest needs distances to centroids; give --features", message)
        rows, _ = self.chosen(*flags, f"--features={self.features}")
        labels, x = np.load(os.path.join(self.clusters, "assignments.npy")), np.load(self.features)
        for row in rows:
            own = np.flatnonzero(labels == labels[row])
            distances = np.linalg.norm(x[own] - x[own].mean(0), axis=1)
            self.assertEqual(row, own[distances.argmin()])

    def test_conditions_and_lists_need_no_features(self):
        drop = pictures.write(self.folder, "drop.txt", "0\n4\n")
        rows, result = self.chosen(
            "--where=meta/even=1", "--where=meta/place=sea", f"--drop_rows={drop}"
        )
        expected = [row for row in range(0, ROWS, 2) if row % 3 and row != 4]
        self.assertAllEqual(rows, expected)
        self.assertEqual([step["rule"] for step in result["steps"]], ["drop_rows", "where"])

    def test_a_dry_run_counts_and_writes_nothing(self):
        before = os.listdir(self.folder)
        code, result, _ = self.curate(*self.tree_flags(), "--target=50", "--dry_run")
        self.assertEqual((code, result["rows"], result["output"]), (0, 50, None))
        code, result, _ = self.curate("--where=class=a", "--dry_run", f"--output={self.view}")
        self.assertEqual((code, result["rows"]), (0, int((self.labels == 0).sum())))
        self.assertEqual(os.listdir(self.folder), before)

    def test_a_view_is_curated_further_and_copied(self):
        first, _ = self.chosen("--where=meta/even=1")
        nested, own = os.path.join(self.folder, "nested"), os.path.join(self.folder, "own")
        code, result, errors = self.curate(
            "--where=class=b", f"--output={nested}", f"--materialize={own}", data=self.view
        )
        self.assertEqual(code, 0, errors)
        expected = first[self.labels[first] == 1]
        self.assertAllEqual(Dataset.open(nested).row_list.row_ids, expected)
        self.assertEqual(result["materialized"]["rows"], len(expected))
        self.assertEqual(pictures.sources(own), [f"{row}.png" for row in expected])

    def test_a_whole_view_is_written_as_tars(self):
        self.chosen("--where=class=b")
        tars = os.path.join(self.folder, "tars")
        code, result, errors = self.curate(
            f"--materialize={tars}", "--format=webdataset", data=self.view
        )
        self.assertEqual(code, 0, errors)
        self.assertEqual(result["materialized"]["files"], 1)
        self.assertIn("00000.tar", os.listdir(tars))

    def test_what_cannot_work_is_refused_in_one_line(self):
        output, features = f"--output={self.view}", f"--features={self.features}"
        text = pictures.write(self.folder, "rows.txt", "3\nfour\n")
        other = os.path.join(self.folder, "other.npy")
        np.save(other, np.zeros((3, 2), np.float32))
        for flags, message in [
            ([output], "no rule was given; give --target=N"),
            ([output, "--target=5"], "--target needs clusters; give --features=FEATURES"),
            ([features, "--target=5"], "give --output=VIEW for the result, or --dry_run"),
            ([output, features, "--drop_rarest=1"], "--drop_rarest=1.0; use a share"),
            ([output, features, "--target=5", "--levels=5,5"], "descending numbers"),
            ([output, features, "--target=5", "--levels=5,x"], "give numbers of clusters"),
            ([output, features, "--target=5", "--levels=999"], "999 clusters need as many rows"),
            ([output, "--where=hashtag=sea"], "--where=hashtag=sea is not a condition"),
            ([output, f"--rows={text}"], "rows.txt is no list of row ids"),
            (
                [output, "--rows=gone.npy"],
                "gone.npy cannot be read: No such .*; give a file",
            ),
            ([output, f"--features={other}", "--target=2"], "has 3 rows, but --data="),
            ([output, f"--clusters={self.folder}", "--target=2"], "--clusters=.* is neither"),
            ([f"--output={self.data}", "--where=label=1"], "is the data set that the rows are of"),
            ([f"--output={self.folder}", "--where=label=1"], "is not empty"),
            ([output, f"--clusters={self.clusters}", "--levels=3", "--target=2"], "--levels is"),
        ]:
            with self.subTest(message):
                self.assertRegex(self.refused(*flags), f"^dc_tf: .*{message}")

    @pytest.mark.slow
    def test_two_workers_choose_the_rows_of_one(self):
        flags = (*self.tree_flags(), "--precision=float32", "--target=50", "--choice=nearest")
        rows, _ = self.chosen(*flags)
        spread = os.path.join(self.folder, "spread")
        command = [sys.executable, "-m", "dc_tf", "launch", "--workers=2", "--", "curate"]
        done = subprocess.run(
            [*command, f"--data={self.data}", f"--output={spread}", *flags],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=200,
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertAllEqual(Dataset.open(spread).row_list.row_ids, rows)
        self.assertNotIn("warning", done.stderr)
        left = os.listdir(self.folder)
        self.assertCountEqual(left, ["view", "view.tree", "spread", "spread.tree"])

    def test_rules_that_leave_no_row_fail_with_the_counts(self):
        code, result, errors = self.curate(f"--output={self.view}", "--where=meta/even=7")
        self.assertEqual((code, result["rows"]), (1, 0))
        self.assertIn("no row is left", errors)


def call(*args):
    """(exit code, result, stderr) of a command line."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(list(args))
    lines = out.getvalue().splitlines()
    return code, json.loads(lines[-1]) if lines else None, err.getvalue()


if __name__ == "__main__":
    tf.test.main()
