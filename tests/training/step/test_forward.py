"""Views of an image in the forward pass: side by side, with its labels, joined to one vector."""

import types

import numpy as np
import tensorflow as tf

from dc_tf.experiment import Views
from dc_tf.training.step.forward import Forward

DIM = 4


class Trunk:
    """Its features are the mean colours; it notes the images of each pass."""

    feature_layer, feature_dim, dropout_dim = "mean", 3, 0

    def __init__(self):
        self.passes = []

    def __call__(self, images, training, dropout_mask):
        assert training and dropout_mask is None
        self.passes.append(tuple(images.shape))
        return {"mean": tf.reduce_mean(images, [1, 2]) - 0.5}


def projection(vectors, training):
    assert training
    return tf.math.l2_normalize(vectors, -1)


def batch(images=2, global_views=2, local_views=1):
    random = np.random.default_rng(0)
    return {
        "image": tf.constant(random.random((images, global_views, 8, 8, 3), np.float32)),
        "local_image": tf.constant(random.random((images, local_views, 4, 4, 3), np.float32)),
        "super_id": tf.constant([3, 1]),
        "sub_id": tf.constant([[5, 6], [7, 8]]),
    }


class ForwardTest(tf.test.TestCase):
    views = Views(global_views=2, local_views=1, local_size=4)

    def test_views_of_a_size_pass_together_and_those_of_an_image_stay_side_by_side(self):
        trunk, images = Trunk(), batch()
        vectors, classified = Forward(trunk, None, self.views)(images)
        self.assertEqual(trunk.passes, [(4, 8, 8, 3), (2, 4, 4, 3)])
        means = [np.mean(images[name], (2, 3)) - 0.5 for name in ("image", "local_image")]
        expected = np.concatenate(means, 1).reshape(6, 3)
        self.assertAllClose(vectors, expected)
        self.assertAllClose(classified, np.maximum(expected, 0))

    def test_the_projection_is_clustered_and_classified(self):
        vectors, classified = Forward(Trunk(), projection, self.views)(batch())
        self.assertAllClose(tf.norm(vectors, axis=1), np.ones(6))
        self.assertAllEqual(vectors, classified)

    def test_one_view_has_no_axis_of_views(self):
        images = batch()
        one = {**images, "image": images["image"][:, 0]}
        vectors, _ = Forward(Trunk(), None, Views())(one)
        self.assertAllClose(vectors, np.mean(one["image"], (1, 2)) - 0.5)

    def test_every_view_has_the_labels_of_its_image(self):
        super_id, sub_id = Forward(Trunk(), None, self.views).labels(batch())
        self.assertAllEqual(super_id, [3, 3, 3, 1, 1, 1])
        self.assertAllEqual(sub_id, [[5, 6]] * 3 + [[7, 8]] * 3)

    def test_of_several_views_the_mean_of_the_global_ones_is_kept(self):
        vectors = np.random.default_rng(1).standard_normal((6, DIM)).astype(np.float32)
        means = np.stack([vectors[:2].mean(axis=0), vectors[3:5].mean(axis=0)])
        plain = Forward(Trunk(), None, self.views).of_images(tf.constant(vectors))
        self.assertAllClose(plain, means)
        lengths = np.linalg.norm(means, axis=1, keepdims=True)
        unit = Forward(Trunk(), projection, self.views).of_images(tf.constant(vectors))
        self.assertAllClose(unit, means / lengths, rtol=1e-5)
        single = types.SimpleNamespace(count=3, global_views=1)
        kept = Forward(Trunk(), projection, single).of_images(tf.constant(vectors))
        self.assertAllEqual(kept, vectors[[0, 3]])


if __name__ == "__main__":
    tf.test.main()
