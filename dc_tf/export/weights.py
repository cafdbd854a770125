"""The weights of a trunk by layer and name: the order in which they are exported and copied.

named_weights(trunk)["conv3"]["kernel"]     # tf.Variable (3, 3, c_in, c_out)
copy_weights(trained, into=fresh)
"""

import hashlib

import numpy as np

from dc_tf.data.storage.manifest import checksum
from dc_tf.errors import ConfigError
from dc_tf.nn.vgg16 import CONV_LAYERS

STATISTICS = ("moving_mean", "moving_variance")


def named_weights(trunk) -> dict:
    """{layer: {name: tf.Variable}} of a built trunk, input side first.

    Convolutions have kernel, bias and batch norm's gamma, beta, moving_mean and moving_variance;
    fc6 and fc7 have kernel and bias.
    """
    convs = [conv for block in trunk.blocks for conv in block]
    weights = {name: _conv_weights(conv) for name, conv in zip(CONV_LAYERS, convs)}
    for name in ("fc6", "fc7"):
        dense = getattr(trunk, name)
        weights[name] = {"kernel": dense.kernel, "bias": dense.bias}
    return weights


def flat_weights(weights: dict) -> list:
    """The variables of `named_weights`, layer by layer."""
    return [variable for layer in weights.values() for variable in layer.values()]


def trainable_weights(weights: dict) -> list:
    """`flat_weights` without the running statistics."""
    return [v for layer in weights.values() for name, v in layer.items() if name not in STATISTICS]


def copy_weights(trunk, into):
    """Sets the weights of one built trunk to those of another of the same shape.

    Raises:
        ConfigError: naming the first weight whose shape differs.
    """
    assign_weights(
        {k: {n: v.value() for n, v in d.items()} for k, d in named_weights(trunk).items()}, into
    )


def assign_weights(values: dict, into):
    """Sets the weights of a built trunk from {layer: {name: array}}.

    Raises:
        ConfigError: naming the first weight that is missing or of another shape.
    """
    for layer, weights in named_weights(into).items():
        for name, variable in weights.items():
            value = values.get(layer, {}).get(name)
            given = None if value is None else tuple(value.shape)
            if given != tuple(variable.shape):
                raise ConfigError(
                    f"the weight {layer}/{name} is {given or 'missing'}; this network needs "
                    f"{tuple(variable.shape)}. Use weights of a network of the same settings."
                )
            variable.assign(value)


def weights_digest(trunk) -> str:
    """Names a built network by the values of its weights: "sha256:...".

    The same for a copy; that of a network with Sobel folded into conv1 is another.
    """
    digest = hashlib.sha256()
    for array in trunk.get_weights():
        digest.update(np.ascontiguousarray(array))
    return checksum(digest)


def _conv_weights(block):
    norm = block.norm
    return {
        "kernel": block.conv.kernel,
        "bias": block.conv.bias,
        "gamma": norm.gamma,
        "beta": norm.beta,
        "moving_mean": norm.moving_mean,
        "moving_variance": norm.moving_variance,
    }
