import contextlib
import io
from unittest import mock

import tensorflow as tf

from dc_tf import progress as progress_lib
from dc_tf.progress import IterationProgress, Progress


class ProgressTest(tf.test.TestCase):
    """What a log file gets; a terminal's bar is tqdm's own."""

    def lines(self, steps, seconds, **settings):
        """The lines of `steps` updates of one unit, each taking `seconds`."""
        clock, err = [0.0], io.StringIO()
        with contextlib.ExitStack() as stack:
            stack.enter_context(mock.patch.object(progress_lib.time, "monotonic", lambda: clock[0]))
            stack.enter_context(contextlib.redirect_stderr(err))
            with Progress(what="count", unit="sheep", **settings) as progress:
                for step in range(steps):
                    clock[0] += seconds
                    progress.update(1, loss=step / 3)
        return err.getvalue().splitlines()

    def test_a_long_job_writes_a_line_every_so_often_with_rate_and_time_left(self):
        lines = self.lines(steps=100, seconds=1.0, total=100, every_s=40)
        self.assertLen(lines, 4)  # start, 40 s, 80 s, end
        self.assertEqual(lines[0], "count: 0/100 sheep (0%)")
        self.assertEqual(lines[1], "count: 40/100 sheep (40%), 1 sheep/s, 1:00 left, loss 13")
        self.assertEqual(lines[3], "count: 100/100 sheep (100%), done in 1:40, 1 sheep/s, loss 33")

    def test_a_short_job_writes_its_start_and_its_end(self):
        self.assertLen(self.lines(steps=50, seconds=0.001, total=50), 2)

    def test_an_unknown_or_empty_total_is_no_reason_to_fail(self):
        self.assertEqual(self.lines(steps=0, seconds=1, total=0)[0], "count: 0/0 sheep")
        self.assertStartsWith(self.lines(steps=20, seconds=1, total=None)[1], "count: 10 sheep, 1")

    def test_workers_other_than_the_chief_are_silent(self):
        self.assertEmpty(self.lines(steps=20, seconds=60, total=20, enabled=False))

    def test_units_done_before_count_but_not_for_the_rate(self):
        with mock.patch.object(Progress, "__enter__", _enter_with_half_done):
            lines = self.lines(steps=50, seconds=1.0, total=100, every_s=20)
        self.assertEqual(lines[1], "count: resumes at 50/100 sheep (50%)")
        self.assertEqual(lines[2], "count: 70/100 sheep (70%), 1 sheep/s, 30.0 s left, loss 6.333")
        self.assertIn("100/100 sheep (100%), done in 50.0 s, 1 sheep/s", lines[-1])

    def test_time_to_prepare_is_no_part_of_the_rate(self):
        clock, err = [0.0], io.StringIO()
        with contextlib.ExitStack() as stack:
            stack.enter_context(mock.patch.object(progress_lib.time, "monotonic", lambda: clock[0]))
            stack.enter_context(contextlib.redirect_stderr(err))
            with Progress(4, "count", every_s=1) as progress:
                for n in (0, 0, 1, 0, 1):
                    clock[0] += 10
                    progress.update(n)
        lines = err.getvalue().splitlines()
        self.assertEqual(lines[2], "count: 0/4 rows (0%), 0 rows/s")
        self.assertEqual(lines[3], "count: 1/4 rows (25%), 0.1 rows/s, 30.0 s left")
        self.assertEqual(lines[5], "count: 2/4 rows (50%), 0.06667 rows/s, 30.0 s left")
        self.assertEqual(lines[6], "count: 2/4 rows (50%), done in 50.0 s, 0.06667 rows/s")

    def test_a_phase_that_resumes_says_where_and_a_new_one_does_not(self):
        lines = self.lines(steps=50, seconds=1.0, total=1100, done=1050, every_s=40)
        self.assertEqual(lines[0], "count: resumes at 1,050/1,100 sheep (95%)")
        self.assertEqual(
            lines[1], "count: 1,090/1,100 sheep (99%), 1 sheep/s, 10.0 s left, loss 13"
        )
        self.assertLen(lines, 3)
        self.assertNotIn("resumes", "".join(self.lines(steps=50, seconds=1.0, total=50)))

    def test_what_turns_out_to_be_done_is_reported_before_the_first_new_unit(self):
        err = io.StringIO()
        with contextlib.redirect_stderr(err), Progress(9, "count", every_s=0) as progress:
            progress.skip(3)
            progress.skip(2)
            progress.update(2)
            progress.skip(1)
            progress.update(1)
        lines = err.getvalue().splitlines()
        self.assertEqual(
            [line.split(",")[0] for line in lines],
            [
                "count: 0/9 rows (0%)",
                "count: resumes at 5/9 rows (56%)",
                "count: 7/9 rows (78%)",
                "count: 9/9 rows (100%)",
            ],
        )

    def test_no_count_is_written_twice(self):
        lines = self.lines(steps=3, seconds=60.0, total=3)
        counts = [line.split(",")[0] for line in lines]
        self.assertLen(counts, 4)
        self.assertLen(set(counts), 4)

    def test_kmeans_counts_iterations_and_the_rows_of_all_workers_once(self):
        err, clock = io.StringIO(), [0.0]
        with contextlib.ExitStack() as stack:
            stack.enter_context(mock.patch.object(progress_lib.time, "monotonic", lambda: clock[0]))
            stack.enter_context(contextlib.redirect_stderr(err))
            shown = IterationProgress(2, 1334, "kmeans", own_rows=667, every_s=1)
            with shown as progress:
                for iteration in range(3):
                    clock[0] += 2
                    progress.update(667, iteration=iteration, objective=5.0 - iteration)
        self.assertEqual(
            err.getvalue().splitlines(),
            [
                "kmeans: iteration 0/2, 1,334 rows",
                "kmeans: iteration 0/2, 1,334 rows, 667 rows/s, 4.0 s left, objective 5",
                "kmeans: iteration 1/2, 1,334 rows, 667 rows/s, 2.0 s left, objective 4",
                "kmeans: iteration 2/2, 1,334 rows, done in 6.0 s, 667 rows/s, objective 3",
            ],
        )

    def test_a_figure_that_is_not_known_is_not_shown(self):
        err = io.StringIO()
        with contextlib.redirect_stderr(err), Progress(2, "count") as progress:
            progress.update(2, loss=None, level=1)
        self.assertEndsWith(err.getvalue(), "rows/s, level 1\n")

    def test_a_bar_starts_where_it_was(self):
        err = mock.Mock(wraps=io.StringIO(), isatty=lambda: True)
        with contextlib.redirect_stderr(err), Progress(100, "count") as progress:
            progress.skip(90)
            progress.update(10)
            bar = progress._bar
        self.assertEqual((bar.n, bar.initial), (100, 90))

    def test_a_job_that_fails_says_how_far_it_came(self):
        err = io.StringIO()
        with contextlib.redirect_stderr(err), self.assertRaises(OSError):
            with Progress(9, "count", "sheep") as progress:
                progress.update(4)
                raise OSError
        self.assertIn("count: 4/9 sheep (44%), stopped by OSError in", err.getvalue())


def _enter_with_half_done(self, enter=Progress.__enter__):
    enter(self).skip(50)
    return self


if __name__ == "__main__":
    tf.test.main()
