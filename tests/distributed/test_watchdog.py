"""Who is to blame, from what the workers say; whole processes are in `launch/test_faults.py`."""

import json
import os
import pathlib
import shutil
import signal
import socket
import threading
import time
from unittest import mock

import tensorflow as tf
import workers

from dc_tf import pulse
from dc_tf.distributed import heartbeat_files, watchdog
from dc_tf.distributed.diagnosis import answers, judge, judge_judge
from dc_tf.distributed.heartbeat_files import Pulses, Seen
from dc_tf.distributed.task import TaskSpec
from dc_tf.distributed.watchdog import Watchdog
from dc_tf.errors import Preempted

ADDRESSES = ("a:1", "b:2", "c:3")


def at_work(silent_s=0.5, **words):
    return Seen(
        {"phase": "train", "idle_s": 1.0, "waits": True, "patient": False} | words, silent_s
    )


def verdict(seen, answering=lambda address: True, timeout_s=60.0):
    return judge(dict(enumerate(seen)), ADDRESSES, timeout_s, answering)


class VerdictTest(tf.test.TestCase):
    def test_workers_that_get_on_are_left_alone(self):
        self.assertIsNone(verdict([at_work(), at_work(waits=False), Seen(None, 30.0)]))
        # One waits long for another that is known to take long.
        slow = at_work(waits=False, patient=True, idle_s=500.0)
        self.assertIsNone(verdict([at_work(idle_s=500.0), slow, at_work(idle_s=500.0)]))

    def test_what_a_worker_says_at_its_end_counts_once_it_has_settled(self):
        failed = at_work(4.0, end="failed", message="DataError: shard 3 is gone")
        found = verdict([at_work(), failed, at_work()])
        self.assertEqual((found.kind, found.rank), ("failed", 1))
        self.assertIn("worker 1 (b:2) failed: DataError: shard 3 is gone", found.message)
        self.assertIsNone(verdict([at_work(), at_work(1.0, end="failed"), at_work()]))
        self.assertEqual(verdict([at_work(4.0, end="preempted")]).kind, "preempted")
        self.assertIsNone(verdict([at_work(), at_work(500.0, end="done", idle_s=500.0)]))

    def test_a_closed_port_and_a_silent_file_are_a_death(self):
        seen = [at_work(), at_work(8.0), at_work()]
        found = verdict(seen, lambda address: address != "b:2")
        self.assertEqual((found.kind, found.rank), ("gone", 1))
        self.assertIsNone(verdict(seen))  # it listens: perhaps its disk is slow
        self.assertIsNone(verdict(seen, lambda address: None))

    def test_silence_is_blamed_after_the_timeout(self):
        found = verdict([at_work(idle_s=70.0), at_work(61.0), at_work(idle_s=70.0)])
        self.assertEqual((found.kind, found.rank), ("silent", 1))
        self.assertEqual(verdict([at_work(), Seen(None, 61.0)]).kind, "absent")

    def test_one_that_does_nothing_while_others_wait_is_stuck(self):
        idle = at_work(waits=False, idle_s=61.0, phase="waits for images")
        found = verdict([at_work(idle_s=61.0), at_work(idle_s=61.0), idle])
        self.assertEqual((found.kind, found.rank), ("stuck", 2))
        self.assertIn("'waits for images'", found.message)
        late = at_work(waits=False, patient=True, idle_s=601.0)
        self.assertEqual(verdict([at_work(), late, at_work()]).kind, "stuck")

    def test_when_all_wait_the_one_that_cannot_be_reached_is_named(self):
        found = verdict([at_work(idle_s=61.0)] * 3, lambda a: None if a == "c:3" else True)
        self.assertEqual((found.kind, found.rank), ("waiting", 2))
        self.assertIn("worker 2 (c:3) cannot be reached", found.message)

    def test_after_a_broken_exchange_the_one_that_cannot_be_reached_is_named_at_once(self):
        seen = [at_work(broken=True), at_work(broken=True), at_work()]
        found = verdict(seen, lambda address: None if address == "c:3" else True)
        self.assertEqual((found.kind, found.rank), ("cut off", 2))
        self.assertIn("worker 2 (c:3) cannot be reached", found.message)
        self.assertIsNone(verdict(seen))

    def test_others_judge_the_first_worker_only_by_whether_it_lives(self):
        self.assertIsNone(judge_judge(at_work(idle_s=500.0), ADDRESSES, 60.0, lambda _: True))
        found = judge_judge(at_work(61.0), ADDRESSES, 60.0, lambda _: True)
        self.assertEqual((found.kind, found.rank), ("silent", 0))

    def test_a_worker_alone_is_stuck_also_in_a_step(self):
        found = judge({0: at_work(idle_s=61.0)}, (), 60.0, answers)
        self.assertEqual((found.kind, found.rank), ("stuck", 0))

    def test_a_port_answers_or_is_closed(self):
        with socket.create_server(("localhost", 0)) as server:
            self.assertTrue(answers(f"localhost:{server.getsockname()[1]}"))
        (port,) = workers.free_ports(1)
        self.assertIs(answers(f"localhost:{port}"), False)


