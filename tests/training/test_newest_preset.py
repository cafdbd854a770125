"""All parts after the paper together: workers, interruption, another number of workers."""

import os
import tempfile

import pytest
import runs
import tensorflow as tf
import workers

from dc_tf import settings as settings_lib
from dc_tf.run_dir import RunDir
from dc_tf.training.monitoring.metrics import read

EPOCH, STEPS = range(1, 5), 12  # three epochs of 128 images in batches of 32
STOPPED = 7  # in the second epoch, after the checkpoint at 6


def newest(data):
    """The settings of deepercluster2_small, shrunk, with LARS and a small view of each image."""
    preset = settings_lib.read(["deepercluster2_small"])
    (stage,) = preset["stages"]
    shrunk = {
        "epochs": 3,
        "sub_clusters": 6,
        "batch_size": 32,
        "projection": {"hidden": 16, "dim": 8},
        "views": {"global_views": 2, "local_views": 1, "local_size": 16},
        "optimizer": stage["optimizer"] | {"name": "LARS", "learning_rate": 0.2},
        "clustering": stage["clustering"] | {"iterations": 3, "precision": "float32"},
    }
    return {
        **preset,
        "data": {**preset["data"], "path": data},
        "model": {**preset["model"], "width": 1 / 16, "compute_dtype": "float32"},
        "log_every": 1,
        "checkpoint_every": 3,
        "keep_checkpoints": 100,
        "stages": [stage | shrunk],
    }


def losses(workdir):
    """{step: loss}."""
    lines = read(RunDir(workdir).metrics)
    return {line["step"]: line["loss"] for line in lines if line["event"] == "train"}


@pytest.mark.extended
class NewestPresetTest(tf.test.TestCase):
    def test_two_workers_are_one_resume_and_continue_on_one(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        settings = newest(runs.make_data(folder.name))
        alone, both, parts, fewer = (
            os.path.join(folder.name, name) for name in ("alone", "both", "parts", "fewer")
        )
        workers.on_cluster(1, runs.train, settings, alone)
        workers.on_cluster(2, runs.train, settings, both)
        ours, expected = losses(both), losses(alone)
        self.assertEqual(sorted(ours), list(range(1, STEPS + 1)))
        self.assertAllClose(ours[1], expected[1], rtol=1e-4)  # the same images, views and colours
        # Rounding grows from step to step, and at the next clustering a row may change sides.
        self.assertAllClose([ours[n] for n in EPOCH], [expected[n] for n in EPOCH], rtol=2e-2)

        for workdir in (parts, fewer):
            workers.on_cluster(2, runs.train_until, settings, workdir, STOPPED)
        workers.on_cluster(2, runs.train, settings, parts)
        whole, resumed = runs.end_state(both), runs.end_state(parts)
        self.assertEqual(whole.keys(), resumed.keys())
        for name, value in whole.items():
            self.assertAllEqual(resumed[name], value, name)
        (result,) = workers.on_cluster(1, runs.train, settings, fewer)
        self.assertEqual(result["steps"], STEPS)
        self.assertAllClose(losses(fewer)[STOPPED], ours[STOPPED], rtol=1e-2)


if __name__ == "__main__":
    tf.test.main()
