"""What was measured of a model is kept beside it, and `embed` takes the layer that was best."""

import json
import os
import shutil
import stat
import tempfile
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
from striped import call, write_model, write_stripes

from dc_tf.evaluation import remembered
from dc_tf.evaluation.frozen.embed import choose_layers
from dc_tf.evaluation.models import open_model
from dc_tf.evaluation.remembered import EVALUATIONS, recommend, remember
from dc_tf.exporting.weights import weights_digest


def result(layers, task="knn", weights="w", test="t", untrained=None, **protocol):
    def metrics(shares):
        return {layer: {"top1": share, "mean_class": 0} for layer, share in shares.items()}

    return {
        "task": task,
        "metric": "top1",
        "opened": {"weights": weights, "test": test},
        "train": "data",
        "test_rows": 100,
        "protocol": protocol,
        "layers": metrics(layers),
        "random_init": untrained and metrics(untrained),
    }


class RememberedTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.model = tempfile.mkdtemp(dir=self.get_temp_dir())

    def best(self, weights="w"):
        found = recommend(self.model, weights)
        return found and found.layer

    def test_the_best_layer_of_the_weights_at_hand_is_recommended(self):
        self.assertIsNone(self.best())
        remember(self.model, result({"conv7": 0.602, "fc7": 0.41}))
        remember(self.model, result({"conv1": 0.9, "fc7": 0.41}, weights="of another stage"))
        self.assertEqual(self.best(), "conv7")
        self.assertEqual(recommend(self.model, "w").reason, "best k-NN top1 of 2 layers (60.2 %)")
        self.assertIsNone(self.best("after more training"))

    def test_neighbours_go_before_classifiers_and_newer_results_before_older(self):
        remember(self.model, result({"conv9": 0.8, "fc7": 0.7}, task="linear_probe"))
        self.assertEqual(self.best(), "conv9")
        remember(self.model, result({"conv5": 0.5, "fc7": 0.4}))
        self.assertEqual(self.best(), "conv5")
        remember(self.model, result({"conv6": 0.5, "fc7": 0.4}, cells=1))
        remember(self.model, result({"conv9": 0.8, "fc7": 0.7}, task="low_shot"))
        self.assertEqual(self.best(), "conv6")
        self.assertEqual(recommend(self.model, "w").cells, 1)

    def test_layers_that_were_measured_in_two_calls_are_compared(self):
        remember(self.model, result({"conv7": 0.6}))
        self.assertIsNone(self.best(), "one layer is the best of nothing")
        remember(self.model, result({"fc7": 0.4}))
        self.assertEqual(self.best(), "conv7")
        remember(self.model, result({"conv7": 0.3}))
        self.assertEqual(self.best(), "fc7")

    def test_layers_below_those_of_an_untrained_network_are_kept_as_such(self):
        def kept():
            with open(os.path.join(self.model, EVALUATIONS)) as file:
                (entry,) = json.load(file)
            return entry["random_init"], entry["below_random_init"]

        remember(self.model, result({"conv7": 0.6, "fc7": 0.2}))
        self.assertEqual(kept(), ({}, None))
        remember(self.model, result({"fc7": 0.2}, untrained={"fc7": 0.5}))
        self.assertEqual(kept(), ({"fc7": 0.5}, ["fc7"]))
        remember(self.model, result({"conv7": 0.6}, untrained={"conv7": 0.5}))
        self.assertEqual(kept(), ({"fc7": 0.5, "conv7": 0.5}, ["fc7"]))
        remember(self.model, result({"fc7": 0.2}))
        self.assertEqual(kept()[1], ["fc7"], "the untrained network was measured before")

    def test_old_results_go(self):
        for number in range(30):
            remember(self.model, result({"conv1": 0.5, "fc7": 0.4}, test=f"set {number}"))
        with open(os.path.join(self.model, EVALUATIONS)) as file:
            kept = [entry["test"] for entry in json.load(file)]
        self.assertEqual(kept, [f"set {number}" for number in range(10, 30)])
        self.assertEqual(os.listdir(self.model), [EVALUATIONS])

    def test_a_folder_that_cannot_be_written_is_no_error(self):
        with mock.patch.object(remembered, "_write", side_effect=OSError("read-only")):
            self.assertIsNone(remember(self.model, result({"conv1": 0.5})))
        folder = os.path.join(self.model, "absent")
        self.assertIsNone(remember(folder, result({"conv1": 0.5})))
        self.assertFalse(os.path.exists(folder))

    def test_a_corrupt_file_counts_for_nothing_and_is_replaced(self):
        path = os.path.join(self.model, EVALUATIONS)
        for text in ("{", "[1]", '[{"task": "knn"}]', "7", '{"a": 1}'):
            with open(path, "w") as file:
                file.write(text)
            with self.assertLogs("absl", "WARNING") as logs:
                self.assertIsNone(self.best(), text)
            self.assertIn(path, logs.output[0])
            remember(self.model, result({"conv1": 0.5, "fc7": 0.4}))
            self.assertEqual(self.best(), "conv1")