class PulsesTest(tf.test.TestCase):
    def pulses(self, rank, addresses=ADDRESSES):
        folder = os.path.join(self.get_temp_dir(), self.id())
        return Pulses(folder, TaskSpec(addresses, rank))

    def test_what_an_earlier_life_left_counts_for_nothing(self):
        self.pulses(1).write({"phase": "old"})
        looker = self.pulses(0)
        self.assertIsNone(looker.look(1).words)
        self.pulses(1).write({"phase": "new"})
        self.assertEqual(looker.look(1).words["phase"], "new")

    def test_once_all_have_met_what_lies_there_counts(self):
        self.pulses(1).write({"phase": "joined"})
        looker = self.pulses(0)
        self.assertIsNone(looker.look(1).words)
        looker.all_are_here()
        self.assertEqual(looker.look(1).words["phase"], "joined")

    def test_all_meet_whoever_comes_first_and_whatever_an_earlier_life_left(self):
        for order in ([0, 1, 2], [2, 1, 0], [1, 0, 2]):
            for _ in range(2):  # the second time the files of the first are there
                there, met = {}, set()
                for rank in order:
                    there[rank] = self.pulses(rank)
                    there[rank].write({})
                    for _ in range(3):
                        met |= {r for r, one in there.items() if one.meets()}
                        self.assertTrue(not met or len(there) == 3, (order, met))
                self.assertEqual(met, {0, 1, 2})

    def test_one_that_knows_that_all_are_there_need_not_speak_again(self):
        first, second = (self.pulses(rank, ADDRESSES[:2]) for rank in (0, 1))
        second.write({})
        self.assertFalse(first.meets())
        first.write({})
        self.assertFalse(second.meets())
        self.assertTrue(first.meets())
        del first
        self.assertTrue(second.meets())

    def test_time_in_which_nobody_looked_is_no_silence(self):
        clock = [100.0]
        with mock.patch.object(heartbeat_files.time, "monotonic", lambda: clock[0]):
            speaker, looker = self.pulses(1), self.pulses(0)
            speaker.write({"phase": "x"})
            looker.look(1)
            for seconds, silent_s in ((1.0, 1.0), (60.0, 3.0), (1.0, 4.0)):
                clock[0] += seconds
                self.assertEqual(looker.look(1).silent_s, silent_s)

    def test_a_worker_is_as_silent_as_its_file_is_unchanged(self):
        speaker, looker = self.pulses(1), self.pulses(0)
        looker.look(1)
        speaker.write({"phase": "x"})
        first = looker.look(1)
        self.assertLess(first.silent_s, looker.look(1).silent_s)
        self.assertEqual(first.silent_s, 0.0)

    def test_sets_of_workers_do_not_hear_one_another(self):
        looker, stranger = self.pulses(0), self.pulses(1, ("d:4", "e:5"))
        looker.look(1)
        stranger.write({"phase": "x"})
        self.assertIsNone(looker.look(1).words)


