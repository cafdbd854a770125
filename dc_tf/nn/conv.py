"""A convolution whose kernel can be tapped.

layer = Conv2D(64, 3, padding="same")
layer.tap = lambda kernel: kernel
"""

import tensorflow as tf

from dc_tf import keras


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
