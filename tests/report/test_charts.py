"""Geometry of charts, and the curves of a log."""

import json
import os

import numpy as np
import tensorflow as tf

from dc_tf.report import charts
from dc_tf.report.charts import Series, bar_chart, line_chart, short_number
from dc_tf.report.sections import curves


class ChartsTest(tf.test.TestCase):
    def test_points_lie_between_the_axes_and_ticks_are_round(self):
        chart = line_chart("Loss", [Series("a", [0, 10, 20], [3.0, 1.0, 2.9])], "step", zero=True)
        xs = [point[0] for point in chart.lines[0].points]
        ys = [point[1] for point in chart.lines[0].points]
        self.assertEqual(xs, [charts.LEFT, (charts.LEFT + charts.RIGHT) / 2, charts.RIGHT])
        self.assertEqual(ys[0], charts.TOP)
        self.assertEqual([text for _, text in chart.y_ticks], ["0", "1", "2", "3"])
        self.assertEqual(chart.summary, "Loss: a from 3 at step 0 to 2.9 at 20.")

    def test_values_that_are_not_finite_are_left_out(self):
        series = [Series("a", [0, 1, 2], [1.0, np.nan, 2.0]), Series("b", [0], [np.inf])]
        chart = line_chart("t", series, "x")
        self.assertLen(chart.lines, 1)
        self.assertLen(chart.lines[0].points, 2)
        self.assertIsNone(line_chart("t", series[1:], "x"))

    def test_long_series_are_averaged(self):
        chart = line_chart("t", [Series("a", np.arange(10_000), np.ones(10_000))], "x")
        self.assertLess(len(chart.lines[0].points), 200)
        self.assertEqual({point[3] for point in chart.lines[0].points}, {"1"})

    def test_constant_and_single_values_have_an_axis(self):
        for values in ([0.0], [5.0, 5.0], [-2.0]):
            for log in (False, values[0] > 0):
                chart = line_chart("t", [Series("a", range(len(values)), values)], "x", log=log)
                self.assertGreater(len(chart.y_ticks), 1)
                for _, y, _, _ in chart.lines[0].points:
                    self.assertBetween(y, charts.TOP, charts.BOTTOM)

    def test_a_logarithmic_axis_has_powers_of_ten(self):
        chart = line_chart("t", [Series("a", [0, 1, 2], [1.0, 1000.0, 0.0])], "x", log=True)
        self.assertEqual([text for _, text in chart.y_ticks], ["1", "10", "100", "1,000"])
        self.assertLen(chart.lines[0].points, 2)

    def test_bars_stand_on_the_axis(self):
        chart = bar_chart("t", ["a", "b"], [2, 4], "x")
        self.assertEqual([bar.y + bar.height for bar in chart.bars], [charts.BOTTOM] * 2)
        self.assertEqual(2 * chart.bars[0].height, chart.bars[1].height)
        self.assertIsNone(bar_chart("t", ["a"], [0], "x"))

    def test_numbers_in_few_digits(self):
        found = [short_number(x) for x in (0, 1234, 0.0371, 2.1e6, 3e9, 1e-5, -5)]
        self.assertEqual(found, ["0", "1,234", "0.0371", "2.1M", "3G", "1.0e-5", "-5"])


class CurvesTest(tf.test.TestCase):
    def log(self, *lines):
        path = os.path.join(self.get_temp_dir(), "metrics.jsonl")
        with open(path, "w") as file:
            file.write("\n".join(map(str, lines)))
        return curves.Log.read(path)

    def test_torn_and_strange_lines_are_left_out(self):
        train = {"event": "train", "step": 4, "stage": 0, "loss": 2.0, "images_per_second": 8.0}
        lines = [json.dumps(train), "[1]", "7", json.dumps(train | {"step": 8, "loss": "x"})]
        log = self.log(*lines, '{"event": "train", "st')
        self.assertAllEqual(log.train["step"], [4, 8])
        self.assertAllEqual(np.isnan(log.train["loss"]), [False, True])
        self.assertEqual(curves.seconds(log, [16]), (16.0, 0.0))

    def test_sub_classes_of_a_stage_without_any_are_no_curve(self):
        lines = [
            {"event": "train", "step": step, "stage": 0, "loss": 1.0, "super_loss": 1.0}
            | {"sub_loss": 0.0, "sub_accuracy": 0.0, "super_accuracy": 0.5}
            for step in (1, 2)
        ]
        made = curves.charts_of(self.log(*map(json.dumps, lines)), ["rotnet"])
        loss = next(chart for chart in made if chart.title == "Loss")
        self.assertEqual([line.name for line in loss.lines], ["all", "super-class"])
        self.assertEqual([text for _, text in loss.marks], ["rotnet"])

    def test_a_missing_file_has_no_curves(self):
        log = curves.Log.read(os.path.join(self.get_temp_dir(), "none.jsonl"))
        self.assertEqual(curves.charts_of(log, []), [])
        self.assertEqual(curves.seconds(log, []), (0.0, 0.0))


if __name__ == "__main__":
    tf.test.main()
