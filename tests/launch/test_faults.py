"""What a fault on one worker does to the others and to the run: real processes, real signals."""

import functools
import os
import pathlib
import shutil
import signal
import tempfile
import time
from concurrent import futures

import numpy as np
import pytest
import runs
import tensorflow as tf
from jobs import Job

WRONG_USAGE, PREEMPTED, HELD_UP = 2, 42, 43


@pytest.mark.slow
@pytest.mark.alone
class FaultsTest(tf.test.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.folder = tempfile.mkdtemp()
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        cls.settings, cls.whole = runs.undisturbed(2)
        # For the test of it, which would do nothing for a minute; now it waits beside the others.
        cls.absent = cls.job(cls.workdir(), "absent", watchdog={"timeout_s": 6.0})
        cls.absent.__enter__().signal(1, signal.SIGKILL)  # before it has said a word
        cls.addClassCleanup(cls.absent.__exit__)

    @classmethod
    def job(cls, workdir, name, size=2, slow=None, **changes):
        settings = {**cls.settings, **changes}
        command = ["train", f"--params_override={settings!r}", f"--workdir={workdir}"]
        return Job(size, command, os.path.join(workdir + "-logs", name), slow)

    @classmethod
    def workdir(cls):
        return tempfile.mkdtemp(dir=cls.folder)

    def finish(self, workdir):
        """Runs what is left, and compares the end with that of the run that nobody disturbed."""
        with self.job(workdir, "last") as job:
            self.assertEqual(job.wait(180), [0, 0], job.log(0)[-3000:])
        state, expected = runs.end_state(workdir), runs.end_state(self.whole)
        self.assertEqual(state.keys(), expected.keys())
        for name, value in expected.items():
            self.assertAllEqual(state[name], value, name)

    @pytest.mark.merge
    def test_a_killed_worker_is_named_by_the_others_and_nothing_is_lost(self):
        self.check_killed((1, "checkpoint", 0.3))

    def test_a_killed_chief_is_named_too(self):
        self.check_killed(
            (0, "joining the others", 3.0),  # time for the other one to hear it
            (0, "cluster, level 2", 0.3),
        )

    @pytest.mark.extended
    def test_a_worker_that_is_killed_in_other_phases_is_named_too(self):
        self.check_killed((0, "a training step", 0.3), (1, "extract", 0.3))

    def check_killed(self, *faults):
        workdir = self.workdir()
        for rank, phase, seconds in faults:
            with self.job(workdir, phase, slow=(phase, seconds)) as job:
                job.wait_until_slow()
                time.sleep(0.8 * seconds)
                job.signal(rank, signal.SIGKILL)
                self.assertEqual(job.wait(30, [1 - rank]), [HELD_UP], job.log(1 - rank))
                text = rf"worker {rank} \(localhost:\d+\) ended without reporting why"
                self.assertRegex(job.log(1 - rank), text)
        self.finish(workdir)

    @pytest.mark.extended
    def test_a_worker_that_dies_between_gatherings_of_factors_is_named_too(self):
        workdir = self.workdir()
        exchange = {"exchange": "factors", "exchange_dtype": "bfloat16"}
        changes = {"model": {**self.settings["model"], **exchange}}
        with self.job(workdir, "killed", slow=("a training step", 0.3), **changes) as job:
            job.wait_until_slow()
            job.signal(1, signal.SIGKILL)
            self.assertEqual(job.wait(30, [0]), [HELD_UP], job.log(0))
            text = r"worker 1 \(localhost:\d+\) ended without reporting why"
            self.assertRegex(job.log(0), text)
        with self.job(workdir, "resumed", **changes) as job:
            self.assertEqual(job.wait(180), [0, 0], job.log(0)[-3000:])

    def test_a_worker_that_never_comes_is_named(self):
        self.assertEqual(self.absent.wait(150, [0]), [HELD_UP], self.absent.log(0))
        text = r"worker 1 \(localhost:\d+\) has not started within 6\d s"
        self.assertRegex(self.absent.log(0), text)

    @pytest.mark.extended
    def test_a_worker_that_stands_still_is_named_by_all_once_it_can(self):
        workdir = self.workdir()
        watchdog = {"watchdog": {"timeout_s": 6.0}}
        with self.job(workdir, "still", slow=("a training step", 0.3), **watchdog) as job:
            job.wait_until_slow()
            job.signal(1, signal.SIGSTOP)
            self.assertEqual(job.wait(60, [0]), [HELD_UP], job.log(0))
            self.assertRegex(
                job.log(0), r"worker 1 \(localhost:\d+\) has sent no heartbeat for \d+ s"
            )
            job.signal(1, signal.SIGCONT)
            self.assertEqual(job.wait(30, [1]), [HELD_UP], job.log(1))
        for rank in range(2):
            stacks = pathlib.Path(workdir, "stacks", f"worker-{rank:05d}.txt").read_text()
            self.assertIn("commands/train.py", stacks)
        self.finish(workdir)

    @pytest.mark.extended
    def test_a_worker_that_pauses_costs_only_time(self):
        workdir = self.workdir()
        with self.job(workdir, "paused", slow=("a training step", 0.3)) as job:
            job.wait_until_slow()
            job.signal(1, signal.SIGSTOP)
            time.sleep(20)  # twice what TensorFlow waits for by default
            job.signal(1, signal.SIGCONT)
            self.assertEqual(job.wait(180), [0, 0], job.log(0)[-3000:])

    def test_workers_of_which_one_is_asked_to_stop_save_at_one_step_and_resume(self):
        self.check_stopped((1, signal.SIGTERM, "a training step"))

    def test_workers_are_asked_to_stop_in_other_phases(self):
        self.check_stopped(
            (0, signal.SIGTERM, "extract"),
            (1, signal.SIGUSR1, "cluster, level 1"),
        )

    def check_stopped(self, *stops):
        workdir = self.workdir()
        for rank, number, phase in stops:
            with self.job(workdir, phase, slow=(phase, 0.5)) as job:
                job.wait_until_slow()
                job.signal(rank, number)
                self.assertEqual(job.wait(120), [PREEMPTED] * 2, job.log(0) + job.log(1))
                self.assertIn("asked to stop", job.log(rank))
        self.finish(workdir)

    @pytest.mark.extended
    def test_a_folder_in_use_is_refused_and_the_run_in_it_continues(self):
        workdir = self.workdir()
        with self.job(workdir, "first", size=1, slow=("extract", 3.0)) as job:
            job.wait_until_slow()
            with self.job(workdir, "second", size=1) as other:
                self.assertEqual(other.wait(60), [WRONG_USAGE])
                self.assertRegex(other.log(0), r"is in use by process \d+ on .*; wait for it")
            self.assertEqual(job.wait(120), [0], job.log(0))

    def kmeans(self, output, slow=None):
        path = os.path.join(self.folder, "rows.npy")
        if not os.path.exists(path):
            np.save(path, np.random.default_rng(0).normal(size=(3000, 16)).astype(np.float32))
        output = os.path.join(self.folder, output)
        command = ["kmeans", f"--input={path}", "--k=20", f"--output={output}"]
        return Job(2, command, self.workdir(), slow)

    @pytest.mark.extended
    def test_a_killed_worker_of_another_command_is_named_by_the_others(self):
        evaluation = [
            "evaluate",
            "--task=knn",
            f"--model={self.whole}",
            f"--train={self.settings['data']['path']}",
            f"--test={self.settings['data']['path']}",
            f"--watch_dir={os.path.join(self.folder, 'watch')}",
        ]

        def evaluate(slow):
            return Job(2, evaluation, self.workdir(), slow)

        def kill(command, faults):
            for phase, rank in faults:
                with command((phase, 3.0)) as job:
                    job.wait_until_slow()
                    time.sleep(2.4)  # time for the other one to hear it
                    job.signal(rank, signal.SIGKILL)
                    self.assertEqual(job.wait(30, [1 - rank]), [HELD_UP], job.log(1 - rank))
                    text = rf"worker {rank} \(localhost:\d+\) ended without reporting why"
                    self.assertRegex(job.log(1 - rank), text)

        commands = functools.partial(self.kmeans, "killed"), evaluate
        faults = (
            [("joining the others", 0), ("check", 1)],
            [("joining the others", 1), ("evaluation", 0)],
        )
        with futures.ThreadPoolExecutor() as pool:  # at the same time, since most of it is waiting
            list(pool.map(kill, commands, faults))
        with self.kmeans("killed") as job:
            self.assertEqual(job.wait(120), [0, 0], job.log(0))

    def test_a_kmeans_asked_to_stop_resumes_where_it_was(self):
        with self.kmeans("whole") as job:
            self.assertEqual(job.wait(120), [0, 0], job.log(0))
        with self.kmeans("stopped", slow=("kmeans", 0.5)) as job:
            job.wait_until_slow()
            job.signal(1, signal.SIGTERM)
            self.assertEqual(job.wait(120), [PREEMPTED] * 2, job.log(0))
        with self.kmeans("stopped") as job:
            self.assertEqual(job.wait(120), [0, 0], job.log(0))
            self.assertIn("resumes at iteration", job.log(0))
            self.assertEqual(job.result()["iterations"], 10)
        for name in ("centroids.npy", "assignments.npy"):
            found = [np.load(os.path.join(self.folder, o, name)) for o in ("whole", "stopped")]
            self.assertAllEqual(*found)


if __name__ == "__main__":
    tf.test.main()
