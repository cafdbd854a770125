"""`dc_tf doctor` as a user starts it: alone in this process, or as two real workers."""

import contextlib
import io
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import types
from unittest import mock

import pytest
import runs
import tensorflow as tf
import workers
from packaging.requirements import Requirement

import dc_tf
from dc_tf import kernels, precision
from dc_tf.commands.main import main
from dc_tf.data.storage.manifest import Dataset
from dc_tf.data.storage.view import write_view
from dc_tf.doctor import machine, versions
from dc_tf.doctor.report import Report

LINE = re.compile(r"(ok  |warn|FAIL)  \S.* \S.*")


class DoctorTest(tf.test.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.folder = tempfile.mkdtemp()
        cls.data = runs.make_data(cls.folder, images=40)

    def doctor(self, *flags, tf_config="{}"):
        """(exit code, result, lines) of the doctor in this process."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.ExitStack() as stack:
            stack.enter_context(mock.patch.dict(os.environ, TF_CONFIG=tf_config))
            stack.enter_context(contextlib.redirect_stdout(out))
            stack.enter_context(contextlib.redirect_stderr(err))
            code = main(["doctor", *flags])
        *lines, last = out.getvalue().splitlines() or [err.getvalue()]
        for line in lines:
            self.assertRegex(line, LINE)
            if line.startswith("FAIL"):
                self.assertIn(" -> ", line)  # what to do
        return code, json.loads(last) if lines else None, lines

    def settings(self, **changes):
        settings = runs.settings(self.data, **changes)
        settings["stages"] = settings["stages"][:1]
        return f"--params_override={settings!r}"

    def failed(self, result):
        return {check["what"]: check for check in result["checks"] if check["status"] == "FAIL"}

    def test_all_is_well_alone_and_nothing_stays(self):
        workdir = os.path.join(tempfile.mkdtemp(dir=self.folder), "run")
        code, result, lines = self.doctor(self.settings(), f"--workdir={workdir}", "--verify")
        self.assertEqual((code, result["ok"], result["failed"]), (0, True, 0), lines)
        self.assertFalse(os.path.exists(workdir))
        found = {check["what"]: check["detail"] for check in result["checks"]}
        expected = {"python", "tensorflow", "tf-keras", "tf-models-official", "numpy", "faiss"}
        expected |= {
            "cpu",
            "cpu kernels",
            "cluster",
            "data set",
            "images",
            "shards",
            "memory",
            "scratch disk",
        }
        self.assertContainsSubset(expected, found)
        self.assertEqual(found["images"].split()[0], "40")
        self.assertIn(dc_tf.KERNELS.why, found["cpu kernels"])
        self.assertStartsWith(found["cpu kernels"], kernels.name(kernels.enabled()))
        self.assertEqual(result["estimate"]["stages"][0]["steps_per_epoch"], 1)

    def test_without_an_experiment_the_machine_is_checked(self):
        code, result, _ = self.doctor()
        self.assertEqual(code, 0)
        self.assertIsNone(result["estimate"])
        warned = {check["what"] for check in result["checks"] if check["status"] == "warn"}
        self.assertIn("experiment", warned)
        details = [check["detail"] for check in result["checks"] if check["what"] == "precision"]
        self.assertRegex(details[0], r"^of a convolution: (float32|bfloat16) \(auto: .*bfloat16")
        self.assertRegex(details[1], r"^of a product: (float32|bfloat16) \(auto: .*bfloat16")

    def test_bfloat16_that_is_slower_here_is_warned_of_with_the_ratio(self):
        with mock.patch.object(precision, "convolution_speed", lambda: 0.125):
            model = {**runs.SETTINGS["model"], "compute_dtype": "bfloat16"}
            code, result, lines = self.doctor(self.settings(model=model))
        self.assertEqual(code, 0, lines)
        warned = [check for check in result["checks"] if check["status"] == "warn"]
        warned = {check["what"]: check for check in warned}
        self.assertIn(
            "model.compute_dtype=bfloat16 is 0.12 times as fast as float32",
            warned["precision"]["detail"],
        )

    def test_a_corrupt_image_fails_and_says_what_to_do(self):
        data = runs.make_data(tempfile.mkdtemp(dir=self.folder), images=12)
        dataset = Dataset.open(data)
        with open(dataset.shard_path(0), "r+b") as file:
            file.seek(int(dataset.index(0)[3, 0]) + 20)
            file.write(b"\xff\0\xff")
        for flags, what in [((), "images"), (("--verify", "--sample=1"), "shard")]:
            code, result, _ = self.doctor(
                f"--params_override=data.path={data}", self.one_stage(), *flags
            )
            self.assertEqual(code, 1)
            self.assertIn("corrupt", self.failed(result)[what]["detail"])
            self.assertNotEmpty(self.failed(result)[what]["remedy"])

    def test_of_a_view_its_own_rows_are_checked(self):
        folder = tempfile.mkdtemp(dir=self.folder)
        dataset = Dataset.open(runs.make_data(folder, images=12))
        with open(dataset.shard_path(0), "r+b") as file:
            file.seek(int(dataset.index(0)[3, 0]) + 20)
            file.write(b"\xff\0\xff")
        for rows, expected in ([[0, 1, 2, 4, 5, 6], 0], [[0, 1, 2, 3, 4], 1]):
            view = write_view(dataset, rows, os.path.join(folder, f"view{expected}"))
            code, result, lines = self.doctor(
                f"--params_override=data.path={view.path}", self.one_stage(), "--verify"
            )
            self.assertEqual(code, expected, lines)
            found = [check["detail"] for check in result["checks"] if check["what"] == "data set"]
            self.assertIn(f"{len(rows)} images in 1 shards", found[0])
            self.assertEqual("shard" in self.failed(result), bool(expected))

    def one_stage(self):
        return "--params_override={stages: [{clusters: 1, sub_clusters: 0, batch_size: 4}]}"

    def test_what_would_keep_a_run_from_starting_fails(self):
        for flags, what, message in [
            (["--params_override=data.path=/nowhere", self.one_stage()], "data set", "/nowhere"),
            ([self.settings(modle=1)], "experiment", "unknown setting 'modle'"),
            (
                [self.settings(init_from="/nowhere")],
                "experiment",
                "neither a finished run",
            ),
            (["--config_file=/nowhere.yaml"], "experiment", "/nowhere.yaml"),
        ]:
            code, result, _ = self.doctor(*flags)
            self.assertEqual(code, 1)
            self.assertIn(message, self.failed(result)[what]["detail"])

    def test_a_tf_config_that_is_wrong_is_explained(self):
        for names, message in [
            (3, "expected the form"),
            (["a:1", "b"], "'b', which is not host:port"),
            (["a:1", "b:99999"], "'b:99999', whose port is not in 1 to 65535"),
            (["a:1", "a:1"], "has the address a:1 twice"),
        ]:
            task = {"cluster": {"worker": names}, "task": {"type": "worker", "index": 0}}
            code, result, _ = self.doctor(tf_config=json.dumps(task))
            self.assertEqual(code, 1)
            self.assertIn(message, self.failed(result)["cluster"]["detail"])

    def test_a_port_that_is_taken_and_a_folder_that_cannot_be_written_fail(self):
        with socket.create_server(("", 0)) as other:
            names = [f"localhost:{other.getsockname()[1]}", "localhost:1"]
            task = {"cluster": {"worker": names}, "task": {"type": "worker", "index": 0}}
            code, result, _ = self.doctor(tf_config=json.dumps(task))
        self.assertEqual(code, 1)
        self.assertIn("in use", self.failed(result)["port"]["detail"])
        code, result, _ = self.doctor(self.settings(), "--workdir=/proc/run")
        self.assertEqual(code, 1)
        self.assertIn("cannot be written", self.failed(result)["run folder"]["detail"])

    def test_too_little_memory_and_disk_fail(self):
        workdir = os.path.join(self.folder, "small")
        with mock.patch.object(machine, "free_memory", lambda: 1000):
            with mock.patch.object(machine, "free_disk", lambda folder: 10):
                code, result, _ = self.doctor(self.settings(), f"--workdir={workdir}")
        self.assertEqual(code, 1)
        failed = self.failed(result)
        self.assertContainsSubset({"memory", "scratch disk", "run folder disk"}, failed)
        self.assertIn("10 B are free", failed["scratch disk"]["detail"])

    def test_versions_are_compared_with_what_setup_asks_for(self):
        python, wanted = versions.requirements()
        self.assertEqual(python, ">=3.10,<3.13")
        (of_tensorflow,) = (r.specifier for r in wanted if r.name == "tensorflow")
        releases = {"2.14.1": False, "2.15.1": True, "2.17.0": False, "2.20.0": True, "2.21": False}
        for release, fits in releases.items():
            self.assertEqual(release in of_tensorflow, fits, release)
        asked = [Requirement("numpy>=99"), Requirement("no-such-package")]
        report = Report()
        with mock.patch.object(versions, "requirements", lambda: (">=3.99", asked)):
            with contextlib.redirect_stdout(io.StringIO()):
                versions.check(report)
        self.assertEqual([c.what for c in report.failed], ["python", "numpy", "no-such-package"])
        self.assertIn("numpy>=99 is required", report.failed[1].detail)

    def stack(self, **installed):
        """Report of the versions that are installed, by name with _ for -."""
        found = {name.replace("_", "-"): version for name, version in installed.items()}
        report = Report()
        with mock.patch.object(versions, "requirements", lambda: (">=3.10", [])):
            with mock.patch.object(versions, "_version", found.get):
                with contextlib.redirect_stdout(io.StringIO()):
                    versions.check(report)
        return {check.what: check for check in report.checks}["stack"]

    def test_a_stack_is_named_and_packages_of_both_fail(self):
        new = {"tensorflow": "2.20.0", "tf_keras": "2.20.1", "tf_models_official": "2.20.0"}
        old = {"tensorflow": "2.15.1", "tf_keras": "2.15.1", "tf_models_official": "2.15.0"}
        addons = {"tensorflow_addons": "0.23.0"}
        for installed, detail in (
            (new, "TensorFlow 2.20, no tensorflow-addons"),
            (old, "TensorFlow 2.15, no tensorflow-addons"),
            (old | addons, "TensorFlow 2.15, tensorflow-addons 0.23.0"),
        ):
            self.assertEqual(self.stack(**installed).detail, detail)
        for installed in (new | addons, old | {"tf_keras": "2.20.1"}):
            check = self.stack(**installed)
            self.assertEqual(check.status, "FAIL")
            self.assertIn("different releases of TensorFlow", check.detail)
            self.assertIn("DC_TF_STACK=tf215", check.remedy)

    def test_wrong_usage_is_2(self):
        for flags in (["--timeout_s=0"], ["--tiemout=3"], ["stray"]):
            self.assertEqual(self.doctor(*flags)[0], 2)

    def test_a_worker_prints_its_own_failures_and_the_chief_what_is_shared(self):
        for rank, expected in [(0, ["own", "shared", "bad", "worse"]), (1, ["bad"])]:
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                report = Report(rank)
                report.ok("own", "fine")
                report.ok("shared", "fine", shared=True)
                report.fail("bad", "it\nis", "mend it")
                report.fail("worse", "for all", "mend it", shared=True)
            self.assertEqual([line.split()[1] for line in out.getvalue().splitlines()], expected)
            self.assertLen(report.failed, 2)
        self.assertEqual(out.getvalue(), f"FAIL  {'bad':<18}  it is -> mend it\n")


@pytest.mark.slow
@pytest.mark.alone
class WorkersTest(tf.test.TestCase):
    """Real workers, each with its own flags."""

    def start(self, count, flags, started, environments=None):
        """{rank: (exit code, result, stdout)} of the workers that are started."""
        environments = environments or [{}] * count
        names = [f"localhost:{port}" for port in workers.free_ports(count)]
        processes = {}
        for rank in started:
            task = {"cluster": {"worker": names}, "task": {"type": "worker", "index": rank}}
            processes[rank] = subprocess.Popen(
                [sys.executable, "-m", "dc_tf", "doctor", *flags[rank]],
                env={
                    **os.environ,
                    "TF_CONFIG": json.dumps(task),
                    "PYTHONPATH": workers.REPOSITORY,
                    **environments[rank],
                },
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        try:
            outs = {rank: p.communicate(timeout=180)[0] for rank, p in processes.items()}
        finally:
            for process in processes.values():
                process.kill()
                process.wait()
        return {
            rank: types.SimpleNamespace(
                code=processes[rank].returncode, result=json.loads(out.splitlines()[-1]), out=out
            )
            for rank, out in outs.items()
        }

    def test_two_workers_sum_and_what_differs_between_them_is_named(self):
        folder = tempfile.mkdtemp(dir=self.get_temp_dir())
        data = runs.make_data(folder, images=40)
        one = runs.settings(data)
        one["stages"] = one["stages"][:1]
        more = runs.make_data(os.path.join(folder, "more"), images=41)
        other = {**one, "seed": 3, "data": {**one["data"], "path": more}}
        flags = [
            [f"--params_override={one!r}", f"--workdir={folder}/run", "--timeout_s=100"],
            [f"--params_override={other!r}", f"--workdir={folder}/other"],
        ]
        apart = [{"TF_ENABLE_ONEDNN_OPTS": value} for value in "10"]
        found = self.start(2, flags, started=(0, 1), environments=apart)
        chief = {}
        for check in found[0].result["checks"]:
            chief.setdefault(check["what"], []).append(check)
        self.assertEqual((found[0].code, found[1].code), (1, 1), found[0].out)
        self.assertIn("worker 1 differs from worker 0: seed: 3 and 0", found[0].out)
        self.assertEqual(chief["settings"][0]["status"], "FAIL")
        self.assertEqual(chief["run folder"][0]["status"], "FAIL")
        self.assertEqual([check["status"] for check in chief["data set"]], ["ok", "FAIL"])
        self.assertIn("41 rows", chief["data set"][1]["detail"])
        self.assertEqual(chief["gpu count"][0]["status"], "ok")
        self.assertEqual(chief["kernels"][0]["status"], "FAIL")
        self.assertIn('differs from worker 0: "TensorFlow\'s own" and "oneDNN"', found[0].out)
        self.assertEqual(chief["peers"][0]["status"], "ok")
        self.assertEqual(chief["all-reduce"][0]["status"], "ok", found[0].out)
        self.assertRegex(chief["all-reduce"][0]["detail"], r"over all workers: .* MB/s")
        self.assertIn("as measured", chief["estimate"][1]["detail"])
        # The other one prints what is its own: here, that it does not see the chief's folder.
        lines = [line for line in found[1].out.splitlines() if line.startswith("FAIL")]
        self.assertLen(lines, 1)
        self.assertIn("does not show the file that worker 0", lines[0])
        self.assertEqual(sorted(os.listdir(folder)), ["data", "more"])

    @pytest.mark.extended
    def test_a_worker_that_never_starts_is_named_in_time(self):
        found = self.start(3, [["--timeout_s=12"]] * 3, started=(0, 2))
        for rank in (0, 2):
            self.assertEqual(found[rank].code, 1)
            self.assertRegex(found[rank].out, r"FAIL  peer worker 1 +localhost:\d+ is silent")


if __name__ == "__main__":
    tf.test.main()
