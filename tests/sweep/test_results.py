import types

import sweeps
import tensorflow as tf

from dc_tf.errors import DataError
from dc_tf.evaluation import paper
from dc_tf.sweep.plot import curves, draw, horizontal
from dc_tf.sweep.published import NAMES, published
from dc_tf.sweep.results import below_untrained, metrics_of, rows_of, spread
from dc_tf.sweep.sweep_file import read_sweep
from dc_tf.sweep.tables import tables


def row(variant, value, axes=None, images=60, layers=("conv13",), deviation=0.5, below=0):
    metric = {"mean": value, "deviation": deviation, "seeds": 1 if deviation is None else 2}
    metric["below_random_init"] = below
    metrics = {"knn": dict.fromkeys(layers, metric)}
    return {"variant": variant, "axes": axes or {}, "images": images, "metrics": metrics}


def result(*rows, shown=None, failed=None):
    return {"title": "T", "rows": list(rows), "paper": shown, "failed": failed or {}}


class MetricsTest(tf.test.TestCase):
    def test_layers_have_the_metric_that_they_are_compared_by(self):
        found = {
            "metric": "map",
            "layers": {"conv1": {"map": 0.25, "top1": 1}},
            "random_init": {"conv1": {"map": 0.125}},
        }
        self.assertEqual(metrics_of(found, untrained=False), {"conv1": 25.0})
        self.assertEqual(metrics_of(found, untrained=True), {"conv1": 12.5})

    def test_tasks_of_the_whole_network(self):
        finetune = {"top1": 0.5, "random_init_top1": 0.25, "random_init": {"top1": 0.25}}
        voc = {"map": 0.75, "random_init": {"map": 0.5}}
        for found, own, untrained in ((finetune, 50.0, 25.0), (voc, 75.0, 50.0)):
            self.assertEqual(metrics_of(found, untrained=False), {"": own})
            self.assertEqual(metrics_of(found, untrained=True), {"": untrained})
        self.assertEqual(metrics_of({"rotation_accuracy": 0.5}, untrained=False), {"": 50.0})

    def test_clusterings_have_the_last_one_by_column(self):
        lines = [
            {"stage": 0, "round": n, "level": level, "column": column, "nmi": nmi}
            for n, level, column, nmi in (
                (0, "sub_clusters", "label", 0.1),
                (1, "clusters", "label", 0.2),
                (1, "sub_clusters", "label", 0.3),
                (1, "sub_clusters", "camera", 0.4),
            )
        ]
        found = {"task": "nmi", "clusterings": lines}
        self.assertEqual(metrics_of(found, untrained=False), {"label": 30.0, "camera": 40.0})
        with self.assertRaisesRegex(DataError, "nmi has no result for an untrained network"):
            metrics_of(found, untrained=True)

    def test_what_ends_below_the_untrained_network(self):
        twin = {"random_init": {"conv1": {}}}
        layers = {"layers": {"conv1": {}}, "below_random_init": ["conv1"], "advice": "conv1 ends"}
        self.assertEqual(below_untrained(layers | twin), ["conv1"])
        whole = {"random_init": {"top1": 0.5}}
        self.assertEqual(below_untrained(whole | {"advice": "the model ends below"}), [""])
        self.assertEqual(below_untrained(whole | {"advice": None}), [])

    def test_what_was_not_compared_does_not_read_as_safe(self):
        layers = {"layers": {"conv1": {}}, "random_init": None, "advice": None}
        for below in ([], None):  # a result of any release
            self.assertIsNone(below_untrained(layers | {"below_random_init": below}))
        self.assertIsNone(below_untrained({"top1": 0.5, "random_init": None, "advice": None}))
        self.assertIsNone(below_untrained({"task": "rotation", "rotation_accuracy": 0.5}))

    def test_a_row_counts_the_seeds_that_end_below_by_layer(self):
        def cell(seed, below):
            metrics = {"knn": {"conv1": 1.0 + seed, "fc7": 3.0}}
            below = {"knn": below}
            own = {"metrics": metrics, "below_random_init": below, "seed": seed}
            return own | {"variant": "a", "axes": {}, "images": 60}

        def counts(*cells):
            (found,) = rows_of(cells)
            return {k: v["below_random_init"] for k, v in found["metrics"]["knn"].items()}

        cells = cell(0, ["fc7"]), cell(1, ["fc7", "conv1"]), cell(2, [])
        self.assertEqual(counts(*cells), {"conv1": 1, "fc7": 2})
        self.assertEqual(counts(cells[2], cells[2]), {"conv1": 0, "fc7": 0})
        self.assertEqual(counts(cells[0], cell(1, None)), {"conv1": None, "fc7": 1})
        self.assertEqual(counts(cell(0, None)), {"conv1": None, "fc7": None})
        self.assertEqual(rows_of(cells)[0]["metrics"]["knn"]["conv1"]["mean"], 2.0)

    def test_mean_and_deviation_of_a_sample(self):
        self.assertEqual(spread([1.0, 2.0, 3.0]), {"mean": 2.0, "deviation": 1.0, "seeds": 3})
        self.assertIsNone(spread([4.0])["deviation"])


