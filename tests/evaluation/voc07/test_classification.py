import contextlib
import dataclasses
import io
import json
import os
import pathlib
import tempfile

import devkit
import numpy as np
import pictures
import pytest
import task_protocol
import tensorflow as tf
import workers

from dc_tf.commands.main import main
from dc_tf.data.voc.devkit import read_splits
from dc_tf.distributed.collectives import Solo
from dc_tf.errors import ConfigError, DataError
from dc_tf.evaluation.losses import multi_label_loss
from dc_tf.evaluation.models import at_resolution, open_model
from dc_tf.evaluation.voc07 import classification as voc07_classification
from dc_tf.evaluation.voc07.images import random_crops
from dc_tf.evaluation.voc07.network import MultiLabelNetwork
from dc_tf.exporting.saved_model import export_saved_model
from dc_tf.exporting.weights import STATISTICS, flat_weights, named_weights
from dc_tf.nn.vgg16 import VGG16, dropout_mask

RESOLUTION = 32
CONFIGS = pathlib.Path(__file__).resolve().parents[3] / "configs" / "evaluation"
QUICK = voc07_classification.Protocol(
    iterations=6, batch_size=4, crops=2, seeds=2, learning_rates=(0.1,), drop_every=4, deviation=0.2
)
KEY = np.array([3, 4], np.int32)


def small_trunk(seed=7):
    return VGG16(width=1 / 16, resolution=RESOLUTION, fc=24, seed=seed).built_at_resolution()


def batch(n=6, classes=3, seed=0):
    random = np.random.default_rng(seed)
    images = random.random((n, RESOLUTION, RESOLUTION, 3), np.float32)
    return images, random.integers(-1, 2, (n, classes)).astype(np.int8)


def step(network, images, labels, rate=0.1, weight_decay=0.01, key=KEY):
    rates = np.float32(rate), np.float32(weight_decay)
    return network.step(images, labels, np.int32(0), len(images), key, *rates)


def measured(cluster, model, folder, protocol):
    splits = read_splits(folder, ("trainval", "test"))
    return voc07_classification.evaluate(open_model(model), splits, protocol, cluster.world)


