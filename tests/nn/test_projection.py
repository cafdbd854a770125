"""The projection: an MLP to unit vectors."""

import numpy as np
import pytest
import tensorflow as tf

from dc_tf.nn.batch_norm import EPSILON
from dc_tf.nn.projection import Projection, clustered_features
from dc_tf.nn.vgg16 import VGG16

pytestmark = [pytest.mark.numeric, pytest.mark.tf215]

FEATURES, HIDDEN, DIM = 24, 12, 6


class ProjectionTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.x = np.random.default_rng(0).random((40, FEATURES), np.float32)

    def test_it_is_linear_batch_norm_relu_linear_of_length_1(self):
        projection = Projection(FEATURES, HIDDEN, DIM).with_weights()
        hidden, gamma, beta, kernel, bias = (w.numpy() for w in projection.trainable_variables)
        maps = self.x @ hidden
        maps = (maps - maps.mean(0)) / np.sqrt(maps.var(0) + EPSILON) * gamma + beta
        expected = np.maximum(maps, 0) @ kernel + bias
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        self.assertAllClose(projection(self.x, training=True), expected, atol=1e-5)

    def test_without_a_hidden_layer_it_is_linear(self):
        projection = Projection(FEATURES, 0, DIM).with_weights()
        kernel, bias = (w.numpy() for w in projection.trainable_variables)
        expected = self.x @ kernel + bias
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        self.assertAllClose(projection(self.x), expected, atol=1e-5)
        self.assertEmpty(projection.non_trainable_variables)

    def test_a_row_does_not_depend_on_the_others_in_inference(self):
        projection = Projection(FEATURES, HIDDEN, DIM).with_weights()
        projection(self.x, training=True)
        self.assertAllClose(projection(self.x[:3]), projection(self.x)[:3], atol=1e-6)
        self.assertNotAllClose(projection(self.x), projection(self.x, training=True), atol=1e-3)

    def test_initial_weights_follow_from_the_seed(self):
        first, again, other = (
            Projection(FEATURES, HIDDEN, DIM, s).with_weights() for s in (1, 1, 2)
        )
        self.assertAllEqual(first(self.x), again(self.x))
        self.assertNotAllClose(first(self.x), other(self.x))

    def test_what_is_clustered_is_its_output_of_relu_of_the_feature_layer(self):
        trunk = VGG16(width=1 / 16, resolution=32, fc=FEATURES).built_at_resolution()
        projection = Projection(FEATURES, HIDDEN, DIM).with_weights()
        images = np.random.default_rng(0).random((4, 32, 32, 3), np.float32)
        fc7 = trunk(images)["fc7"]
        self.assertAllClose(clustered_features(trunk)(images), fc7, atol=1e-5)
        found = clustered_features(trunk, projection)(images)
        self.assertAllClose(found, projection(tf.nn.relu(fc7)), atol=1e-5)


if __name__ == "__main__":
    tf.test.main()