class TablesTest(tf.test.TestCase):
    def test_rows_have_variants_points_and_layers(self):
        rows = [row("a", 1.0, {"images": "0.5"}), row("a", 2.0, {"images": "1"}), row("b", 3.0)]
        lines = tables(result(*rows)).splitlines()
        self.assertEqual(lines[2], "knn, percent, mean and deviation of 2 seeds:")
        self.assertEqual(lines[4], "| variant | images | conv13    |")
        self.assertEqual(lines[6], "| a       | 0.5    | 1.0 ± 0.5 |")
        self.assertEqual(lines[8], "| b       |        | 3.0 ± 0.5 |")

    def test_what_ends_below_an_untrained_network_is_marked_and_the_mark_explained(self):
        found = [row("a", 1.0, below=1), row("b", 2.0)]
        text = tables(result(*found))
        self.assertIn(
            "| a       | 1.0 ± 0.5 ↓ |\n| b       | 2.0 ± 0.5   |\n\n↓ below the unt", text
        )
        self.assertNotIn("↓", tables(result(found[1])))

    def test_rows_that_were_not_compared_are_named(self):
        text = tables(result(row("a", 1.0, below=None), row("b", 2.0)))
        note = "untrained network not measured, so not compared with it: "
        self.assertIn(f"| b       | 2.0 ± 0.5 |\n\n{note}a\n", text)
        text = tables(result(row("a", 1.0, below=None), row("b", 2.0, below=None)))
        self.assertIn(f"{note}all rows\n", text)
        self.assertNotIn(note, tables(result(row("a", 1.0), row("b", 2.0))))

    def test_many_layers_go_down(self):
        layers = [f"conv{n}" for n in range(1, 8)]
        found = [row(name, n, layers=layers, deviation=None) for n, name in enumerate("ab", 1)]
        lines = tables(result(*found)).splitlines()
        self.assertEqual(lines[4], "| layer | a   | b   |")
        self.assertEqual(lines[12], "| conv7 | 1.0 | 2.0 |")

    def test_the_papers_results_and_what_failed_are_below(self):
        shown = {"source": "Table 0", "curves": {"VOC": {"a": 62.25, "c": 1.0}, "X": {"a": 2.0}}}
        text = tables(result(row("a", 1.0), shown=shown, failed={"b-seed_0": "ended"}))
        self.assertIn("The paper, Table 0:\n\n|   | VOC  | X   |", text)
        self.assertIn("| c | 1.0  |     |", text)
        self.assertTrue(text.endswith("Failed:\n\n- b-seed_0: ended\n"))


class PublishedTest(tf.test.TestCase):
    def test_the_numbers_are_those_of_the_paper(self):
        self.assertEqual(NAMES, ("table3", "table4", "table7"))
        table3 = published("table3").curves
        self.assertEqual(list(table3["VOC 2007"].values()), [62.2, 63.9, 73.0])
        table4 = published("table4").curves
        for name, curve in paper.LINEAR_CONV13.items():
            for method in ("RotNet", "DeeperCluster"):
                self.assertEqual(curve[method], paper.LINEAR_TOP1[name][method][-1])
        self.assertEqual(table4["DeeperCluster, ImageNet"]["conv12"], 49.2)
        self.assertEqual(published("table7").curves["DeeperCluster"], {"RGB": 71.6, "Sobel": 76.1})