class MultiLabelNetworkTest(tf.test.TestCase):
    @pytest.mark.slow
    def test_steps_are_those_of_clipped_sgd_with_coupled_decay(self):
        trunk, (images, labels) = small_trunk(), batch()
        for tune in ("fc68", "all"):
            network = MultiLabelNetwork(trunk, 3, tune, momentum=0.5, clip_norm=0.05)
            network.reset(0)
            head = network._head
            velocities = [np.zeros(v.shape) for v in network.tuned]
            expected = [v.numpy() for v in network.tuned]
            for number in range(3):
                key = np.array([3, number], np.int32)
                mask = dropout_mask([len(images), 24], key)
                with tf.GradientTape() as tape:
                    # The trunk's own forward pass, whose batch norm is as in inference.
                    flat = trunk.convolve(images)[1]
                    hidden = tf.nn.relu(trunk.fc6(flat)) * mask
                    logits = head(tf.nn.relu(trunk.fc7(hidden)))
                    loss = 0.0
                    for i, c in np.argwhere(labels >= 0):
                        p = tf.sigmoid(logits[i, c])
                        loss -= tf.math.log(p if labels[i, c] else 1 - p) / len(images)
                gradients = [g.numpy() for g in tape.gradient(loss, network.tuned)]
                norm = np.sqrt(sum(np.sum(g**2) for g in gradients))
                self.assertGreater(norm, 0.05)
                found = step(network, images, labels, key=key)
                self.assertAllClose(found, loss, rtol=1e-5)
                for i, gradient in enumerate(gradients):
                    gradient = gradient * 0.05 / norm + 0.01 * expected[i]
                    velocities[i] = 0.5 * velocities[i] + gradient
                    expected[i] = expected[i] - 0.1 * velocities[i]
                    self.assertAllClose(network.tuned[i], expected[i], rtol=1e-4, atol=1e-5)
            network.restore()

    @pytest.mark.slow
    def test_fc68_trains_nothing_but_fresh_layers_and_all_everything_but_statistics(self):
        trunk, (images, labels) = small_trunk(), batch()
        weights = named_weights(trunk)
        before = {layer: {n: v.numpy() for n, v in d.items()} for layer, d in weights.items()}
        for tune in ("fc68", "all"):
            network = MultiLabelNetwork(trunk, 3, tune)
            network.reset(0)
            self.assertAllClose(trunk.fc6.bias, [0.1] * 24)
            self.assertBetween(np.std(trunk.fc7.kernel), 0.008, 0.012)
            step(network, images, labels, rate=1.0)
            for layer, names in weights.items():
                for name, variable in names.items():
                    same = np.array_equal(variable, before[layer][name])
                    kept = name in STATISTICS or (tune == "fc68" and layer.startswith("conv"))
                    self.assertEqual(same, kept, f"{tune} {layer} {name}")
            network.restore()
            for layer, names in weights.items():
                for name, variable in names.items():
                    self.assertAllEqual(variable, before[layer][name])

    @pytest.mark.merge
    @pytest.mark.slow
    def test_the_backward_pass_of_fc68_ends_at_fc6(self):
        images, labels = batch()
        operations = {}
        for tune in ("fc68", "all"):
            network = MultiLabelNetwork(small_trunk(), 3, tune)
            arguments = np.int32(0), len(images), KEY, np.float32(0.1), np.float32(0.0)
            graph = network.step.get_concrete_function(images, labels, *arguments).graph
            operations[tune] = [o.type for o in graph.get_operations()]
        self.assertNotIn("Conv2DBackpropFilter", operations["fc68"])
        self.assertNotIn("Conv2DBackpropInput", operations["fc68"])
        self.assertEqual(operations["all"].count("Conv2DBackpropFilter"), 13)

    def test_difficult_objects_alone_teach_nothing(self):
        logits = tf.constant([[2.0, -1.0], [0.5, 3.0]])
        labels = np.array([[1, -1], [-1, -1]], np.int8)
        self.assertAllClose(multi_label_loss(logits, labels), [np.log1p(np.exp(-2.0)), 0.0])
        with tf.GradientTape() as tape:
            tape.watch(logits)
            loss = tf.reduce_sum(multi_label_loss(logits, labels))
        self.assertAllEqual(np.asarray(tape.gradient(loss, logits)) != 0, labels >= 0)


