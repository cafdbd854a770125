"""Which worker is diagnosed from the heartbeats; processes are in `launch/test_faults.py`."""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from unittest import mock

import pytest
import tensorflow as tf
import workers

from dc_tf.distributed import heartbeat, heartbeat_files, stop_request, watchdog
from dc_tf.distributed.diagnosis import answers, diagnose, diagnose_chief
from dc_tf.distributed.heartbeat_files import HeartbeatFiles, Seen
from dc_tf.distributed.task import TaskSpec
from dc_tf.distributed.watchdog import Watchdog
from dc_tf.errors import HELD_UP, Preempted

ADDRESSES = ("a:1", "b:2", "c:3")


def at_work(silent_s=0.5, **status):
    return Seen({"phase": "train", "idle_s": 1.0, "waits": True, "slow": False} | status, silent_s)


def diagnosis(seen, answering=lambda address: True, timeout_s=60.0):
    return diagnose(dict(enumerate(seen)), ADDRESSES, timeout_s, answering)


class DiagnosisTest(tf.test.TestCase):
    def test_workers_that_get_on_are_left_alone(self):
        self.assertIsNone(diagnosis([at_work(), at_work(waits=False), Seen(None, 30.0)]))
        # One waits long for another that is known to take long.
        slow = at_work(waits=False, slow=True, idle_s=500.0)
        self.assertIsNone(diagnosis([at_work(idle_s=500.0), slow, at_work(idle_s=500.0)]))

    def test_what_a_worker_says_at_its_end_counts_once_it_has_settled(self):
        failed = at_work(4.0, end="failed", message="DataError: shard 3 is gone")
        found = diagnosis([at_work(), failed, at_work()])
        self.assertEqual((found.kind, found.rank), ("failed", 1))
        self.assertIn("worker 1 (b:2) failed: DataError: shard 3 is gone", found.message)
        self.assertIsNone(diagnosis([at_work(), at_work(1.0, end="failed"), at_work()]))
        self.assertEqual(diagnosis([at_work(4.0, end="preempted")]).kind, "preempted")
        self.assertIsNone(diagnosis([at_work(), at_work(500.0, end="done", idle_s=500.0)]))

    def test_a_closed_port_and_a_silent_file_are_a_death(self):
        seen = [at_work(), at_work(8.0), at_work()]
        found = diagnosis(seen, lambda address: address != "b:2")
        self.assertEqual((found.kind, found.rank), ("gone", 1))
        self.assertIsNone(diagnosis(seen))  # it listens: perhaps its disk is slow
        self.assertIsNone(diagnosis(seen, lambda address: None))

    def test_one_that_has_started_again_by_itself_has_died(self):
        again = Seen(at_work().status | {"phase": "start"}, 0.1, restarted=True)
        found = diagnosis([at_work(), again, at_work(4.0, end="failed", message="Unavailable")])
        self.assertEqual((found.kind, found.rank), ("gone", 1))
        self.assertIn("worker 1 (b:2) ended without reporting why, and has st", found.message)
        self.assertEqual(diagnose_chief(again, ADDRESSES, 60.0, lambda _: True).rank, 0)

    def test_silence_is_blamed_after_the_timeout(self):
        found = diagnosis([at_work(idle_s=70.0), at_work(61.0), at_work(idle_s=70.0)])
        self.assertEqual((found.kind, found.rank), ("silent", 1))
        self.assertEqual(diagnosis([at_work(), Seen(None, 61.0)]).kind, "absent")

    def test_one_that_does_nothing_while_others_wait_is_stuck(self):
        idle = at_work(waits=False, idle_s=61.0, phase="waits for images")
        found = diagnosis([at_work(idle_s=61.0), at_work(idle_s=61.0), idle])
        self.assertEqual((found.kind, found.rank), ("stuck", 2))
        self.assertIn("'waits for images'", found.message)
        late = at_work(waits=False, slow=True, idle_s=601.0)
        self.assertEqual(diagnosis([at_work(), late, at_work()]).kind, "stuck")

    def test_when_all_wait_the_one_that_cannot_be_reached_is_named(self):
        found = diagnosis([at_work(idle_s=61.0)] * 3, lambda a: None if a == "c:3" else True)
        self.assertEqual((found.kind, found.rank), ("waiting", 2))
        self.assertIn("worker 2 (c:3) cannot be reached", found.message)

    def test_after_a_broken_exchange_the_one_that_cannot_be_reached_is_named_at_once(self):
        seen = [at_work(broken=True), at_work(broken=True), at_work()]
        found = diagnosis(seen, lambda address: None if address == "c:3" else True)
        self.assertEqual((found.kind, found.rank), ("cut off", 2))
        self.assertIn("worker 2 (c:3) cannot be reached", found.message)
        self.assertIsNone(diagnosis(seen))

    def test_others_diagnose_the_first_worker_only_by_whether_it_is_alive(self):
        self.assertIsNone(diagnose_chief(at_work(idle_s=500.0), ADDRESSES, 60.0, lambda _: True))
        found = diagnose_chief(at_work(61.0), ADDRESSES, 60.0, lambda _: True)
        self.assertEqual((found.kind, found.rank), ("silent", 0))

    def test_a_worker_alone_is_stuck_also_in_a_step(self):
        found = diagnose({0: at_work(idle_s=61.0)}, (), 60.0, answers)
        self.assertEqual((found.kind, found.rank), ("stuck", 0))

    def test_a_port_answers_or_is_closed(self):
        with socket.create_server(("localhost", 0)) as server:
            self.assertTrue(answers(f"localhost:{server.getsockname()[1]}"))
        (port,) = workers.free_ports(1)
        self.assertIs(answers(f"localhost:{port}"), False)


