"""The weights of a trunk by layer and name, in the order in which they are exported and copied.

named_weights(trunk)["conv3"]["kernel"]     # tf.Variable (3, 3, c_in, c_out)
copy_weights(trained, into=fresh)
"""

import hashlib

import numpy as np

from dc_tf.data.storage.manifest import checksum
from dc_tf.errors import ConfigError

STATISTICS = ("moving_mean", "moving_variance")


def named_weights(trunk) -> dict:
    """{layer: {name: tf.Variable}} of a built trunk, from the input to the output.

    Convolutions have kernel, bias (of VGG-16 only) and batch norm's gamma, beta, moving_mean and
    moving_variance; fully connected layers have kernel and bias.
    """
    return {name: _weights_of(part) for name, part in trunk.parts().items()}


def flat_weights(weights: dict) -> list:
    """The variables of `named_weights`, layer by layer."""
    return [variable for layer in weights.values() for variable in layer.values()]


def trainable_weights(weights: dict) -> list:
    """`flat_weights` without the running statistics."""
    return [v for layer in weights.values() for name, v in layer.items() if name not in STATISTICS]


def copy_weights(trunk, into) -> None:
    """Copies the weights of a built trunk to another one of the same shape.

    Raises:
        ConfigError: a shape differs; the message names the first such weight.
    """
    assign_weights(
        {k: {n: v.value() for n, v in d.items()} for k, d in named_weights(trunk).items()}, into
    )


def assign_weights(values: dict, into) -> None:
    """Sets the weights of a built trunk from {layer: {name: array}}.

    Raises:
        ConfigError: a weight is missing or has another shape; the message names the first one.
    """
    for layer, weights in named_weights(into).items():
        for name, variable in weights.items():
            value = values.get(layer, {}).get(name)
            given = None if value is None else tuple(value.shape)
            if given != tuple(variable.shape):
                raise ConfigError(
                    f"the weight {layer}/{name} is {given or 'missing'}, but this network needs "
                    f"{tuple(variable.shape)}; use weights of a network with the same settings."
                )
            variable.assign(value)


def weights_digest(trunk) -> str:
    """Digest of a built network's weights: "sha256:...".

    A copy has the same digest; a network with Sobel folded into conv1 has a different one.
    """
    digest = hashlib.sha256()
    for array in trunk.get_weights():
        digest.update(np.ascontiguousarray(array))
    return checksum(digest)


def _weights_of(part):
    if not hasattr(part, "norm"):
        return {"kernel": part.kernel, "bias": part.bias}
    bias = {"bias": part.conv.bias} if part.conv.use_bias else {}
    norm = {name: getattr(part.norm, name) for name in ("gamma", "beta", *STATISTICS)}
    return {"kernel": part.conv.kernel, **bias, **norm}
