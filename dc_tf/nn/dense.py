"""A fully connected layer whose inputs and outputs can be tapped.

layer = Dense(4096, name="fc6")
layer.tap = lambda inputs, outputs: outputs
"""

import tensorflow as tf

from dc_tf import keras


class Dense(keras.layers.Dense):
    """(b, n) to (b, units), without activation.

    Attributes:
        tap: function from inputs and outputs to outputs, called in each forward pass; None without.
            Traced functions do not change.
    """

    tap = None

    def call(self, inputs) -> tf.Tensor:
        outputs = super().call(inputs)
        return outputs if self.tap is None else self.tap(inputs, outputs)