class WatchdogTest(tf.test.TestCase):
    def test_who_waits_for_others_says_for_whom(self):
        self.addCleanup(pulse.forget)
        folder = os.path.join(self.get_temp_dir(), "waits")
        second = Pulses(folder, TaskSpec(ADDRESSES, 1))
        first = Watchdog(folder, TaskSpec(ADDRESSES, 0), 600.0, folder, period_s=0.02)
        stop = threading.Timer(1.0, pulse.ask_to_stop)
        with (
            mock.patch.object(watchdog, "_TELL_S", 0.2),
            self.assertLogs(level="WARNING") as logs,
            self.assertRaises(Preempted),
            first,
        ):
            second.write({})
            second.meets()  # hears the first, which does not hear the third
            stop.start()
            first.meet()
        self.assertLen(logs.output, 1)
        self.assertEndsWith(logs.output[0], "waits for worker 2 (c:3)")

    def test_a_disk_that_fails_keeps_it_from_being_heard_and_from_nothing_else(self):
        folder = os.path.join(self.get_temp_dir(), "run")
        stacks = os.path.join(self.get_temp_dir(), "a file")
        pathlib.Path(stacks).touch()
        with Watchdog(folder, TaskSpec(), 600.0, stacks, period_s=0.02) as watching:
            shutil.rmtree(folder)
            pathlib.Path(folder).touch()
            time.sleep(0.2)
            self.assertTrue(watching._thread.is_alive())
            self.assertIn("could not be kept", watching._dump_stacks())

    def test_signals_ask_the_work_to_stop(self):
        self.addCleanup(pulse.forget)
        before = signal.getsignal(signal.SIGUSR1)
        with Watchdog(self.get_temp_dir(), TaskSpec(), 600.0, self.get_temp_dir()):
            self.assertFalse(pulse.stop_asked())
            signal.raise_signal(signal.SIGUSR1)
            self.assertTrue(pulse.stop_asked())
        self.assertEqual(signal.getsignal(signal.SIGUSR1), before)

    def test_one_that_waits_for_others_ends_when_it_is_told_to_stop(self):
        self.addCleanup(pulse.forget)
        folder = self.get_temp_dir()
        with self.assertRaisesRegex(Preempted, "waiting for the other workers"):
            with Watchdog(folder, TaskSpec(ADDRESSES, 1), 600.0, folder, 0.02) as watching:
                signal.raise_signal(signal.SIGTERM)
                watching.meet()
        said = [json.loads(path.read_text()) for path in pathlib.Path(folder).rglob("*.json")]
        self.assertEqual([words["end"] for words in said], ["preempted"])


class PulseTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        pulse.forget()
        self.addCleanup(pulse.forget)

    def test_it_says_what_the_process_is_at(self):
        pulse.beat("extract")
        with pulse.waiting("sums"), pulse.patient("first step"):
            inside = pulse.read()
        self.assertEqual(
            (inside["phase"], inside["waits"], inside["patient"]), ("first step", 1, 1)
        )
        after = pulse.read()
        self.assertEqual((after["waits"], after["patient"]), (False, False))
        self.assertFalse(pulse.stop_asked())
        pulse.ask_to_stop()
        self.assertTrue(pulse.stop_asked())

    def test_the_first_interrupt_asks_and_the_second_ends(self):
        workers.hear_interrupts(self)
        with pulse.stoppable():
            signal.raise_signal(signal.SIGINT)
            self.assertTrue(pulse.stop_asked())
            with self.assertRaises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        self.assertEqual(signal.getsignal(signal.SIGINT), signal.default_int_handler)

    def test_an_interrupt_after_a_request_asks_once_more(self):
        workers.hear_interrupts(self)
        with pulse.stoppable():
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGINT)
            with self.assertRaises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)

    def test_work_that_saves_nothing_ends_at_the_first(self):
        workers.hear_interrupts(self)
        before = {number: signal.getsignal(number) for number in pulse.SIGNALS}
        try:
            pulse.hear_signals()
            pulse.reset_signals()
            self.assertEqual(signal.getsignal(signal.SIGTERM), signal.SIG_DFL)
            with self.assertRaises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def test_what_a_script_runs_in_the_background_stays_deaf_to_interrupts(self):
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            with pulse.stoppable():
                signal.raise_signal(signal.SIGINT)
                self.assertFalse(pulse.stop_asked())
        finally:
            signal.signal(signal.SIGINT, before)


if __name__ == "__main__":
    tf.test.main()
