"""Order, errors, deaths and bounds of work in processes."""

import itertools
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import types
import unittest
from unittest import mock

from dc_tf.data.storage import processes
from dc_tf.data.storage.processes import map_lists


def squares(numbers):
    """The squares; 13 kills its process, and 666 is an error."""
    if 13 in numbers:
        os.kill(os.getpid(), signal.SIGKILL)
    if 666 in numbers:
        raise ValueError("666")
    time.sleep(0.002 * (numbers[0] % 5))
    return [number * number for number in numbers]


def never(number):
    return -number


class ProcessesTest(unittest.TestCase):  # the processes import this, so no TensorFlow
    def lists(self, *numbers):
        return [list(numbers[i : i + 3]) for i in range(0, len(numbers), 3)]

    def test_results_are_in_order_whatever_the_number_of_processes(self):
        numbers = [n for n in range(60) if n != 13]
        for workers in (1, 3):
            found = list(map_lists(squares, self.lists(*numbers), workers))
            self.assertEqual(found, [n * n for n in numbers])

    def test_one_that_dies_costs_only_the_item_that_did_it(self):
        found = list(map_lists(squares, self.lists(*range(40)), 2, crashed=never))
        self.assertEqual(found, [-13 if n == 13 else n * n for n in range(40)])

    def test_death_and_errors_are_errors_where_nothing_else_was_agreed(self):
        with self.assertRaisesRegex(ValueError, "666"):
            list(map_lists(squares, self.lists(1, 2, 3, 666), 2, crashed=never))
        with self.assertRaises(RuntimeError):
            list(map_lists(squares, self.lists(*range(20)), 2))

    def test_workers_of_one_host_share_its_cores(self):
        alone, several = (types.SimpleNamespace(size=size) for size in (1, 3))
        cluster = {"worker": ["a:1", "a:2", "b:1"]}
        config = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": 0}})
        environment = mock.patch.dict(os.environ, TF_CONFIG=config)
        with environment, mock.patch.object(processes, "cores", return_value=9):
            self.assertEqual(processes.own_processes(None, several), 4)
            self.assertEqual(processes.own_processes(5, several), 5)
            self.assertEqual(processes.own_processes(None, alone), 9)

    def test_lists_are_taken_only_as_they_are_needed(self):
        taken = []

        def lists():
            for number in itertools.count(100):
                taken.append(number)
                yield [number]

        results = map_lists(squares, lists(), 1)
        next(results)
        self.assertLessEqual(len(taken), processes._LISTS_AHEAD + 1)
        results.close()
        taken.clear()
        heavy = map_lists(squares, lists(), 2, weight=lambda _: processes._BYTES_AHEAD)
        for _ in range(3):
            next(heavy)
        self.assertLessEqual(len(taken), 4)
        heavy.close()

    def test_an_interrupt_that_meets_starting_processes_leaves_no_trace(self):
        program = [sys.executable, "-c", INTERRUPTED]
        repository = pathlib.Path(__file__).resolve().parents[3]
        process = subprocess.Popen(
            program,
            env=os.environ | {"PYTHONPATH": str(repository)},
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        with process:
            self.assertEqual(process.stderr.readline(), "begins\n")
            children = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children")
            # The first child is the tracker of multiprocessing, the second one of the pool.
            until = time.monotonic() + 60
            while len(children.read_text().split()) < 2:
                self.assertLess(time.monotonic(), until)
            os.killpg(process.pid, signal.SIGINT)
            try:
                _, rest = process.communicate(timeout=60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                raise
        self.assertEqual(process.returncode, 42, rest)
        self.assertNotIn("Traceback", rest)


INTERRUPTED = """
import itertools, signal, sys
from dc_tf.data.storage.processes import map_lists
from dc_tf.distributed import stop_request
from dc_tf.errors import Preempted

# Jobs in the background of a shell inherit an ignored SIGINT, which would stay ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)

def main():
    with stop_request.signals_handled():
        print("begins", file=sys.stderr, flush=True)
        for _ in map_lists(sorted, ([[i]] for i in itertools.count()), workers=2):
            stop_request.raise_if_requested()

try:
    main()
except Preempted:
    sys.exit(42)
"""


if __name__ == "__main__":
    unittest.main()