class HeartbeatFilesTest(tf.test.TestCase):
    def files(self, rank, addresses=ADDRESSES):
        folder = os.path.join(self.get_temp_dir(), self.id())
        return HeartbeatFiles(folder, TaskSpec(addresses, rank))

    def test_files_of_an_earlier_incarnation_are_ignored(self):
        self.files(1).write({"phase": "old"})
        looker = self.files(0)
        self.assertIsNone(looker.look(1).status)
        self.files(1).write({"phase": "new"})
        self.assertEqual(looker.look(1).status["phase"], "new")

    def test_after_the_rendezvous_every_file_counts(self):
        self.files(1).write({"phase": "joined"})
        looker = self.files(0)
        self.assertIsNone(looker.look(1).status)
        looker.rendezvous_done()
        self.assertEqual(looker.look(1).status["phase"], "joined")

    def test_the_rendezvous_ends_in_any_order_and_with_files_of_an_earlier_incarnation(self):
        for order in ([0, 1, 2], [2, 1, 0], [1, 0, 2]):
            for _ in range(2):  # the second time the files of the first are there
                there, joined = {}, set()
                for rank in order:
                    there[rank] = self.files(rank)
                    there[rank].write({})
                    for _ in range(3):
                        joined |= {r for r, one in there.items() if one.try_rendezvous()}
                        self.assertTrue(not joined or len(there) == 3, (order, joined))
                self.assertEqual(joined, {0, 1, 2})

    def test_another_incarnation_after_the_rendezvous_is_seen_as_such(self):
        for again in (0, 1):
            there = {rank: self.files(rank) for rank in range(3)}
            for _ in range(3):
                for one in there.values():
                    one.write({})
                    one.try_rendezvous()
            for one in there.values():
                one.rendezvous_done()
            looker, other = there[1 - again], self.files(again)
            self.assertFalse(looker.look(again).restarted)
            other.write({"phase": "start"})
            self.assertTrue(looker.look(again).restarted)
            self.assertFalse(there[0].look(2).restarted)
            # It ignores those whose rendezvous was with its predecessor, whatever they write.
            other.try_rendezvous()
            looker.write({"end": "failed", "diagnosis": {"rank": again}})
            self.assertEqual(other.look(1 - again), Seen(None, 0.0))
            new = self.files(1 - again)
            new.write({"phase": "new"})
            new.try_rendezvous()
            self.assertEqual(other.look(1 - again).status["phase"], "new")

    def test_one_that_knows_that_all_are_there_need_not_speak_again(self):
        first, second = (self.files(rank, ADDRESSES[:2]) for rank in (0, 1))
        second.write({})
        self.assertFalse(first.try_rendezvous())
        first.write({})
        self.assertFalse(second.try_rendezvous())
        self.assertTrue(first.try_rendezvous())
        del first
        self.assertTrue(second.try_rendezvous())

    def test_time_in_which_nobody_looked_is_no_silence(self):
        clock = [100.0]
        with mock.patch.object(heartbeat_files.time, "monotonic", lambda: clock[0]):
            speaker, looker = self.files(1), self.files(0)
            speaker.write({"phase": "x"})
            looker.look(1)
            for seconds, silent_s in ((1.0, 1.0), (60.0, 3.0), (1.0, 4.0)):
                clock[0] += seconds
                self.assertEqual(looker.look(1).silent_s, silent_s)

    def test_a_worker_is_as_silent_as_its_file_is_unchanged(self):
        speaker, looker = self.files(1), self.files(0)
        looker.look(1)
        speaker.write({"phase": "x"})
        first = looker.look(1)
        self.assertLess(first.silent_s, looker.look(1).silent_s)
        self.assertEqual(first.silent_s, 0.0)

    def test_sets_of_workers_do_not_hear_one_another(self):
        looker, stranger = self.files(0), self.files(1, ("d:4", "e:5"))
        looker.look(1)
        stranger.write({"phase": "x"})
        self.assertIsNone(looker.look(1).status)


