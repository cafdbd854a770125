"""What cannot work is refused before anything is started, with exit code 2 and what would work."""

import contextlib
import io
import json
import os
import tempfile
from unittest import mock

import pytest
import runs
import tensorflow as tf

from dc_tf.commands.main import main


class TrainTest(tf.test.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.folder = tempfile.mkdtemp()
        cls.data = runs.make_data(cls.folder, images=40)

    def refused(self, settings, workdir=None):
        """The one line on stderr of a `train` that is refused."""
        workdir = workdir or os.path.join(tempfile.mkdtemp(dir=self.folder), "run")
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(["train", f"--params_override={settings!r}", f"--workdir={workdir}"])
        self.assertEqual(code, 2, err.getvalue())
        self.assertEqual(out.getvalue(), "")
        self.assertNotIn("Traceback", err.getvalue())
        return err.getvalue()

    def test_a_missing_data_set_says_how_to_make_one(self):
        self.assertRegex(self.refused(runs.settings("/nowhere")), "dc_tf convert")

    def test_too_few_images_for_the_clusters_names_the_stage(self):
        stages = [{**runs.SETTINGS["stages"][1], "sub_clusters": 50}]
        message = self.refused(runs.settings(self.data, stages=stages))
        self.assertRegex(message, r"stages\[0\] \(deepercluster\) needs at least 100 images")

    def test_too_few_images_for_a_batch_are_refused_like_too_few_for_the_clusters(self):
        stages = [{**runs.SETTINGS["stages"][0], "batch_size": 256}]
        message = self.refused(runs.settings(self.data, stages=stages))
        self.assertRegex(message, r"at least 64 images for a batch, the data set has 40; use more")

    def test_a_batch_that_does_not_split_names_one_that_does(self):
        stages = [{**runs.SETTINGS["stages"][1], "batch_size": 33}]
        self.assertRegex(self.refused(runs.settings(self.data, stages=stages)), "multiple of 8.*40")

    def test_a_run_folder_keeps_its_settings_and_its_data(self):
        settings = runs.settings(self.data)
        workdir = runs.finished(self.folder, settings, self.data)
        message = self.refused({**settings, "seed": 5}, workdir)
        self.assertRegex(message, r"other settings \(seed: 0, 5\); use the settings of that")
        self.assertRegex(message, "or another --workdir.* set init_from=.* in the new one.$")
        other = runs.make_data(tempfile.mkdtemp(dir=self.folder), images=41)
        message = self.refused(runs.settings(other), workdir)
        self.assertRegex(message, r"another data set \(40 rows, sha256.*41 rows")

    def test_a_start_from_another_run_needs_a_finished_one_of_the_same_network(self):
        settings = runs.settings(self.data)
        message = self.refused({**settings, "init_from": "/nowhere"})
        self.assertRegex(message, "init_from is '/nowhere', which is neither a finished run")
        other = {**settings, "model": {**settings["model"], "fc": 8}}
        other["stages"] = [settings["stages"][0]]
        message = self.refused(
            {**settings, "init_from": runs.finished(self.folder, other, self.data)}
        )
        self.assertRegex(message, "model.fc = 8, this experiment has 16")

    def test_stages_are_read_from_files_that_exist(self):
        workdir = os.path.join(self.folder, "none")
        err = io.StringIO()
        with contextlib.redirect_stderr(err):
            code = main(["train", "--config_file=/nowhere.yaml", f"--workdir={workdir}"])
        self.assertEqual(code, 2)
        self.assertIn("/nowhere.yaml", err.getvalue())
        self.assertFalse(os.path.exists(workdir))

    def dry_run(self, *flags, task=None):
        """(exit code, stdout, stderr) of `train --dry_run` on a folder that it must not make."""
        workdir = os.path.join(tempfile.mkdtemp(dir=self.folder), "run")
        settings = runs.settings(self.data, stages=runs.SETTINGS["stages"][:1])
        argv = ["train", "--dry_run", f"--params_override={settings!r}", f"--workdir={workdir}"]
        out, err = io.StringIO(), io.StringIO()
        with contextlib.ExitStack() as stack:
            stack.enter_context(mock.patch.dict(os.environ, {"TF_CONFIG": json.dumps(task or {})}))
            stack.enter_context(contextlib.redirect_stdout(out))
            stack.enter_context(contextlib.redirect_stderr(err))
            stack.enter_context(mock.patch("dc_tf.training.measure._MEASURED_S", 0.2))
            code = main([*argv, *flags])
        self.assertFalse(os.path.exists(workdir))
        return code, out.getvalue(), err.getvalue()

    def test_a_dry_run_prints_the_plan_and_starts_nothing(self):
        code, out, _ = self.dry_run("--workers=4")
        self.assertEqual(code, 0)
        result = json.loads(out.splitlines()[-1])
        self.assertEqual((result["dry_run"], result["workers"], result["rows"]), (True, 4, 40))
        self.assertEqual(result["stages"][0]["batch_per_worker"], 8)
        self.assertIn("rotnet: 2 epochs of 1 steps", out)
        self.assertIn("worker 3: super-class 3", out)

    def test_a_dry_run_plans_for_the_workers_that_are_named_and_the_chief_prints(self):
        jobs = {"worker": ["a:1", "b:1"]}  # hosts that do not exist: nobody is waited for
        for rank in (0, 1):
            task = {"cluster": jobs, "task": {"type": "worker", "index": rank}}
            code, out, _ = self.dry_run(task=task)
            self.assertEqual(code, 0)
            lines = out.splitlines()
            self.assertEqual([json.loads(line)["workers"] for line in lines[-1:]], [2][rank:])

    def test_a_dry_run_is_refused_what_the_run_would_be(self):
        code, out, err = self.dry_run("--workers=3")
        self.assertEqual((code, out), (2, ""))
        self.assertRegex(err, r"stages\[0\] \(rotnet\): 3 workers cannot share 4")

    def test_only_one_worker_on_this_machine_is_measured_unasked(self):
        for flag in ("--workers=4", "--gpus", "--nomeasure"):
            code, out, err = self.dry_run(flag)
            self.assertEqual(code, 0)
            self.assertIn("time: unknown, since no speed was measured; --measure does so", out)
            self.assertNotIn("measuring", err)

    @pytest.mark.merge
    @pytest.mark.slow
    def test_a_dry_run_says_how_long_each_stage_takes_and_how_it_knows(self):
        code, out, err = self.dry_run()
        self.assertEqual(code, 0)
        self.assertIn("measuring the speed here for some seconds; --nomeasure leaves it out", err)
        self.assertNotIn("unknown", out)
        self.assertIn("measured here, one worker on CPU", out)
        result = json.loads(out.splitlines()[-1])
        (stage,) = result["stages"]
        images = 2 * stage["batch_per_worker"]  # of two epochs of one step
        self.assertAlmostEqual(stage["train_seconds"] * stage["images_per_second"], images)

    @pytest.mark.slow
    def test_measured_alone_for_several_workers_it_says_what_is_left_out(self):
        code, out, _ = self.dry_run("--measure", "--workers=4")
        self.assertEqual(code, 0)
        self.assertIn("on one worker with its CPU, for 4 that are as fast, without exch", out)

    @pytest.mark.slow
    def test_a_network_is_predicted_on_from_what_one_worker_computes(self):
        code, out, _ = self.dry_run("--measure", "--workers=4", "--network_gbps=1")
        self.assertEqual(code, 0)
        self.assertIn("at 1 Gb/s and 2,100 us, computing as measured: a step of", out)
        (found,) = json.loads(out.splitlines()[-1])["stages"][0]["network"]
        self.assertGreater(found["step_seconds"], found["compute_seconds"])

    def test_flags_that_would_do_nothing_are_refused(self):
        for flag, why in (
            ("--workers=2", "for --dry_run"),
            ("--network_latency_us=5", "for --network_gbps"),
        ):
            out, err = io.StringIO(), io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                override = f"--params_override={runs.settings(self.data)!r}"
                code = main(["train", flag, override, "--workdir=/nowhere/run"])
            self.assertEqual(code, 2)
            self.assertIn(why, err.getvalue())


if __name__ == "__main__":
    tf.test.main()
