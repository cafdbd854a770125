import json
import pathlib
import sys

import tensorflow as tf

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "launch"))

import budget  # noqa: E402
import summary  # noqa: E402

ROTNET = {"name": "rotnet", "epochs": 10, "reassign_every": 0, "drops": [8], "clusterings": 0}
STEPS = {"steps_per_epoch": 62, "batch_per_worker": 32, "warmup_epochs": 0.0}
ROTNET |= {"images_per_second": 200.0, "clustering_seconds": None} | STEPS
DEEPER = {"name": "deepercluster", "epochs": 10, "reassign_every": 2, "drops": [8]}
DEEPER |= {"clusterings": 5, "images_per_second": 160.0, "clustering_seconds": 50.0} | STEPS


def plan(rows=4000, stages=(ROTNET, DEEPER)):
    measured = {"seconds": 20.0, "first_steps_seconds": 12.0, "extract_images_per_second": 800.0}
    return {"rows": rows, "workers": 2, "stages": list(stages), "measured": measured}


class LayersTest(tf.test.TestCase):
    def test_some_layers_of_vgg16_are_measured_and_all_of_other_networks(self):
        folder = pathlib.Path(self.get_temp_dir())
        for outputs, expected in (
            (["conv1", *summary.LAYERS, "fc6"], "conv2,conv4,conv7,conv10,conv13,fc7"),
            (["conv1", "block1_1", "pool"], "all"),
        ):
            about = {"outputs": dict.fromkeys(outputs, [1])}
            (folder / "dc_tf.json").write_text(json.dumps(about))
            self.assertEqual(summary.measured_layers(folder), expected)


class FitTest(tf.test.TestCase):
    def costs(self, test_rows=1000, wall_s=30.0, **changes):
        return budget.Costs.of(plan(**changes), wall_s, test_rows)

    def test_more_time_never_gives_fewer_epochs_and_all_of_it_fits(self):
        costs, before = self.costs(), 0
        for seconds in range(100, 1000, 20):
            epochs = budget.fit(costs, seconds)
            self.assertGreaterEqual(sum(epochs), before)
            if min(epochs) > 2:
                self.assertLessEqual(costs.seconds(epochs), seconds)
            before = sum(epochs)

    def test_the_configured_epochs_are_the_most_on_as_many_images(self):
        self.assertEqual(budget.fit(self.costs(), 1e6), [10, 10])
        self.assertEqual(budget.fit(self.costs(rows=50_000), 1e6), [10, 10])

    def test_fewer_images_may_have_as_many_steps_and_not_more_clusterings(self):
        costs = self.costs(rows=1000)
        epochs = budget.fit(costs, 1e6)
        self.assertEqual(epochs, [40, 40])
        settings = budget.overrides(costs, epochs)
        self.assertEqual(settings["stages[1].reassign_every"], 8)
        self.assertEqual(settings["stages[0].optimizer.drops"], [32])

    def test_each_stage_has_the_least_steps_however_short_the_time(self):
        costs = self.costs()
        self.assertEqual(budget.fit(costs, 1), [1, 1])
        self.assertEqual(budget.overrides(costs, [1, 1])["stages[0].optimizer.drops"], [])
        half = [stage | {"steps_per_epoch": 31} for stage in (ROTNET, DEEPER)]
        self.assertEqual(budget.fit(self.costs(rows=2000, stages=half), 1), [2, 2])
        large = [stage | {"steps_per_epoch": 1000} for stage in (ROTNET, DEEPER)]
        self.assertEqual(budget.fit(self.costs(rows=64_000, stages=large), 1), [1, 1])
        tiny = [stage | {"steps_per_epoch": 1} for stage in (ROTNET, DEEPER)]
        self.assertEqual(budget.fit(self.costs(rows=2000, stages=tiny), 1), [20, 20])

    def test_the_warm_up_keeps_its_steps_unless_they_are_most_of_the_stage(self):
        costs = self.costs(stages=(ROTNET | {"warmup_epochs": 2.0}, DEEPER))
        for epochs, warmup in ((3, 1.5), (5, 2.0), (10, 2.0), (40, 8.0)):
            settings = budget.overrides(costs, [epochs, 4])
            self.assertEqual(settings["stages[0].optimizer.warmup_epochs"], warmup)
        self.assertNotIn("stages[1].optimizer.warmup_epochs", settings)

    def test_the_ratio_of_the_stages_stays(self):
        costs = self.costs(stages=(ROTNET, DEEPER | {"epochs": 20}))
        for seconds in range(150, 1200, 50):
            first, second = budget.fit(costs, seconds)
            if first > 2:
                self.assertLessEqual(abs(second - 2 * first), costs.stages[1].every(second))

    def test_no_round_is_cut_short_where_there_is_time_for_a_whole_one(self):
        costs = self.costs()
        for seconds in range(100, 1000, 20):
            second = budget.fit(costs, seconds)[1]
            every = costs.stages[1].every(second)
            self.assertTrue(second < every or second % every == 0, second)

    def test_measuring_clustering_and_the_start_count_too(self):
        whole = self.costs().seconds([2, 2])
        self.assertGreater(whole, self.costs(test_rows=None).seconds([2, 2]) + 2 * 5000 / 800)
        self.assertGreater(self.costs(wall_s=60.0).seconds([2, 2]), whole + 100)
        quick = self.costs(stages=(ROTNET, DEEPER | {"clustering_seconds": 0.0}))
        self.assertAlmostEqual(whole - quick.seconds([2, 2]), 10.0)

    def test_a_stage_that_was_not_measured_is_as_slow_as_the_slowest(self):
        unknown = DEEPER | {"images_per_second": None}
        rotnet, deeper = self.costs(stages=(ROTNET, unknown)).stages
        self.assertEqual(deeper.epoch_s, rotnet.epoch_s)
        self.assertAlmostEqual(rotnet.epoch_s, 62 * 64 / 200)

    def test_without_any_speed_there_are_no_costs(self):
        unknown = DEEPER | {"images_per_second": None}
        self.assertIsNone(self.costs(stages=(unknown,)))


