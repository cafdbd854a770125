"""How many jobs of a sweep run at a time where nobody says it."""

import os
import shutil
import tempfile
import types
from unittest import mock

import sweeps
import tensorflow as tf
from absl.testing import parameterized

from dc_tf.planning.plan import make_plan
from dc_tf.sweep import room
from dc_tf.sweep.dry_run import dry_run
from dc_tf.sweep.room import Machine, most

GB = 10**9


class MostTest(parameterized.TestCase):
    @parameterized.parameters(
        # cores, gpus, free GB; workers, threads; planned GB of each run; number, what limits it
        (8, 0, 99, 1, None, [1] * 20, 8, "8 cores, at least 1 for each"),
        (8, 0, 99, 2, None, [1] * 20, 4, "8 cores, at least 2 for each"),
        (8, 0, 99, 2, 2, [1] * 20, 2, "8 cores, at least 4 for each"),
        (2, 0, 99, 4, None, [1] * 20, 1, "2 cores, at least 4 for each"),
        (8, 0, 7, 1, None, [1] * 20, 7, "7 GB of free memory, 1 GB planned for each"),
        (8, 0, 7, 1, None, [1, 3, 2], 2, "7 GB of free memory, 3 GB planned for each"),
        (8, 0, 7, 2, None, [1, 2], 1, "7 GB of free memory, 4 GB planned for each"),
        (8, 0, 1, 1, None, [2, 2], 1, "1 GB of free memory, 2 GB planned for each"),
        (8, 0, 99, 1, None, [1, 1, 1], 3, "3 runs"),
        (2, 4, 99, 1, None, [1] * 20, 4, "4 GPUs, 1 for each"),
        (64, 4, 99, 2, 9, [1] * 20, 2, "4 GPUs, 2 for each"),
        (64, 8, 5, 1, None, [2] * 20, 2, "5 GB of free memory, 2 GB planned for each"),
        (64, 1, 99, 2, None, [1] * 20, 1, "1 GPU, 2 for each"),
    )
    def test_as_many_as_there_is_room_for(
        self, cores, gpus, free, workers, threads, planned, number, why
    ):
        machine = Machine(cores, gpus, free * GB)
        found = most(machine, workers, threads, [GB * one for one in planned])
        self.assertEqual(found.at_once, number)
        self.assertStartsWith(found.text, f"{number} at a time, the most for {why}")


class ChosenTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.folder)

    def test_a_number_that_is_given_stays(self):
        found = room.chosen(7, prepared=None, workers=1, threads=None)
        self.assertEqual((found.at_once, found.text), (7, ""))

    def test_a_dry_run_says_how_many_by_the_plan_of_the_largest_run(self):
        data = sweeps.make_data(self.folder)
        launcher = types.SimpleNamespace(cores=lambda: 64, visible_gpus=lambda: [])
        workdir = os.path.join(self.folder, "S")
        planned = dry_run(sweeps.SWEEP, workdir, **data)  # all have the same network
        self.assertEqual(planned.result["at_once"], 1)
        self.assertNotIn("at a time", planned.text)
        prepared = sweeps.prepared(data, workdir)
        host_bytes = max(make_plan(run.experiment, run.rows, 1).host_bytes for run in prepared.runs)
        free = mock.patch.object(room, "free_memory", lambda: 3 * host_bytes + 1)
        with mock.patch.object(room.shipped, "launcher", lambda: launcher), free:
            planned = dry_run(sweeps.SWEEP, workdir, **data, at_once=0)
        self.assertEqual(planned.result["at_once"], 3)
        self.assertRegex(planned.text, r"\n3 at a time, the most for .* of free memory, .* planned")
        self.assertIn("time of what is left, 3 at a time", planned.text)


if __name__ == "__main__":
    tf.test.main()
