import os
import shutil
import tempfile
from unittest import mock

import sweeps
import tensorflow as tf

from dc_tf.atomic import make_folder, write_json, write_text
from dc_tf.planning.plan import Rates, make_plan
from dc_tf.sweep import dry_run as planning
from dc_tf.sweep.dry_run import dry_run
from dc_tf.sweep.folder import SweepFolder
from dc_tf.sweep.jobs import make_jobs
from dc_tf.sweep.precisions import Precisions
from dc_tf.sweep.run import prepare


class DryRunTest(tf.test.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.folder = tempfile.mkdtemp()
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        cls.data = sweeps.make_data(cls.folder)

    def test_runs_are_listed_with_their_disk_and_nothing_is_written(self):
        workdir = os.path.join(self.folder, "none")
        planned = dry_run(sweeps.SWEEP, workdir, **self.data)
        self.assertFalse(os.path.exists(workdir))
        self.assertEqual((planned.result["cells"], planned.result["evaluations"]), (8, 8))
        runs = prepare(sweeps.SWEEP, workdir, self.data["data"], None, self.data["test"], 1).runs
        for line, run in zip(planned.result["runs"], runs, strict=True):
            plan = make_plan(run.experiment, run.rows, 1)
            self.assertEqual((line["name"], line["images"]), (run.name, run.rows))
            self.assertEqual(line["steps"], plan.steps)
            self.assertEqual(line["disk_bytes"], plan.shared_bytes + plan.scratch_bytes)
            self.assertIsNone(line["seconds"])
            self.assertIn(f"| {run.name}", planned.text)
        self.assertIn("training unknown", planned.text)

    def test_floating_point_types_may_be_left_to_be_measured(self):
        settings = sweeps.SWEEP["settings"]
        auto = {**settings, "model": {**settings["model"], "compute_dtype": "auto"}}
        sweep = sweeps.changed(settings=auto)
        found = dry_run(sweep, os.path.join(self.folder, "auto"), **self.data).result
        expected = dry_run(sweeps.SWEEP, os.path.join(self.folder, "auto"), **self.data).result
        self.assertEqual(found, expected)

    def test_what_is_done_takes_no_time_and_the_rest_is_shared(self):
        workdir = tempfile.mkdtemp(dir=self.folder)
        paths = self.data["data"], None, self.data["test"]
        folder, prepared = SweepFolder(workdir), prepare(sweeps.SWEEP, workdir, *paths, 1)
        precisions = Precisions("float32", "float32")
        folder.record(prepared.runs, prepared.fingerprint, precisions, 1)
        first = prepared.runs[0]
        make_folder(folder.run(first.name))
        write_text(os.path.join(folder.run(first.name), "result.json"), "{}")
        path = folder.evaluation(first.name, "knn")
        make_folder(os.path.dirname(path))
        jobs = make_jobs(prepared.sweep, prepared.cells, folder, precisions, prepared.prints)
        asked = next(job for job in jobs if job.name == f"{first.name}.knn")
        self.assertFalse(asked.is_done())
        made_with = asked.made_with
        write_json(path, {"made_with": made_with, "result": {"seconds": 3.0}})
        self.assertTrue(asked.is_done())
        rates = Rates({0: 10.0})
        with mock.patch.object(planning, "_measured", return_value=rates) as measured:
            found = dry_run(sweeps.SWEEP, workdir, **self.data, at_once=2, measure=True).result
        self.assertEqual(measured.call_count, 1)  # all have the same network and batches
        self.assertTrue(found["runs"][0]["done"])
        self.assertEqual(found["evaluations_done"], 1)
        left = [line["steps"] * 16 / 10 for line in found["runs"] if not line["done"]]
        self.assertLen(left, 7)
        self.assertAllClose(found["seconds"], sum(left) / 2)
        self.assertAllClose(found["evaluation_seconds"], 7 * 3.0 / 2)


if __name__ == "__main__":
    tf.test.main()
