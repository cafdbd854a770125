"""SVMs in processes: the order of their problems, and that they find what one process finds."""

import numpy as np
import pytest
import tensorflow as tf

from dc_tf.evaluation.frozen.svm import classify, classify_all, end_processes


class SvmTest(tf.test.TestCase):
    def problem(self, number, rows=40):
        random = np.random.default_rng(number)
        labels = np.arange(rows) % 4
        return number, random.normal(labels[:, None], 3.0, (rows, 30)), labels

    @pytest.mark.slow
    def test_processes_give_the_classes_of_one_in_the_order_of_the_problems(self):
        unknown = np.random.default_rng(0).normal(1.5, 3.0, (200, 30))
        problems = [self.problem(number, rows=40 + 10 * number) for number in range(6)]
        self.addCleanup(end_processes)
        expected = [(n, classify(x, y, unknown, 1.0)) for n, x, y in problems]
        for processes in (1, 2):
            found = list(classify_all(iter(problems), unknown, 1.0, processes))
            self.assertEqual([n for n, _ in found], [n for n, _ in expected])
            for (_, ours), (_, theirs) in zip(found, expected, strict=True):
                self.assertAllEqual(ours, theirs)

    def test_one_process_takes_a_problem_only_when_its_turn_comes(self):
        taken = []

        def problems():
            for number in range(3):
                taken.append(number)
                yield self.problem(number)

        next(classify_all(problems(), np.zeros([1, 30]), 1.0, processes=1))
        self.assertEqual(taken, [0])

    @pytest.mark.slow
    def test_the_processes_are_gone_afterwards(self):
        from joblib.externals import loky

        list(classify_all([self.problem(0), self.problem(1)], np.zeros([1, 30]), 1.0, 2))
        executor = loky.get_reusable_executor()
        children = list(executor._processes.values())
        end_processes()
        for child in children:
            child.join(20)
            self.assertIsNotNone(child.exitcode)


if __name__ == "__main__":
    tf.test.main()
