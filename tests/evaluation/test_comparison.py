"""Layers compared with those of an untrained network."""

import tensorflow as tf

from dc_tf.evaluation.comparison import advice, compare, layers_below


class ComparisonTest(tf.test.TestCase):
    def test_layers_below_those_of_an_untrained_network_are_named_with_metrics_and_advice(self):
        own = {"conv7": 0.602, "conv13": 0.31, "fc7": 0.41}
        untrained = {"conv7": 0.505, "conv13": 0.46, "fc7": 0.46}
        found = compare(own, untrained, images=2000)
        self.assertEqual(found["best_layer"], "conv7")
        self.assertEqual(found["random_init_best_layer"], "conv7")
        self.assertEqual(found["below_random_init"], ["conv13", "fc7"])
        self.assertEqual(
            found["advice"],
            "conv13 (31.0 % against 46.0 %), fc7 (41.0 % against 46.0 %) end below an untrained "
            "network: train at a lower learning rate or longer, or take conv7, the best layer here "
            "(60.2 %).",
        )

    def test_a_best_layer_that_is_below_is_not_recommended(self):
        found = compare({"conv1": 0.3, "fc7": 0.2}, {"conv1": 0.5, "fc7": 0.1}, images=2000)
        self.assertEqual(found["below_random_init"], ["conv1"])
        self.assertIn("conv1 (30.0 % against 50.0 %) ends below", found["advice"])
        self.assertNotIn("take conv1", found["advice"])

    def test_a_difference_within_the_standard_error_is_not_below(self):
        own, untrained = {"fc7": 0.43}, {"fc7": 0.46}
        self.assertEqual(compare(own, untrained, images=100)["below_random_init"], [])
        self.assertEqual(compare(own, untrained, images=10_000)["below_random_init"], ["fc7"])
        self.assertIsNone(compare({"fc7": 0.5}, {"fc7": 0.5}, images=100)["advice"])

    def test_a_difference_within_the_standard_error_is_named_as_such(self):
        own = {"conv7": 0.65, "conv13": 0.457, "fc7": 0.41}
        untrained = {"conv7": 0.5, "conv13": 0.473, "fc7": 0.41}
        found = compare(own, untrained, images=1000)
        self.assertEqual(found["below_random_init"], [])
        within = (
            "conv13 (45.7 % against 47.3 %) ends below an untrained network, but within the error "
            "of 1,000 images."
        )
        self.assertEqual(found["advice"], within)
        found = compare(own, untrained | {"fc7": 0.5}, images=1000)
        self.assertEqual(found["below_random_init"], ["fc7"])
        self.assertStartsWith(found["advice"], "fc7 (41.0 % against 50.0 %) ends below an")
        self.assertEndsWith(found["advice"], f"best layer here (65.0 %). {within}")

    def test_without_an_untrained_network_there_is_only_a_best_layer(self):
        found = compare({"conv1": 0.3, "fc7": 0.3}, None, images=10)
        self.assertEqual(found["best_layer"], "conv1")
        self.assertIsNone(found["below_random_init"])  # [] would read as compared
        self.assertIsNone(found["random_init_best_layer"])
        self.assertIsNone(found["advice"])

    def test_networks_without_a_common_layer_are_not_compared(self):
        self.assertIsNone(layers_below({"conv1": 0.3}, {"fc7": 0.9}, images=10))
        self.assertEqual(layers_below({"conv1": 0.3}, {"conv1": 0.3}, images=10), [])

    def test_a_network_with_one_metric_gets_advice_too(self):
        self.assertIsNone(advice("the model", 0.5, 0.4, images=100))
        self.assertIsNone(advice("the model", 0.1, None, images=100))
        self.assertEqual(
            advice("the model", 0.2, 0.4, images=100),
            "the model ends below an untrained network (20.0 % against 40.0 %): pre-train at "
            "a lower learning rate, longer, or on more images.",
        )


if __name__ == "__main__":
    tf.test.main()
