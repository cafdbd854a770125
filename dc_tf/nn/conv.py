"""A convolution whose kernel can be tapped, and one together with its batch norm.

layer = Conv2D(64, 3, padding="same")
layer.tap = lambda kernel: kernel
y = normalized_conv(layer, norm, x, training=False)
"""

import tensorflow as tf

from dc_tf import keras
from dc_tf.nn.batch_norm import BatchNorm


class Conv2D(keras.layers.Conv2D):
    """(b, h, w, c) to (b, h', w', filters).

    Attributes:
        tap: function from the kernel to the kernel, called in each forward pass; None without.
            Traced functions do not change.
    """

    tap = None

    def convolution_op(self, inputs, kernel) -> tf.Tensor:
        """Keras' own, with the kernel that the tap returns."""
        return super().convolution_op(inputs, kernel if self.tap is None else self.tap(kernel))


def normalized_conv(conv: keras.layers.Conv2D, norm: BatchNorm, x, training) -> tf.Tensor:
    """norm(conv(x)); in inference by one convolution, whose weights include the normalisation.

    That spares a pass over the maps, lets TensorFlow compute the ReLU in the convolution, and
    rounds only once in bfloat16. The two differ by rounding: the kernel is scaled in float32.

    Args:
        conv, norm: layers; the first call in inference creates their weights. The caller has to be
            a layer of type float32, for which Keras reads variables without casting them.
        x: (b, h, w, c).
        training: whether `norm` uses the statistics of the batch.

    Returns:
        (b, h', w', filters), in the type in which `conv` computes.
    """
    if training or not norm.built:
        return norm(conv(x), training=training)
    dtype = conv.compute_dtype
    scale, shift = norm.scale_and_shift()
    if conv.use_bias:
        shift += conv.bias * scale
    maps = conv.convolution_op(tf.cast(x, dtype), tf.cast(conv.kernel * scale, dtype))
    return tf.nn.bias_add(maps, tf.cast(shift, dtype))