class WatchdogTest(tf.test.TestCase):
    def test_who_waits_for_others_says_for_whom(self):
        self.addCleanup(stop_request.reset)
        folder = os.path.join(self.get_temp_dir(), "waits")
        second = HeartbeatFiles(folder, TaskSpec(ADDRESSES, 1))
        first = Watchdog(folder, TaskSpec(ADDRESSES, 0), 600.0, folder, period_s=0.02)
        stop = threading.Timer(1.0, stop_request.request)
        with (
            mock.patch.object(watchdog, "_LOG_MISSING_AFTER_S", 0.2),
            self.assertLogs(level="WARNING") as logs,
            self.assertRaises(Preempted),
            first,
        ):
            second.write({})
            second.try_rendezvous()  # hears the first, which does not hear the third
            stop.start()
            first.rendezvous()
        self.assertLen(logs.output, 1)
        self.assertEndsWith(logs.output[0], "waiting for worker 2 (c:3)")

    def test_a_disk_that_fails_keeps_it_from_being_heard_and_from_nothing_else(self):
        folder = os.path.join(self.get_temp_dir(), "run")
        stacks = os.path.join(self.get_temp_dir(), "a file")
        pathlib.Path(stacks).touch()
        with Watchdog(folder, TaskSpec(), 600.0, stacks, period_s=0.02) as watching:
            shutil.rmtree(folder)
            pathlib.Path(folder).touch()
            time.sleep(0.2)
            self.assertTrue(watching._thread.is_alive())
            self.assertIn("could not be written", watching._dump_stacks())

    def test_signals_ask_the_work_to_stop(self):
        self.addCleanup(stop_request.reset)
        before = signal.getsignal(signal.SIGUSR1)
        with Watchdog(self.get_temp_dir(), TaskSpec(), 600.0, self.get_temp_dir()):
            self.assertFalse(stop_request.requested())
            signal.raise_signal(signal.SIGUSR1)
            self.assertTrue(stop_request.requested())
        self.assertEqual(signal.getsignal(signal.SIGUSR1), before)

    def test_one_that_waits_for_others_exits_when_asked_to_stop(self):
        self.addCleanup(stop_request.reset)
        folder = self.get_temp_dir()
        with self.assertRaisesRegex(Preempted, "waiting for the other workers"):
            with Watchdog(folder, TaskSpec(ADDRESSES, 1), 600.0, folder, 0.02) as watching:
                signal.raise_signal(signal.SIGTERM)
                watching.rendezvous()
        said = [json.loads(path.read_text()) for path in pathlib.Path(folder).rglob("*.json")]
        self.assertEqual([status["end"] for status in said], ["preempted"])