class SummaryTest(tf.test.TestCase):
    def result(self, own, twin, **changes):
        measured = {
            "layers": {layer: {"top1": value} for layer, value in own.items()},
            "random_init": {layer: {"top1": value} for layer, value in twin.items()},
            "top1": max(own.values()),
            "best_layer": max(own, key=own.get),
            "below_random_init": [layer for layer in own if own[layer] < twin[layer] - 0.02],
            "test_rows": 1000,
            "random_init_top1": max(twin.values()),
            "random_init_best_layer": max(twin, key=twin.get),
        }
        epochs = {"epochs": {"rotnet": 3}, "configured_epochs": {"rotnet": 10}}
        metrics = summary.metrics({"rotation_accuracy": 0.9}, measured, measured)
        result = epochs | metrics | changes
        return result, summary.text(result, measured, measured)

    def test_layers_below_their_untrained_twin_are_named_with_both_accuracies(self):
        own, twin = (
            {"conv4": 0.6, "conv13": 0.31, "fc7": 0.5},
            dict.fromkeys(("conv4", "conv13", "fc7"), 0.46),
        )
        result, text = self.result(own, twin)
        self.assertEqual(result["below_random_init"]["knn"], ["conv13"])
        self.assertIn("conv13 in k-NN (31.0 % against 46.0 %)", text)
        self.assertNotIn("fc7 in", text)
        self.assertIn("Use layer conv4", text)
        self.assertIn("--minutes", text)

    def test_layers_that_are_lower_within_the_error_are_named_as_such(self):
        own, twin = {"conv4": 0.65, "conv13": 0.457}, {"conv4": 0.5, "conv13": 0.473}
        result, text = self.result(own, twin)
        self.assertEqual(result["below_random_init"], {"knn": [], "linear": []})
        layer = "conv13 in {} (45.7 % against 47.3 %)"
        self.assertEndsWith(
            text,
            "\nLower than before training, but within the error of 1,000 test images: "
            f"{layer.format('k-NN')}, {layer.format('linear probe')}.",
        )
        self.assertNotIn("Worse", text)
        self.assertNotIn("longer", text)

    def test_what_was_not_compared_does_not_read_as_safe(self):
        untrained = {"random_init": None, "random_init_top1": None, "random_init_best_layer": None}
        alone = {"layers": {"fc7": {"top1": 0.3}}, "top1": 0.3, "best_layer": "fc7"} | untrained
        measured = alone | {"below_random_init": None, "test_rows": 1000}
        found = summary.metrics({"rotation_accuracy": None}, measured, None)
        self.assertEqual(found["below_random_init"], {"knn": None, "linear": None})
        epochs = {"epochs": {"rotnet": 3}, "configured_epochs": {"rotnet": 10}}
        text = summary.text(epochs | found, measured, None)
        self.assertRegex(text, r"k-NN top-1, best layer +30.0 % \(fc7\) +not measured\n")
        self.assertNotIn("Worse", text)

    def test_all_epochs_done_are_not_made_longer_by_minutes(self):
        own, twin = {"conv4": 0.5, "fc7": 0.3}, {"conv4": 0.4, "fc7": 0.4}
        _, text = self.result(own, twin, epochs={"rotnet": 10})
        self.assertNotIn("--minutes", text)
        self.assertIn("more epochs by --params_override", text)

    def test_a_best_layer_that_is_worse_than_before_training_is_not_recommended(self):
        own, twin = {"conv4": 0.4, "fc7": 0.3}, {"conv4": 0.5, "fc7": 0.4}
        _, text = self.result(own, twin)
        self.assertIn("The training was too short; train longer", text)
        self.assertNotIn("Use layer", text)

    def test_nothing_is_advised_where_all_layers_are_better(self):
        _, text = self.result({"conv4": 0.6, "fc7": 0.5}, {"conv4": 0.5, "fc7": 0.4})
        self.assertNotIn("Worse", text)
        self.assertRegex(text, r"(?m)^  fc7 +50.0 % +40.0 %$")

    def test_without_labels_only_the_rotation_is_shown(self):
        metrics = summary.metrics({"rotation_accuracy": 0.9}, None, None)
        epochs = {"epochs": {"rotnet": 3}, "configured_epochs": {"rotnet": 3}}
        text = summary.text(metrics | epochs, None, None)
        self.assertIn("rotation accuracy", text)
        self.assertNotIn("k-NN", text)


if __name__ == "__main__":
    tf.test.main()
