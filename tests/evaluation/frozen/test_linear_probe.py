import dataclasses
import tracemalloc
from unittest import mock

import numpy as np
import tensorflow as tf
from sklearn.metrics import average_precision_score

from dc_tf import keras
from dc_tf.errors import ConfigError
from dc_tf.evaluation.frozen import linear_probe
from dc_tf.evaluation.frozen.pooling import cell_average, grid_average, grid_kernel
from dc_tf.evaluation.frozen.probes import Probes
from dc_tf.nn.vgg16 import CONV_LAYERS


def toy(n=512, dim=20, classes=3, seed=0):
    """Rows of linearly separable classes, with an arbitrary scale and offset."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, n).astype(np.int32)
    x = random.standard_normal((n, dim)) + 4 * np.eye(classes, dim)[labels]
    return (30 * x + 100).astype(np.float32), labels


def train(features, labels, steps=100, standardize=False, rate=0.1, **settings):
    probes = Probes(
        {name: x.shape[1] for name, x in features.items()},
        classes=labels.max() + 1,
        rates=dict.fromkeys(features, rate),
        **settings,
    )
    if standardize:
        linear_probe._standardize(probes, [features])
    for _ in range(steps):
        probes.step(features, labels)
    return probes


def accuracy(probes, features, labels, name):
    return np.mean(probes.logits(features)[name].numpy().argmax(1) == labels)


class ProbesTest(tf.test.TestCase):
    def test_a_separable_problem_is_learned(self):
        (x, y), (test, truth) = toy(), toy(seed=1)
        probes = train({"a": x}, y, standardize=True, rate=1.0)
        self.assertGreater(accuracy(probes, {"a": test}, truth, "a"), 0.98)

    def test_several_labels_an_image_are_as_many_logistic_regressions(self):
        x, y = toy(64)
        x /= 100
        random = np.random.default_rng(1)
        labels = random.integers(-1, 2, (64, 3)).astype(np.int8)
        probes = Probes({"a": 20}, 3, {"a": 0.1}, momentum=0.9, weight_decay=0.1)
        kernel, bias = (tf.Variable(v["a"]) for v in (probes._kernels, probes._biases))
        velocities = [np.zeros(kernel.shape), np.zeros(3)]
        for t in range(4):
            with tf.GradientTape() as tape:
                p = tf.sigmoid(tf.matmul(x, kernel) + bias)
                log_likelihood = tf.where(labels == 1, tf.math.log(p), tf.math.log(1 - p))
                loss = -tf.reduce_sum(tf.where(labels >= 0, log_likelihood, 0.0)) / 64
            gradients = tape.gradient(loss, [kernel, bias])
            self.assertAllClose(probes.step({"a": x}, labels)["a"], loss, rtol=1e-5)
            rate = 0.1 / np.sqrt(1 + 0.1 * 0.1 * t)
            for i, (weight, gradient) in enumerate(zip((kernel, bias), gradients, strict=True)):
                velocities[i] = 0.9 * velocities[i] + gradient + 0.1 * weight
                weight.assign_sub(rate * velocities[i])
        self.assertAllClose(probes._kernels["a"], kernel, atol=1e-5)
        self.assertAllClose(probes._biases["a"], bias, atol=1e-5)

    def test_many_at_once_equal_each_alone(self):
        x, y = toy()
        features = {"conv1": x / 100, "conv2": x[:, :7] / 100, "fc7": (x / 100) ** 2}
        together = train(features, y)
        for name, own in features.items():
            alone = train({name: own}, y)
            expected = alone.logits({name: own})[name]
            self.assertAllClose(together.logits(features)[name], expected, rtol=1e-6, atol=1e-6)

    def test_steps_are_those_of_sgd_with_coupled_decay_and_a_falling_rate(self):
        x, y = toy(64)
        x /= 100
        settings = dict(momentum=0.9, weight_decay=0.1)
        probes = train({"a": x}, y, steps=0, **settings)
        logits0 = probes.logits({"a": x})["a"]
        dense = keras.layers.Dense(3)
        dense.build([None, 20])
        dense.kernel.assign(probes._kernels["a"])
        self.assertAllClose(dense(x), logits0)
        velocities = [np.zeros(v.shape) for v in dense.trainable_weights]
        for t in range(5):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(
                    tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=dense(x))
                )
            gradients = tape.gradient(loss, dense.trainable_weights)
            rate = 0.1 / np.sqrt(1 + 0.1 * 0.1 * t)
            for i, (w, g) in enumerate(zip(dense.trainable_weights, gradients, strict=True)):
                velocities[i] = 0.9 * velocities[i] + g.numpy() + 0.1 * w.numpy()
                w.assign_sub(rate * velocities[i])
            self.assertAllClose(probes.step({"a": x}, y)["a"], loss, rtol=1e-5)
        self.assertAllClose(probes.logits({"a": x})["a"], dense(x), rtol=1e-5, atol=1e-6)

    def test_standardising_is_affine_and_ignores_what_never_varies(self):
        x, y = toy()
        x[:, 3] = 7
        probes = train({"a": x}, y, steps=0, standardize=True)
        z = probes._input("a", x).numpy()
        self.assertAllClose(z.mean(0), np.zeros(20), atol=1e-5)
        self.assertAllClose(z.std(0), np.where(np.arange(20) == 3, 0, 1 / np.sqrt(20)), atol=1e-5)

    def test_half_precision_features_are_taken(self):
        x, y = toy()
        half = x.astype(np.float16)
        a, b = train({"a": x}, y, standardize=True), train({"a": half}, y, standardize=True)
        self.assertAllClose(
            a.logits({"a": x})["a"], b.logits({"a": half})["a"], atol=0.02, rtol=0.02
        )


class PoolingTest(tf.test.TestCase):
    def test_at_the_papers_shape_kernels_and_dimensions_are_the_papers(self):
        sides = [226] * 2 + [113] * 2 + [56] * 3 + [28] * 3 + [14] * 3
        channels = [64] * 2 + [128] * 2 + [256] * 3 + [512] * 6
        dims = {1: 9216, 2: 9216, 3: 8192, 4: 8192, 5: 9216, 6: 9216, 7: 9216}
        kernels = [18] * 2 + [14] * 2 + [9] * 3 + [6] * 3 + [3] * 3
        for i, layer in enumerate(CONV_LAYERS):
            kernel = grid_kernel(layer, (sides[i], sides[i], channels[i]), 224)
            self.assertEqual(kernel, kernels[i])
            self.assertEqual((sides[i] // kernel) ** 2 * channels[i], dims.get(i + 1, 8192))

    def test_elsewhere_the_smallest_kernel_under_the_bound_is_taken(self):
        self.assertEqual(grid_kernel("conv1", (34, 34, 32), 32), 2)  # 17 * 17 * 32 = 9248
        self.assertEqual(grid_kernel("conv5", (8, 8, 128), 32), 1)
        self.assertEqual(grid_kernel("conv5", (8, 8, 128), 32, max_features=129), 5)
        with self.assertRaisesRegex(ConfigError, "128 channels"):
            grid_kernel("conv5", (8, 8, 128), 32, max_features=128)

    def test_grid_averages_leave_the_margin_out(self):
        maps = np.arange(25, dtype=np.float32).reshape(1, 5, 5, 1)
        pooled = grid_average("conv1", (5, 5, 1), 32, max_features=5)(maps)
        self.assertAllClose(pooled, [[3, 5, 13, 15]])
        self.assertAllClose(cell_average()(maps), [[12]])
        self.assertAllClose(cell_average(cells=2)(maps), [[3, 5, 13, 15]])
        self.assertEqual(cell_average(cells=9)(maps).shape, (1, 25))

    def test_linear_classifiers_see_fc7_after_relu_and_neighbours_before(self):
        vectors = np.float32([[-1, 2]])
        self.assertAllEqual(grid_average("fc7", (2,), 32)(vectors), [[0, 2]])
        self.assertAllEqual(cell_average()(vectors), [[-1, 2]])


class MetricsTest(tf.test.TestCase):
    """Metrics of given scores in place of the classifiers'; the last batch is short."""

    def metrics(self, scores, labels, batch_size=64):
        """The metrics of `_test`, and its peak memory in bytes."""
        starts = range(0, len(labels), batch_size)
        extractor, probes = mock.Mock(layers=["conv1", "fc7"]), mock.Mock()
        extractor.over.return_value = ((start, start) for start in starts)
        # A new copy for each call, as with the classifiers.
        probes.logits.side_effect = lambda start: {
            "conv1": Logits(scores[start : start + batch_size]),
            "fc7": Logits(-scores[start : start + batch_size]),
        }
        split = mock.Mock(labels=labels)
        tracemalloc.start()
        try:
            found = linear_probe._test(probes, extractor, mock.Mock(), split, mock.Mock())
            return found, tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    def test_one_label_per_image_gives_the_metrics_of_all_scores(self):
        random = np.random.default_rng(0)
        scores = random.integers(0, 9, (1000, 12)).astype(np.float32)  # many are equal
        labels = random.integers(0, 10, 1000).astype(np.int32)
        found, _ = self.metrics(scores, labels)
        for layer, own in {"conv1": scores, "fc7": -scores}.items():
            predicted = own.argmax(1)
            expected = {
                "top1": np.mean(predicted == labels),
                "top5": np.mean(
                    [np.sum(row > row[c]) < 5 for row, c in zip(own, labels, strict=True)]
                ),
                "mean_class": np.mean([np.mean(predicted[labels == c] == c) for c in range(10)]),
            }
            self.assertAllClose(found[layer], expected, rtol=1e-12)

    def test_several_labels_an_image_give_the_average_precision_of_all_scores(self):
        random = np.random.default_rng(0)
        scores = random.standard_normal((300, 4)).astype(np.float32)
        labels = random.integers(0, 2, (300, 4)).astype(np.int8)
        found, _ = self.metrics(scores, labels)
        for layer, own in {"conv1": scores, "fc7": -scores}.items():
            expected = average_precision_score(labels, own, average="macro")
            self.assertAllClose(found[layer]["map"], expected)

    def test_of_one_label_an_image_no_more_than_a_batch_of_scores_is_held(self):
        scores = np.random.default_rng(0).standard_normal((5000, 1000), np.float32)  # 20 MB
        _, peak = self.metrics(scores, np.zeros(5000, np.int32))
        self.assertLess(peak, 8 * scores[:64].nbytes)  # 2 MB


class Logits:
    """A batch with the interface of a tensor."""

    def __init__(self, values):
        self._values = values.copy()

    def __len__(self):
        return len(self._values)

    def numpy(self):
        return self._values


class ProtocolTest(tf.test.TestCase):
    def test_the_default_is_the_papers(self):
        paper = linear_probe.Protocol()
        self.assertEqual((paper.epochs, paper.batch_size, paper.augment), (100, 256, True))
        self.assertEqual([paper.rate(f"conv{i}") for i in (1, 2, 7, 13)], [0.005, 0.01, 0.02, 0.02])

    def test_one_rate_may_be_given_for_all(self):
        chosen = dataclasses.replace(linear_probe.Protocol(), learning_rate=0.5)
        self.assertEqual((chosen.rate("conv1"), chosen.rate("fc7")), (0.5, 0.5))

    def test_senseless_settings_are_refused(self):
        for settings in [dict(epochs=0), dict(batch_size=0), dict(learning_rate=-1)]:
            with self.assertRaisesRegex(ConfigError, next(iter(settings))):
                linear_probe.Protocol(**settings)


if __name__ == "__main__":
    tf.test.main()
