import numpy as np
import tensorflow as tf

from dc_tf.exporting.resize import resize


class ResizeTest(tf.test.TestCase):
    def test_it_is_the_antialiased_resize_of_tensorflow(self):
        for height, width, side in ((48, 48, 32), (20, 37, 32), (375, 200, 64), (1, 7, 5)):
            images = np.random.default_rng(0).random((2, height, width, 3), np.float32)
            expected = tf.image.resize(images, [side, side], antialias=True)
            self.assertAllClose(resize(images, side), expected, atol=1e-4)

    def test_images_of_the_right_size_stay_as_they_are(self):
        images = np.random.default_rng(0).random((2, 8, 8, 3), np.float32)
        self.assertAllEqual(resize(images, 8), images)
        unknown = [tf.TensorSpec([None, None, None, 3])]
        function = tf.function(lambda x: resize(x, 8), input_signature=unknown, autograph=False)
        self.assertAllEqual(function(images), images)
        self.assertEqual(function(images[:, :5]).shape, [2, 8, 8, 3])

    def test_gradients_pass(self):
        images = tf.ones([1, 9, 6, 3])
        with tf.GradientTape() as tape:
            tape.watch(images)
            total = tf.reduce_sum(resize(images, 3))
        self.assertAllClose(tf.reduce_sum(tape.gradient(total, images)), 27.0)


if __name__ == "__main__":
    tf.test.main()
