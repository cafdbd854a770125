"""Builds the network from built-in Keras layers, named as in `keras.applications`.

    model = keras_model(trunk)
    model.get_layer("block5_conv3_relu").output      # conv13 of VGG-16
    model.get_layer("fc1"), model.get_layer("fc2")   # fc6 after ReLU, fc7 before ReLU
    model.get_layer("conv5_block3_out").output       # block4_3 of ResNet-50

The model has no layers of this package, so a saved model loads without it. Names are those of
`keras.applications.VGG16`, where a convolution `blockI_convJ` is followed by `blockI_convJ_bn` and
`blockI_convJ_relu`, and of `keras.applications.ResNet50`.
"""

import numpy as np
import tensorflow as tf

from dc_tf import keras
from dc_tf.exporting.input_range import AUTO, of_floats
from dc_tf.exporting.weights import STATISTICS, named_weights
from dc_tf.nn.batch_norm import EPSILON, RUNNING_MOMENTUM
from dc_tf.nn.resnet import every
from dc_tf.nn.sobel import RGB_MEAN, RGB_STD, sobel_kernel


def keras_model(trunk, input_range=AUTO) -> keras.Model:
    """A functional model with the weights of a built trunk.

    It maps (b, r, r, 3) RGB to the layer that is clustered, before ReLU, (b, d).

    Args:
        trunk: built Trunk, float32.
        input_range: of the values of images, see `input_range.of_floats`.
    """
    resolution = trunk.settings["resolution"]
    build = Builder(trunk)
    images = keras.layers.Input([resolution, resolution, 3], name="images")
    x = input_stage(trunk, of_floats(images, input_range), build)
    model = keras.Model(images, trunk.plain(x, build), name=trunk.kind)
    build.set_weights()
    return model


class Builder:
    """Applies built-in layers to KerasTensors, see `Trunk.plain`.

    Methods take the name of the layer; `conv` and `dense` also that of the part whose weights it
    has.

    Args:
        trunk: built Trunk.
        layers: module of the layers, of Keras 2 by default.

    Attributes:
        layers: the same.
    """

    def __init__(self, trunk, layers=keras.layers):
        self.layers = layers
        self._parts = trunk.parts()
        self._weights = named_weights(trunk)
        self._settings = []  # (layer, its weights), set after the model is built

    def set_weights(self) -> None:
        """Sets the weights of all layers, once the model is built."""
        for layer, values in self._settings:
            layer.set_weights([np.asarray(value) for value in values])

    def fixed_conv(self, x, kernel, name) -> tf.Tensor:
        """A convolution without padding and bias that is not trained."""
        size, _, _, filters = kernel.shape
        layer = self.layers.Conv2D(filters, size, use_bias=False, trainable=False, name=name)
        self._settings.append((layer, [kernel]))
        return layer(x)

    def conv(self, x, part, name, norm_name) -> tf.Tensor:
        """A convolution and its batch norm."""
        ours, values = self._parts[part].conv, self._weights[part]
        layer = self.layers.Conv2D(
            ours.filters,
            ours.kernel_size,
            ours.strides,
            padding=ours.padding,
            use_bias=ours.use_bias,
            name=name,
        )
        norm = self.layers.BatchNormalization(
            epsilon=EPSILON, momentum=RUNNING_MOMENTUM, name=norm_name
        )
        self._settings.append((layer, [values[n] for n in ("kernel", "bias") if n in values]))
        self._settings.append((norm, [values[n] for n in ("gamma", "beta", *STATISTICS)]))
        return norm(layer(x))

    def dense(self, x, part, name, activation=None) -> tf.Tensor:
        """A fully connected layer."""
        values = self._weights[part]
        layer = self.layers.Dense(values["bias"].shape[0], activation, name=name)
        self._settings.append((layer, [values["kernel"], values["bias"]]))
        return layer(x)

    def pad(self, x, pixels, name) -> tf.Tensor:
        """Zeros on each side; `x` for 0 pixels."""
        return self.layers.ZeroPadding2D(pixels, name=name)(x) if pixels else x

    def relu(self, x, name) -> tf.Tensor:
        return self.layers.ReLU(name=name)(x)

    def add(self, both, name) -> tf.Tensor:
        return self.layers.Add(name=name)(both)

    def max_pool(self, x, side, stride, name) -> tf.Tensor:
        return self.layers.MaxPooling2D(side, stride, name=name)(x)

    def every(self, x, stride, name) -> tf.Tensor:
        """Every `stride`-th pixel of each row and column, from the first on."""
        del name
        return every(x, stride)

    def mean(self, x, name) -> tf.Tensor:
        """Over all pixels."""
        return self.layers.GlobalAveragePooling2D(name=name)(x)

    def flatten(self, x, name) -> tf.Tensor:
        return self.layers.Flatten(name=name)(x)

    def dropout(self, x, rate, name) -> tf.Tensor:
        return self.layers.Dropout(rate, name=name)(x)


def input_stage(trunk, images, build) -> tf.Tensor:
    """Normalised RGB, or Sobel's image gradients if Sobel is a stage of its own.

    Args:
        trunk: built Trunk.
        images: KerasTensor, (b, r, r, 3) in [0, 1].
        build: Builder.
    """
    x = build.layers.Rescaling(
        [1 / s for s in RGB_STD],
        [-m / s for m, s in zip(RGB_MEAN, RGB_STD, strict=True)],
        name="normalize",
    )(images)
    if trunk.folded or not trunk.settings["sobel"]:
        return x
    grey = build.fixed_conv(x, np.full((1, 1, 3, 1), 1 / 3, np.float32), "grey")
    return build.fixed_conv(build.pad(grey, 2, "padding"), sobel_kernel(), "sobel")
