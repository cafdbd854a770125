import os
import tempfile
from unittest import mock

import tensorflow as tf

from dc_tf.distributed import stop_request
from dc_tf.errors import Preempted
from dc_tf.sweep import processes, schedule
from dc_tf.sweep.folder import SweepFolder
from dc_tf.sweep.jobs import Job
from dc_tf.sweep.schedule import last_message, run_jobs


class Process:
    """Ends with a code after some calls of `poll`, or when it is asked to."""

    def __init__(self, world, name):
        self.world, self.name, self.left = world, name, 3
        self.code = world.codes.get(name, 0)
        self.killed = False

    def poll(self):
        self.left -= 1
        if self.left > 0:
            return None
        self.world.running.discard(self.name)
        return self.code

    def terminate(self):
        self.left, self.code = 0, 42

    def kill(self):
        self.killed = True


class World:
    def __init__(self, codes=(), stop_at=None):
        self.codes, self.stop_at = dict(codes), stop_at
        self.started, self.running, self.most = [], set(), 0

    def start(self, arguments, slot, log):
        (name,) = arguments
        with open(log, "a") as file:
            file.write("w0 warning\ndc_tf: it cannot work.\n")
        self.started.append(name)
        self.running.add(name)
        self.most = max(self.most, len(self.running))
        if name == self.stop_at:
            stop_request.request()
        return Process(self, name)


class ScheduleTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = SweepFolder(tempfile.mkdtemp(dir=self.get_temp_dir()))
        self.finished = []
        self.addCleanup(stop_request.reset)
        stop_request.reset()

    def job(self, name, *needs, done=False):
        def nothing():
            pass

        finish = lambda: self.finished.append(name)  # noqa: E731
        return Job(name, name, (name,), needs, lambda: done, nothing, finish)

    def run_on(self, world, jobs, at_once=1):
        slots = [processes.Slot(1, 1)] * at_once
        with mock.patch.object(processes, "start", world.start):
            with mock.patch.object(schedule, "POLL_S", 0.001):
                return run_jobs(jobs, slots, self.folder)

    def test_jobs_start_in_their_order_after_those_that_they_need(self):
        jobs = [self.job("a"), self.job("b", "a"), self.job("c"), self.job("d", done=True)]
        world = World()
        self.assertEmpty(self.run_on(world, jobs, at_once=2))
        self.assertEqual(world.started, ["a", "c", "b"])
        self.assertEqual(world.most, 2)
        self.assertCountEqual(self.finished, ["a", "b", "c"])

    def test_no_more_than_the_slots_run_at_a_time(self):
        for at_once in (1, 3):
            world = World()
            self.run_on(world, [self.job(name) for name in "abcdef"], at_once)
            self.assertEqual(world.most, at_once)

    def test_the_others_run_when_one_fails_but_for_those_that_need_it(self):
        jobs = [self.job("a"), self.job("b", "a"), self.job("c", "b"), self.job("d")]
        world = World(codes={"a": 1})
        failures = self.run_on(world, jobs)
        self.assertEqual(world.started, ["a", "d"])
        log = os.path.join(self.folder.path, "logs", "a.log")
        expected = f"ended with exit code 1: dc_tf: it cannot work; log: {log}"
        self.assertEqual(failures["a"], expected)
        self.assertEqual(failures["b"], "needs a, which failed")
        self.assertEqual(failures["c"], "needs b, which failed")

    def test_a_request_to_stop_ends_running_jobs_and_starts_no_other(self):
        jobs = [self.job("a"), self.job("b"), self.job("c")]
        world = World(stop_at="b")
        with self.assertRaisesRegex(Preempted, "1 trainings and evaluations are done, 1 have not"):
            self.run_on(world, jobs)
        self.assertEqual(world.started, ["a", "b"])
        self.assertEqual(self.finished, ["a"])

    def test_the_message_of_a_log_is_its_last_error(self):
        path = os.path.join(self.get_temp_dir(), "log")
        for text, message in (
            ("dc_tf: wrong.\nending\n", "dc_tf: wrong"),
            ("a\n\nValueError: b\n", "ValueError: b"),
            ("", "no output"),
        ):
            with open(path, "w") as file:
                file.write(text)
            self.assertEqual(last_message(path), message)


if __name__ == "__main__":
    tf.test.main()
