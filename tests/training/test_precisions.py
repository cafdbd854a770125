"""The types of an experiment: "auto" is chosen once, and a run keeps what it began with."""

import json
from unittest import mock

import tensorflow as tf

from dc_tf import experiment as experiment_lib
from dc_tf import precision
from dc_tf.training.precisions import as_begun, choose_precisions

STAGES = [
    {"name": "rotnet", "clusters": 1, "sub_clusters": 0},
    {"name": "deeper", "clustering": {"precision": "auto", "whitening_dim": 64}},
]


def experiment(compute_dtype="auto", **clustering):
    stages = [STAGES[0], {**STAGES[1], "clustering": STAGES[1]["clustering"] | clustering}]
    settings = {"data": {"path": "x"}, "model": {"compute_dtype": compute_dtype}, "stages": stages}
    return experiment_lib.load((), [json.dumps(settings)])


def on_device(convolution, product):
    """A device on which bfloat16 is so many times as fast, and exact."""
    return mock.patch.multiple(
        precision,
        bfloat16_fault=lambda: "",
        convolution_speed=lambda: convolution,
        product_speed=lambda dim: product,
        excess_error=lambda *_: 0.9,
    )


class PrecisionsTest(tf.test.TestCase):
    def types(self, chosen):
        found = chosen.experiment
        return found.model.compute_dtype, found.stages[1].clustering.precision

    def test_network_and_clustering_are_chosen_each_by_its_own_work(self):
        with on_device(convolution=2.0, product=0.5):
            chosen = choose_precisions(experiment())
        self.assertEqual(self.types(chosen), ("bfloat16", "float32"))
        self.assertEqual(
            chosen.lines,
            [
                "compute_dtype: bfloat16 (auto: bfloat16 is 2 times as fast as float32 here)",
                "clustering precision of deeper: float32 (auto: bfloat16 is 0.5 times as fast as "
                "float32 here)",
            ],
        )
        settings = experiment_lib.to_yaml(chosen.experiment)
        self.assertNotRegex(settings, r"(compute_dtype|precision): auto")
        self.assertIn("compute_dtype: bfloat16", settings)

    def test_a_run_that_resumes_elsewhere_keeps_its_types(self):
        with on_device(convolution=2.0, product=2.0):
            begun = choose_precisions(experiment()).experiment
        with on_device(convolution=0.1, product=0.1):
            chosen = choose_precisions(experiment(), earlier=begun)
        self.assertEqual(self.types(chosen), ("bfloat16", "bfloat16"))
        self.assertIn("bfloat16 (auto: as this run began)", chosen.lines[0])
        self.assertEmpty(experiment_lib.differences(begun, as_begun(experiment(), begun)))

    def test_other_types_than_those_of_the_run_are_a_difference(self):
        with on_device(convolution=2.0, product=2.0):
            begun = choose_precisions(experiment()).experiment
        other = as_begun(experiment("float32"), begun)
        self.assertEqual(
            experiment_lib.differences(begun, other), ["model.compute_dtype: bfloat16, float32"]
        )

    def test_bfloat16_that_is_slower_is_taken_with_a_warning_of_the_measured_ratio(self):
        with on_device(convolution=0.125, product=0.5):
            chosen = choose_precisions(experiment("bfloat16", precision="bfloat16"))
        self.assertEqual(self.types(chosen), ("bfloat16", "bfloat16"))
        self.assertLen(chosen.warnings, 2)
        self.assertIn("model.compute_dtype=bfloat16 is 0.12 times as fast", chosen.warnings[0])
        self.assertIn("stages[1].clustering.precision=bfloat16 is 0.5 times", chosen.warnings[1])

    def test_faiss_leaves_float32_only(self):
        with on_device(convolution=2.0, product=2.0):
            chosen = choose_precisions(experiment(backend="faiss"))
        self.assertEqual(self.types(chosen), ("bfloat16", "float32"))


if __name__ == "__main__":
    tf.test.main()
