"""Order, errors, deaths and bounds of work in processes."""

import itertools
import os
import signal
import time
import unittest

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


if __name__ == "__main__":
    unittest.main()