@pytest.mark.slow
class Voc07ClassificationTest(tf.test.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.root = folder.name
        cls.kit = devkit.draw(os.path.join(cls.root, "kit"), {"train": 40, "val": 16, "test": 24})
        train, val = (read_splits(cls.kit, (s,))[0] for s in ("train", "val"))
        names = [os.path.basename(p)[:-4] for p in (*train.images, *val.images)]
        devkit.write_list(cls.kit, "trainval", names)
        cls.model = os.path.join(cls.root, "model")
        export_saved_model(small_trunk(), cls.model, short_side=RESOLUTION)

    def call(self, *flags):
        out, err = io.StringIO(), io.StringIO()
        paths = ["--task=voc07_classification", "--noestimate", f"--model={self.model}"]
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(["evaluate", *paths, *flags])
        return code, out.getvalue(), err.getvalue()

    def fine_tune(self, protocol, names=("trainval", "test")):
        splits = read_splits(self.kit, names)
        return voc07_classification.evaluate(open_model(self.model), splits, protocol)

    def test_fine_tuning_tells_the_stripes_apart(self):
        folder = tempfile.mkdtemp(dir=self.root)
        counts = {"trainval": 80, "test": 30}
        devkit.draw(folder, counts, size=(40, 40), objects=(1, 1), sides=(0.9, 1.0))
        protocol = dataclasses.replace(
            QUICK, tune="all", iterations=300, learning_rates=(0.005,), drop_every=240, seeds=1
        )
        splits = read_splits(folder, ("trainval", "test"))
        result = voc07_classification.evaluate(open_model(self.model), splits, protocol)
        self.assertGreater(result["map"], 0.9)
        self.assertGreater(result["map_11_points"], 0.9)
        self.assertLess(result["runs"][0]["train_loss"], 0.4)

    def test_seeds_differ_repeat_and_are_averaged(self):
        result = self.fine_tune(QUICK)
        first, second = (run["map"] for run in result["runs"])
        self.assertNotEqual(*(run["train_loss"] for run in result["runs"]))
        self.assertAllClose(result["map"], (first + second) / 2)
        self.assertAllClose(result["map_std"], abs(first - second) / np.sqrt(2))
        self.assertAllClose(np.mean(list(result["per_class"].values())), result["map"])
        again = self.fine_tune(dataclasses.replace(QUICK, seeds=1, seed=1))
        self.assertAllClose(again["map"], second)
        self.assertEqual(again["map_std"], 0.0)

    def test_the_score_of_an_image_is_the_sum_over_its_crops(self):
        frozen = open_model(self.model)
        (split,) = read_splits(self.kit, ("test",))
        network = MultiLabelNetwork(frozen.trunk, 2, "fc68")
        network.reset(0)
        protocol = dataclasses.replace(QUICK, crops=3, batch_size=5)
        job = voc07_classification._Job(network, frozen, protocol, Solo())
        found = job._logits(split, seed=0)
        places = np.arange(len(split) * 3)
        keys = np.stack(
            [np.full_like(places, voc07_classification.derive("voc07 test", 0)), places], 1
        )
        crops = np.concatenate(list(random_crops(split, places // 3, keys, 7, RESOLUTION)))
        expected = network.logits(crops).numpy().reshape(len(split), 3, 2).sum(1)
        self.assertAllClose(found, expected, atol=1e-5)
        self.assertGreater(np.abs(crops[0] - crops[1]).max(), 0.1)

    def test_the_pair_that_does_best_on_val_is_taken(self):
        protocol = dataclasses.replace(
            QUICK, seeds=1, iterations=3, learning_rates=(1e-6, 0.1), weight_decays=(0.0, 1e-5)
        )
        names = ("trainval", "test", "train", "val")
        result = self.fine_tune(protocol, names)
        self.assertLen(result["tried"], 4)
        best = max(result["tried"], key=lambda one: one["map"])
        chosen = {name: result[name] for name in ("learning_rate", "weight_decay")}
        self.assertEqual(chosen, {name: best[name] for name in chosen})
        # As if that pair had been asked for on train and val.
        alone = dataclasses.replace(
            protocol,
            learning_rates=(chosen["learning_rate"],),
            weight_decays=(chosen["weight_decay"],),
        )
        self.assertAllClose(self.fine_tune(alone, ("train", "val"))["map"], best["map"])

    @pytest.mark.extended
    def test_two_workers_measure_what_one_does(self):
        for tune in ("fc68", "all"):
            protocol = dataclasses.replace(QUICK, seeds=1, tune=tune, batch_size=5)
            alone = self.fine_tune(protocol)
            both = workers.on_cluster(2, measured, self.model, self.kit, protocol)
            self.assertEqual(*both)
            self.assertAllClose(both[0]["map"], alone["map"], atol=1e-6)
            loss = alone["runs"][0]["train_loss"]
            self.assertAllClose(both[0]["runs"][0]["train_loss"], loss, rtol=1e-5)

    def test_the_command_shows_random_weights_and_the_paper_beside_it(self):
        few = "--params_override=iterations=2,seeds=2,crops=1,batch_size=4,paper=voc07"
        code, out, err = self.call(f"--train={self.kit}", few, "--params_override=tune=all")
        self.assertEqual(code, 0, err)
        self.assertRegex(out, r"\nmodel +\d+\.\d\d +\d+\.\d\d")
        self.assertRegex(out, r"\nrandom init +\d+\.\d\d")
        self.assertRegex(out, r"\npaper: DeeperCluster +84\.30")
        result = json.loads(out.splitlines()[-1])
        self.assertEqual(result["classes"], ["across", "down"])
        self.assertEqual((result["train_images"], result["test_images"]), (56, 24))
        self.assertIn("map_11_points", result["random_init"])

    def test_the_model_is_as_before_in_the_end(self):
        frozen = open_model(self.model)
        before = [v.numpy() for v in flat_weights(named_weights(frozen.trunk))]
        splits = read_splits(self.kit, ("trainval", "test"))
        voc07_classification.evaluate(
            frozen, splits, dataclasses.replace(QUICK, tune="all", seeds=1)
        )
        for variable, value in zip(flat_weights(named_weights(frozen.trunk)), before, strict=True):
            self.assertAllEqual(variable, value)

    @pytest.mark.extended
    def test_convolutions_are_the_same_at_another_resolution(self):
        for sobel in ("layer", "folded"):
            path = os.path.join(self.root, sobel)
            export_saved_model(small_trunk(), path, sobel)
            frozen = open_model(path)
            larger = at_resolution(frozen, 64)
            self.assertEqual((larger.resolution, frozen.resolution), (64, RESOLUTION))
            self.assertIs(type(larger.trunk), type(frozen.trunk))
            images = np.random.default_rng(0).random((1, RESOLUTION, RESOLUTION, 3), np.float32)
            expected, found = (s.trunk.convolve(images)[0]["conv13"] for s in (frozen, larger))
            self.assertAllEqual(found, expected)
            self.assertEqual(larger.trunk.fc6.kernel.shape[0], 4 * frozen.trunk.fc6.kernel.shape[0])

    def test_what_cannot_work_is_refused_before_any_work(self):
        kit = f"--train={self.kit}"
        for flags, named in {
            (): "--train is missing",
            (kit, "--test=elsewhere"): "test_split",
            (kit, "--params_override=test_split=val2"): "it has test, train, trainval, val",
            (kit, "--params_override=tune=fc7"): "fc68 or all",
            (kit, "--params_override=crops=0"): "crops is 0",
            (kit, "--params_override=resolution=16"): "at least 30 pixels",
            (kit, "--params_override=learning_rates=[0]"): "positive",
            (f"--train={self.root}",): "JPEGImages",
        }.items():
            code, out, err = self.call(*flags)
            self.assertEqual((code, out), (2, ""), flags)
            self.assertIn(named, err)

    def test_an_image_that_breaks_while_it_is_read_is_named(self):
        folder = devkit.draw(tempfile.mkdtemp(dir=self.root), {"trainval": 4, "test": 2})
        splits = read_splits(folder, ("trainval", "test"))
        path = splits[0].images[2]
        with open(path, "rb") as file:
            data = file.read()
        pictures.write("", path, data[: len(data) // 2])
        with self.assertRaisesRegex(DataError, "trainval0002.jpg"):
            voc07_classification.evaluate(open_model(self.model), splits, QUICK)

    def test_a_loss_that_explodes_is_reported(self):
        with self.assertRaisesRegex(DataError, "lower learning_rates"):
            self.fine_tune(dataclasses.replace(QUICK, learning_rates=(1e30,), iterations=20))

    def test_both_schedules_are_in_the_presets(self):
        found = {}
        for path in sorted(CONFIGS.glob("voc07_classification_*.yaml")):
            task, p = task_protocol.of_settings(None, [str(path)])
            self.assertIs(task, voc07_classification)
            name = path.stem.removeprefix("voc07_classification_")
            found[name] = (p.tune, *p.learning_rates, p.drop_factor, p.drop_every, *p.weight_decays)
            if name != "small":
                self.assertEqual((p.iterations, p.batch_size, p.seeds), (150_000, 16, 5))
                self.assertEqual((p.momentum, p.clip_norm, p.crops), (0.9, 10.0, 10))
        del found["small"]
        self.assertEqual(
            found,
            {
                "fc68": ("fc68", 0.002, 0.1, 20_000, 1e-5),
                "all": ("all", 0.002, 0.1, 20_000, 1e-4),
                "fc68_released": ("fc68", 0.003, 0.5, 20_000, 1e-5),
                "all_released": ("all", 0.003, 0.5, 10_000, 1e-4),
            },
        )

    def test_more_workers_than_images_in_a_batch_are_refused(self):
        class Request:
            train, test, random_init, seed = self.kit, None, False, 0
            world = dataclasses.make_dataclass("World", ["rank", "size"])(0, 9)

        with self.assertRaisesRegex(ConfigError, "9 workers cannot share a batch of 4"):
            voc07_classification.run(Request(), QUICK)


if __name__ == "__main__":
    tf.test.main()
