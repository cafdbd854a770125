"""Real sweeps of a few steps: what is measured, what is run again, what happens when cells end."""

import collections
import glob
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from unittest import mock

import numpy as np
import pytest
import sweeps
import tensorflow as tf

from dc_tf.data.storage.manifest import Dataset
from dc_tf.errors import ConfigError, DataError
from dc_tf.sweep.run import run_sweep
from dc_tf.sweep.views import random_rows


@pytest.mark.slow
class SweepTest(tf.test.TestCase):
    """Two cells on half of the images, two at a time."""

    fields = {"variants": {"first": {}}, "axes": {"images": {"fractions": [0.5]}}}

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.folder = tempfile.mkdtemp()
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        cls.data = sweeps.make_data(cls.folder)
        cls.workdir = os.path.join(cls.folder, "S")
        with sweeps.forked() as cls.started:
            cls.found = run_sweep(
                sweeps.SWEEP | cls.fields, cls.workdir, **cls.data, at_once=2, threads=1
            )

    def sweep(self, workdir=None, **fields):
        """(result, arguments of the jobs that were started) of a sweep."""
        fields = {**sweeps.SWEEP, **self.fields, **fields}
        with sweeps.forked() as started:
            found = run_sweep(fields, workdir or self.workdir, **self.data, threads=1)
        return found, started

    def copy(self, without=()):
        """A copy of the finished sweep, to change, without some of its cells."""
        path = tempfile.mkdtemp(dir=self.folder)
        shutil.copytree(self.workdir, path, dirs_exist_ok=True)
        for name in without:
            shutil.rmtree(f"{path}/runs/{name}")
            shutil.rmtree(f"{path}/evaluations/{name}")
        return path

    def test_mean_and_deviation_are_those_of_the_cells_own_evaluations(self):
        self.assertCountEqual([job[0] for job in self.started], ["train", "evaluate"] * 2)
        self.assertEqual(check_rows(self.workdir), 1)

    def test_a_share_of_the_images_is_another_view_for_each_seed(self):
        rows = []
        for seed in (0, 1):
            with open(f"{self.workdir}/runs/first-images_0.5-seed_{seed}/result.json") as file:
                self.assertEqual(json.load(file)["rows"], 30)
            view = Dataset.open(f"{self.workdir}/data/fraction_0.5-seed_{seed}")
            rows.append(random_rows(60, 30, seed))
            self.assertAllEqual(view.labels(), Dataset.open(self.data["data"]).labels()[rows[-1]])
        self.assertNotAllEqual(*rows)
        self.assertEqual([cell["images"] for cell in self.found["cells"]], [30, 30])

    def test_without_untrained_networks_nothing_reads_as_compared(self):
        with open(f"{self.workdir}/result.json") as file:
            found = json.load(file)
        self.assertEqual(
            [cell["below_random_init"] for cell in found["cells"]], [{"knn": None}] * 2
        )
        self.assertIn(
            "untrained network not measured, so not compared with it: all rows", self.found.table
        )

    def test_table_and_plot_are_written(self):
        with open(f"{self.workdir}/table.md") as file:
            table = file.read()
        self.assertEqual(table, self.found.table)
        self.assertRegex(table, r"\| first +\| 0\.5 +\| [\d.]+ ± [\d.]+ +\| [\d.]+ ± [\d.]+ +\|")
        with open(f"{self.workdir}/plot.svg") as file:
            self.assertIn("conv13", file.read())

    def test_a_finished_sweep_starts_nothing_and_has_the_same_result(self):
        found, started = self.sweep()
        self.assertEmpty(started)
        self.assertEqual(found, self.found)
        found, started = self.sweep(self.copy(), seeds=[1])
        self.assertEmpty(started)
        self.assertLen(found["cells"], 1)

    def test_an_evaluation_with_other_settings_is_made_again(self):
        layers = {"knn": {"task": "knn", "layers": ["conv13"]}}
        found, started = self.sweep(self.copy(), evaluations=layers, seeds=[0])
        self.assertEqual([job[0] for job in started], ["evaluate"])
        self.assertEqual(list(found["rows"][0]["metrics"]["knn"]), ["conv13"])

    def test_other_settings_of_a_run_are_refused_before_anything_starts(self):
        changed = {"first": {"settings": {"stages[0].epochs": 3}}}
        with self.assertRaisesRegex(ConfigError, r"with other settings.*epochs: 2, 3"):
            self.sweep(variants=changed)

    def test_what_cannot_work_is_refused_before_anything_starts(self):
        workdir = os.path.join(self.folder, "refused")
        for message, evaluation in (
            ("--task is 'none'", {"task": "none"}),
            ("unknown setting 'cell'", {"task": "knn", "settings": {"cell": 1}}),
            ("the layer is conv14", {"task": "knn", "layers": ["conv14"]}),
            ("nowhere does not exist", {"task": "knn", "test": "nowhere"}),
            ("train is missing; name the VOC", {"config_file": "voc07_classification_small"}),
        ):
            with self.assertRaisesRegex(ConfigError, f"the sweep, .*evaluations.a: .*{message}"):
                self.sweep(workdir, evaluations={"a": evaluation})
        optimizer = {"settings": {"stages[0].optimizer.name": "Sgdd"}}
        with self.assertRaisesRegex(ConfigError, "cell first-.*stages.0..*Sgdd"):
            self.sweep(workdir, variants={"first": optimizer})
        shape = {"first": {}, "second": {"after": "first", "settings": {"model.fc": 8}}}
        with self.assertRaisesRegex(ConfigError, "cell second-.*model.fc = 16"):
            self.sweep(workdir, variants=shape)
        workers = {"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 0}}
        with mock.patch.dict(os.environ, TF_CONFIG=json.dumps(workers)):
            with self.assertRaisesRegex(ConfigError, "a sweep is one process; give --workers"):
                self.sweep(workdir)
        self.assertFalse(os.path.exists(workdir))

    def test_a_cell_that_fails_is_reported_with_its_log_and_the_others_run(self):
        bad = {"settings": {"stages[0].optimizer.learning_rate": 1e30}}
        variants = {"bad": bad, "next": {"after": "bad"}, "first": {}}
        workdir = self.copy()
        failed = "^bad-images_0.5-seed_0 ended with exit code 1: .*log: "
        with self.assertRaisesRegex(DataError, failed) as e:
            self.sweep(workdir, variants=variants, seeds=[0])
        result = e.exception.result
        self.assertEqual(result["done"], "1 of 3 cells")
        self.assertEqual([row["variant"] for row in result["rows"] if row["metrics"]], ["first"])
        reason = result["failed"]["next-images_0.5-seed_0"]
        self.assertIn("needs bad-images_0.5-seed_0, which failed", reason)
        self.assertTrue(os.path.exists(f"{workdir}/logs/bad-images_0.5-seed_0.log"))
        self.assertIn("Failed:", result.table)

    @pytest.mark.extended
    def test_a_sweep_that_is_killed_in_a_cell_ends_as_an_undisturbed_one(self):
        killed = "first-images_0.5-seed_1"
        workdir = self.copy(without=[killed])
        os.remove(f"{workdir}/result.json")

        def kill(arguments, process):
            wait_until(lambda: checkpoints_of(workdir, killed))
            process.kill()
            raise Killed

        with sweeps.forked(kill) as started, self.assertRaises(Killed):
            run_sweep(sweeps.SWEEP | self.fields, workdir, **self.data, threads=1)
        self.assertLen(started, 1)
        self.assertFalse(os.path.exists(f"{workdir}/result.json"))
        self.assertFalse(os.path.exists(f"{workdir}/runs/{killed}/result.json"))
        found, started = self.sweep(workdir)
        self.assertEqual([job[0] for job in started], ["train", "evaluate"])
        self.assertEqual(found["rows"], self.found["rows"])


@pytest.mark.extended
class WorkersTest(tf.test.TestCase):
    def test_a_cell_of_two_workers_is_trained_and_measured_beside_its_untrained_network(self):
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        variants = {"random": {"untrained": "first"}, "first": {}}
        fields = sweeps.changed(variants=variants, axes={}, seeds=[0])
        workdir = os.path.join(folder, "S")
        found = run_sweep(fields, workdir, **sweeps.make_data(folder), workers=2, threads=1)
        self.assertEqual(found["done"], "2 of 2 cells")
        with open(f"{workdir}/runs/first-seed_0/result.json") as file:
            self.assertEqual(json.load(file)["workers"], 2)
        with open(f"{workdir}/logs/first-seed_0.knn.log") as file:
            self.assertIn("[w0] random init", file.read())
        with open(f"{workdir}/evaluations/first-seed_0/knn.json") as file:
            result = json.load(file)["result"]
        random, first = (cell["below_random_init"]["knn"] for cell in found["cells"])
        self.assertEqual((random, first), ([], result["below_random_init"]))
        for cell, network in zip(found["cells"], ("random_init", "layers"), strict=True):
            shares = {k: 100 * v["top1"] for k, v in result[network].items()}
            self.assertAllClose(cell["metrics"]["knn"], shares)


@pytest.mark.extended
class EightCellsTest(tf.test.TestCase):
    """Eight cells, two at a time, and what is done with them in processes of their own."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.folder = tempfile.mkdtemp()
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        cls.data = sweeps.make_data(cls.folder)
        cls.workdir = os.path.join(cls.folder, "S")
        cls.found, cls.started = cls.sweep(cls.workdir, at_once=2)

    @classmethod
    def sweep(cls, workdir, at_once=1, **fields):
        with sweeps.forked() as started:
            found = run_sweep(
                sweeps.changed(**fields), workdir, **cls.data, at_once=at_once, threads=1
            )
        return found, started

    def test_mean_and_deviation_are_those_of_the_cells_own_evaluations(self):
        self.assertLen(self.started, 16)
        self.assertEqual(check_rows(self.workdir), 4)

    def test_one_cell_at_a_time_measures_the_same_as_two(self):
        found, started = self.sweep(tempfile.mkdtemp(dir=self.folder))
        self.assertLen(started, 16)
        self.assertEqual(found["rows"], self.found["rows"])

    def test_untrained_networks_are_those_of_evaluate_and_cells_that_were_added_run_alone(self):
        variants = {"random": {"untrained": "first"}, "first": {}}
        more = {"images": {"fractions": [1, 0.6]}}
        fields = {"variants": variants, "axes": more, "seeds": [0]}
        workdir = os.path.join(self.folder, "copy")
        shutil.copytree(self.workdir, workdir)
        found, started = self.sweep(workdir, **fields)
        self.assertEqual([job[0] for job in started], ["evaluate", "train", "evaluate"])
        with open(f"{workdir}/evaluations/first-images_1-seed_0/knn.json") as file:
            result = json.load(file)["result"]
        random = found["rows"][0]["metrics"]["knn"]["conv13"]
        first = found["rows"][2]["metrics"]["knn"]["conv13"]
        self.assertAllClose(random["mean"], 100 * result["random_init"]["conv13"]["top1"])
        self.assertAllClose(first["mean"], 100 * result["layers"]["conv13"]["top1"])

    def test_the_command_that_is_killed_or_stopped_leaves_no_process_and_resumes(self):
        workdir = tempfile.mkdtemp(dir=self.folder)
        fields = {"variants": {"first": {}}, "axes": {"images": {"fractions": [1]}}, "seeds": [0]}
        path = os.path.join(self.folder, "sweep.yaml")
        with open(path, "w") as file:
            json.dump(sweeps.changed(**fields), file)
        flags = [f"--{name}={value}" for name, value in self.data.items()]
        command = [sys.executable, "-m", "dc_tf", "sweep", f"--config_file={path}", *flags]
        command += [f"--workdir={workdir}", "--threads=1"]
        for number, code in ((signal.SIGKILL, -9), (signal.SIGTERM, 42)):
            process = subprocess.Popen(command)
            done = len(checkpoints_of(workdir, "first-images_1-seed_0"))
            wait_until(
                lambda done=done: len(checkpoints_of(workdir, "first-images_1-seed_0")) > done, 120
            )
            process.send_signal(number)
            self.assertEqual(process.wait(60), code)
            wait_until(lambda: not processes_with(workdir), 20)
        self.assertEqual(subprocess.run(command, timeout=300).returncode, 0)
        with open(f"{workdir}/result.json") as file:
            (cell,) = json.load(file)["cells"]
        (same,) = [c for c in self.found["cells"] if c["name"] == "first-images_1-seed_0"]
        self.assertEqual(cell["metrics"], same["metrics"])


class Killed(BaseException):
    """The sweep ends here, as if it were killed."""


def check_rows(workdir):
    """Asserts mean and deviation over two seeds, computed from the evaluations; number of rows."""
    measured = collections.defaultdict(list)
    for path in glob.glob(f"{workdir}/evaluations/*/knn.json"):
        name = path.split(os.sep)[-2].rpartition("-")[0]
        with open(path) as file:
            layers = json.load(file)["result"]["layers"]
        for layer, values in layers.items():
            measured[name, layer].append(100 * values["top1"])
    with open(f"{workdir}/result.json") as file:
        rows = json.load(file)["rows"]
    for row in rows:
        name = "-".join([row["variant"], *(f"{a}_{label}" for a, label in row["axes"].items())])
        for layer, value in row["metrics"]["knn"].items():
            first, second = measured.pop((name, layer))
            np.testing.assert_allclose(value["mean"], (first + second) / 2)
            np.testing.assert_allclose(value["deviation"], abs(first - second) / 2**0.5, atol=1e-9)
    assert not measured, measured
    return len(rows)


def wait_until(condition, seconds=60):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.05)


def checkpoints_of(workdir, run):
    return glob.glob(f"{workdir}/runs/{run}/checkpoints/*")


def processes_with(workdir):
    """Command lines of processes that name a folder."""
    found = []
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            with open(path, "rb") as file:
                line = file.read()
        except OSError:
            continue
        if os.fsencode(workdir) in line and str(os.getpid()) != path.split("/")[2]:
            found.append(line)
    return found


if __name__ == "__main__":
    tf.test.main()