@pytest.mark.slow
class EmbedTest(tf.test.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.root = tempfile.mkdtemp()
        cls.addClassCleanup(shutil.rmtree, cls.root)
        cls.train = write_stripes(os.path.join(cls.root, "train"), 30, seed=0)
        cls.test = write_stripes(os.path.join(cls.root, "test"), 20, seed=1)
        cls.model = write_model(os.path.join(cls.root, "model"))

    def setUp(self):
        super().setUp()
        self.addCleanup(self.forget)

    def forget(self):
        if os.path.exists(os.path.join(self.model, EVALUATIONS)):
            os.remove(os.path.join(self.model, EVALUATIONS))

    def test_embed_takes_the_layer_that_evaluate_found_the_best_and_says_so(self):
        flags = [f"--model={self.model}", f"--train={self.train}", f"--test={self.test}"]
        flags += ["--layer=conv2,fc7", "--noestimate", "--norandom_init"]
        code, out, err = call("evaluate", "--task=knn", *flags)
        self.assertEqual(code, 0, err)
        shares = {k: v["top1"] for k, v in json.loads(out.splitlines()[-1])["layers"].items()}
        path = os.path.join(self.model, EVALUATIONS)
        with open(path) as file:
            (kept,) = json.load(file)
        self.assertEqual(kept["layers"], shares)
        # Both layers tell stripes apart; as if fc7 did not.
        kept["layers"]["fc7"] = shares["conv2"] - 0.2
        with open(path, "w") as file:
            json.dump([kept], file)
        folder = os.path.join(self.root, "features")
        embed = ["embed", f"--model={self.model}", f"--data={self.test}", f"--output={folder}"]
        code, out, err = call(*embed)
        self.assertEqual(code, 0, err)
        self.assertEqual(list(json.loads(out.splitlines()[-1])["dims"]), ["conv2"])
        share = f"{100 * kept['layers']['fc7']:.1f}"
        self.assertIn("layer conv2: best k-NN top1 of 2 layers", err)
        self.assertIn(f"; fc7 has {share} %, --layer=fc7 selects it", err)
        self.assertIn("--cells=2", err)
        # Whatever is measured meanwhile, a folder keeps its layer.
        self.forget()
        code, _, err = call(*embed)
        self.assertEqual(code, 0, err)
        self.assertIn(f"layer conv2: as in {folder}", err)
        self.assertEqual(np.load(os.path.join(folder, "conv2-00000-of-00001.npy")).shape[0], 20)

    def test_without_results_it_is_fc7_and_how_to_measure_is_said(self):
        frozen = open_model(self.model)
        layers, reason = choose_layers(frozen, os.path.join(self.root, "none"), 1)
        self.assertEqual(layers, ("fc7",))
        self.assertIn(f"dc_tf evaluate --task=knn --model={self.model}", reason)

    def test_a_best_fc7_has_no_alternative(self):
        frozen = open_model(self.model)
        digest = weights_digest(frozen.trunk)
        remember(self.model, result({"conv2": 0.2, "fc7": 0.4}, weights=digest, cells=2))
        layers, reason = choose_layers(frozen, os.path.join(self.root, "none"), 1)
        self.assertEqual(layers, ("fc7",))
        self.assertEqual(reason, "layer fc7: best k-NN top1 of 2 layers (40.0 %)")

    def test_a_model_with_results_beside_it_is_the_same_model(self):
        before = weights_digest(open_model(self.model).trunk)
        remember(self.model, result({"conv2": 0.2, "fc7": 0.4}, weights=before))
        self.assertTrue(stat.S_ISREG(os.stat(os.path.join(self.model, EVALUATIONS)).st_mode))
        self.assertEqual(weights_digest(open_model(self.model).trunk), before)
        loaded = tf.saved_model.load(self.model)
        self.assertIn("serving_default", loaded.signatures)


if __name__ == "__main__":
    tf.test.main()
