"""Builds the network from built-in Keras layers, named as in `keras.applications.VGG16`.

    model = keras_model(trunk)
    model.get_layer("block5_conv3_relu").output      # conv13
    model.get_layer("fc1"), model.get_layer("fc2")   # fc6 after ReLU, fc7 before ReLU

The model has no layers of this package, so a saved model loads without it. A convolution
`blockI_convJ` is followed by `blockI_convJ_bn` and `blockI_convJ_relu`.
"""

import numpy as np

from dc_tf import keras
from dc_tf.exporting.fold_sobel import PADDING, FoldedVGG16
from dc_tf.exporting.input_range import AUTO, of_floats
from dc_tf.exporting.weights import named_weights
from dc_tf.nn.batch_norm import EPSILON, RUNNING_MOMENTUM
from dc_tf.nn.sobel import RGB_MEAN, RGB_STD, sobel_kernel
from dc_tf.nn.vgg16 import DROPOUT


def keras_model(trunk, input_range=AUTO) -> keras.Model:
    """A functional model with the weights of a built trunk.

    It maps (b, r, r, 3) RGB to fc7 before ReLU, (b, fc).

    Args:
        trunk: built VGG16 or FoldedVGG16, float32.
        input_range: of the values of images, see `input_range.of_floats`.
    """
    resolution = trunk.settings["resolution"]
    weights = iter(named_weights(trunk).values())
    settings = []  # (layer, its weights), set after the model is built
    images = keras.layers.Input([resolution, resolution, 3], name="images")
    x = _stem(trunk, of_floats(images, input_range), settings)
    for b, block in enumerate(trunk.blocks, 1):
        for c in range(1, len(block) + 1):
            x = _convolution(x, f"block{b}_conv{c}", next(weights), settings)
        x = keras.layers.MaxPooling2D(2, 2, name=f"block{b}_pool")(x)
    x = keras.layers.Flatten(name="flatten")(x)
    for name, activation in (("fc1", "relu"), ("fc2", None)):
        values = next(weights)
        layer = keras.layers.Dense(values["bias"].shape[0], activation, name=name)
        settings.append((layer, [values["kernel"], values["bias"]]))
        x = layer(x)
        if name == "fc1":
            x = keras.layers.Dropout(DROPOUT, name="fc1_dropout")(x)
    model = keras.Model(images, x, name="vgg16")
    for layer, values in settings:
        layer.set_weights([np.asarray(value) for value in values])
    return model


def _stem(trunk, images, settings):
    """Padded normalised RGB, or Sobel's image gradients if Sobel is a stage of its own."""
    x = keras.layers.Rescaling(
        [1 / s for s in RGB_STD],
        [-m / s for m, s in zip(RGB_MEAN, RGB_STD, strict=True)],
        name="normalize",
    )(images)
    if isinstance(trunk, FoldedVGG16):
        return keras.layers.ZeroPadding2D(PADDING, name="padding")(x)
    if not trunk.settings["sobel"]:
        return keras.layers.ZeroPadding2D(1, name="padding")(x)
    grey = keras.layers.Conv2D(1, 1, use_bias=False, trainable=False, name="grey")
    settings.append((grey, [np.full((1, 1, 3, 1), 1 / 3, np.float32)]))
    sobel = keras.layers.Conv2D(2, 3, use_bias=False, trainable=False, name="sobel")
    settings.append((sobel, [sobel_kernel()]))
    return sobel(keras.layers.ZeroPadding2D(2, name="padding")(grey(x)))


def _convolution(x, name, values, settings):
    size, _, _, filters = values["kernel"].shape
    padding = "same" if size == 3 else "valid"  # a folded conv1 is padded by a layer before it
    conv = keras.layers.Conv2D(filters, size, padding=padding, name=name)
    norm = keras.layers.BatchNormalization(
        epsilon=EPSILON, momentum=RUNNING_MOMENTUM, name=f"{name}_bn"
    )
    settings.append((conv, [values["kernel"], values["bias"]]))
    statistics = ("gamma", "beta", "moving_mean", "moving_variance")
    settings.append((norm, [values[n] for n in statistics]))
    return keras.layers.ReLU(name=f"{name}_relu")(norm(conv(x)))