# Says when it is watched, and ends 1 s after its input has.
_WATCHED = """
import sys, time
from dc_tf.distributed import heartbeat, watchdog
from dc_tf.distributed.task import TaskSpec
folder = sys.argv[1]
with watchdog.Watchdog(folder, TaskSpec(), 3.0, folder, period_s=0.1):
    with heartbeat.waiting("a step"):
        print("watched", flush=True)
        sys.stdin.read()
        time.sleep(1)
"""


@pytest.mark.slow
@pytest.mark.merge
class SuspendedTest(tf.test.TestCase):
    """One process, suspended as by Ctrl-Z, and as a comparison one that stands still."""

    def exit_code(self, folder, suspended):
        code = [sys.executable, "-c", _WATCHED, folder]
        pipe = subprocess.PIPE
        with subprocess.Popen(code, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
            try:
                self.assertEqual(process.stdout.readline(), "watched\n")
                if suspended:
                    process.send_signal(signal.SIGSTOP)
                    time.sleep(6)
                    process.send_signal(signal.SIGCONT)
                else:
                    process.wait(timeout=60)
                _, said = process.communicate(timeout=60)
            finally:
                process.kill()
        return process.returncode, said

    def test_time_in_which_a_process_was_suspended_is_not_idleness(self):
        self.assertEqual(self.exit_code(self.get_temp_dir(), suspended=True)[0], 0)

    def test_one_that_stands_still_so_long_is_ended(self):
        code, said = self.exit_code(self.get_temp_dir(), suspended=False)
        self.assertEqual(code, HELD_UP)
        self.assertIn("was in the phase 'a step'", said)


class HeartbeatTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        heartbeat.reset()
        self.addCleanup(heartbeat.reset)

    def test_it_has_the_phase_and_whether_the_process_waits_or_is_slow(self):
        heartbeat.beat("extract")
        with heartbeat.waiting("sums"), heartbeat.slow_operation("first step"):
            inside = heartbeat.read()
        self.assertEqual((inside["phase"], inside["waits"], inside["slow"]), ("first step", 1, 1))
        after = heartbeat.read()
        self.assertEqual((after["waits"], after["slow"]), (False, False))


class StopRequestTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        stop_request.reset()
        self.addCleanup(stop_request.reset)

    def test_a_request_stays(self):
        self.assertFalse(stop_request.requested())
        stop_request.raise_if_requested()
        stop_request.request()
        self.assertTrue(stop_request.requested())
        with self.assertRaisesRegex(Preempted, "what is done is kept"):
            stop_request.raise_if_requested()

    def test_the_first_interrupt_asks_and_the_second_ends(self):
        workers.hear_interrupts(self)
        with stop_request.signals_handled():
            signal.raise_signal(signal.SIGINT)
            self.assertTrue(stop_request.requested())
            with self.assertRaises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        self.assertEqual(signal.getsignal(signal.SIGINT), signal.default_int_handler)

    def test_an_interrupt_after_a_request_asks_once_more(self):
        workers.hear_interrupts(self)
        with stop_request.signals_handled():
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGINT)
            with self.assertRaises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)

    def test_work_that_saves_nothing_ends_at_the_first(self):
        workers.hear_interrupts(self)
        before = {number: signal.getsignal(number) for number in stop_request.SIGNALS}
        try:
            stop_request.install_handlers()
            stop_request.restore_default_handlers()
            self.assertEqual(signal.getsignal(signal.SIGTERM), signal.SIG_DFL)
            with self.assertRaises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def test_what_a_script_runs_in_the_background_stays_deaf_to_interrupts(self):
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            with stop_request.signals_handled():
                signal.raise_signal(signal.SIGINT)
                self.assertFalse(stop_request.requested())
        finally:
            signal.signal(signal.SIGINT, before)


if __name__ == "__main__":
    tf.test.main()