class PlotTest(tf.test.TestCase):
    def test_a_line_for_each_variant_and_a_level_one_without_the_axis(self):
        rows = [row("a", 1.0, {"images": "0.5"}), row("a", 2.0, {"images": "1"}), row("b", 3.0)]
        found = curves(rows, "knn", "images", "conv13")
        self.assertEqual(list(found), ["a", "b"])
        self.assertEqual({at: v["mean"] for at, v in found["a"].items()}, {"0.5": 1.0, "1": 2.0})
        self.assertEqual(list(found["b"]), [None])

    def test_points_of_other_axes_are_lines_of_their_own(self):
        rows = [row("a", 1.0, {"x": x, "y": y}) for x in "12" for y in "34"]
        self.assertEqual(list(curves(rows, "knn", "x", "conv13")), ["a, 3", "a, 4"])
        self.assertEqual(
            list(curves(rows, "knn", "variant", "conv13")), ["1, 3", "1, 4", "2, 3", "2, 4"]
        )
        self.assertEqual(list(curves(rows, "knn", "layer", "conv13"))[0], "a, 1, 3")

    def test_a_file_has_the_papers_curve_and_is_the_same_again(self):
        sweep = read_sweep(sweeps.changed(plot={"x": "variant"}), data="D")
        shown = {"source": "Table 0", "curves": {"VOC": {"a": 62.0, "c": 1.0}}}
        found = result(row("a", 1.0), row("b", 2.0), shown=shown)
        texts = []
        for name in ("one.svg", "two.svg"):
            path = f"{self.get_temp_dir()}/{name}"
            draw(sweep, found, path)
            with open(path) as file:
                texts.append(file.read())
        self.assertIn("paper: VOC", texts[0])
        self.assertEqual(*texts)

    def test_results_of_every_horizontal_axis_and_none_are_drawn(self):
        rows = [row("a", 1.0, {"images": "0.5"}, 30), row("a", 2.0, {"images": "1"}), row("b", 3.0)]
        path = f"{self.get_temp_dir()}/plot.svg"
        for x in ("images", "variant", "layer", ""):
            sweep = read_sweep(sweeps.changed(plot={"x": x, "log": x == "images"}), data="D")
            self.assertEqual(horizontal(sweep), x or "images")
            draw(sweep, result(*rows), path)
            draw(sweep, result(), path)


class SlotsTest(tf.test.TestCase):
    def test_jobs_share_cores_or_gpus(self):
        from unittest import mock

        from dc_tf.errors import ConfigError
        from dc_tf.sweep import processes

        machine = types.SimpleNamespace(visible_gpus=lambda: [], cores=lambda: 8)
        with mock.patch.object(processes.shipped, "launcher", lambda: machine):
            slots = processes.make_slots(at_once=2, workers=2)
            self.assertEqual(slots, [processes.Slot(2, 2)] * 2)
            self.assertEqual(processes.make_slots(1, 1, threads=3)[0].threads, 3)
            machine.visible_gpus = lambda: ["0", "1", "2", "3"]
            slots = processes.make_slots(at_once=2, workers=2)
            self.assertEqual([slot.gpus for slot in slots], [("0", "1"), ("2", "3")])
            with self.assertRaisesRegex(ConfigError, "need 6 GPUs, 4 are visible"):
                processes.make_slots(at_once=3, workers=2)
        with mock.patch.dict("os.environ", TF_CONFIG="{}"):
            environment = processes.Slot(1, 3).environment()
        self.assertNotIn("TF_CONFIG", environment)
        self.assertEqual(environment["TF_NUM_INTRAOP_THREADS"], "3")
        self.assertEqual(processes.Slot(1, 3).command(["train"])[1:], ["-m", "dc_tf", "train"])
        launched = ["launch", "--workers=2", "--threads=3", "--", "train"]
        self.assertEqual(processes.Slot(2, 3).command(["train"])[3:], launched)


if __name__ == "__main__":
    tf.test.main()
