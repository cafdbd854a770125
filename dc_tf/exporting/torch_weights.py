"""Converts weights of PyTorch to our names and layouts and back, in NumPy.

    network = from_torch(state)             # {key: array} of a checkpoint
    trunk = make_trunk(network.kind, **network.settings).built_at_resolution()
    assign_weights(network.weights, trunk)
    state = to_torch(trunk)

VGG-16 has the keys of the paper's program, ResNets those of torchvision.

PyTorch stores convolutions as (out, in, h, w) and linear layers as (out, in), and flattens maps in
the order (c, h, w); here the layouts are (h, w, in, out), (in, out) and (h, w, c).

Reference: docs/reference.md, section 6.
"""

import dataclasses
import math
import re
from typing import NamedTuple

import numpy as np

from dc_tf.errors import ConfigError, DataError
from dc_tf.exporting.weights import named_weights
from dc_tf.nn.sobel import sobel_kernel
from dc_tf.nn.trunks import IMAGENET, SMALL, TRUNKS, trunk_class

# Prefixes of keys from DataParallel and from the program's model.
_WRAPPERS = re.compile(r"^((module|body)\.)+")
_BATCH_NORM = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
_BATCH_COUNT = "num_batches_tracked"
# Permutation from PyTorch's axes to ours, by rank.
_ORDER = {1: (0,), 2: (1, 0), 4: (2, 3, 1, 0)}
_FIRST = "(64, 2, 3, 3), or (64, 3, 3, 3) for RGB"
_EXPECTED = (
    "VGG-16 with batch norm as the DeeperCluster program saves it, or torchvision's resnet18 or "
    "resnet50"
)


@dataclasses.dataclass(frozen=True)
class TorchNetwork:
    """The trunk in a checkpoint.

    Attributes:
        settings: settings of the network.
        weights: {layer: {name: float32 array}}, for `assign_weights`.
        ignored: keys of the checkpoint that do not belong to the trunk, such as a head's.
        kind: of the network, a name in `nn.trunks.TRUNKS`.
    """

    settings: dict
    weights: dict
    ignored: tuple[str, ...]
    kind: str = "vgg16"


class _Entry(NamedTuple):
    """A weight: its layer and name here, its key and shape in the checkpoint.

    `maps` is the (c, h, w) shape that fc6's inputs are flattened from; None for other weights.
    """

    layer: str
    name: str
    key: str
    shape: tuple[int, ...]
    maps: tuple[int, int, int] | None = None


def from_torch(state, resolution=224) -> TorchNetwork:
    """Converts the arrays of a checkpoint to a trunk of any width.

    Args:
        state: {key: array}. Keys may start with `module.` and `body.`.
        resolution: side of the network's input in pixels.

    Raises:
        ConfigError: the resolution is too small for the network.
        DataError: a key is missing, unexpected, or has another shape or values that are not finite;
            the message names it.
    """
    state = _without_wrappers(state)
    kind = _kind(state)
    settings = _settings(kind, state, resolution)
    entries = list(_entries(kind, settings))
    for entry in entries:
        _check(state, entry, settings)
    others = sorted(state.keys() - {entry.key for entry in entries})
    places = tuple({f"{entry.key.split('.')[0]}." for entry in entries})
    ignored = tuple(key for key in others if not _belongs(key, state[key], places))
    weights = {}
    for entry in entries:
        weights.setdefault(entry.layer, {})[entry.name] = _in_our_layout(state[entry.key], entry)
    return TorchNetwork(settings, weights, ignored, kind)


def to_torch(trunk) -> dict:
    """The weights of a built trunk under the keys that `from_torch` reads.

    Returns:
        {key: float32 array}, and the counts of batches that PyTorch's batch norm has, int64.
    """
    weights = named_weights(trunk)
    state = {}
    for entry in _entries(trunk.kind, trunk.settings):
        state[entry.key] = _in_their_layout(weights[entry.layer][entry.name].numpy(), entry)
        if entry.name == "moving_variance":
            state[f"{entry.key.rpartition('.')[0]}.{_BATCH_COUNT}"] = np.zeros((), np.int64)
    return state


def _entries(kind, settings):
    """Yields every weight of the trunk, from the input to the output."""
    network = trunk_class(kind)
    counts = network.counts(**settings)
    keys = list(network.torch_parts().items())
    convs, dense = keys[: len(counts.convs)], keys[len(counts.convs) :]
    for conv, (layer, (key, norm)) in zip(counts.convs, convs, strict=True):
        shape = (conv.outputs, conv.inputs, conv.kernel, conv.kernel)
        yield _Entry(layer, "kernel", f"{key}.weight", shape)
        if conv.bias:
            yield _Entry(layer, "bias", f"{key}.bias", (conv.outputs,))
        for name, theirs in _BATCH_NORM.items():
            yield _Entry(layer, name, f"{norm}.{theirs}", (conv.outputs,))
    channels = counts.convs[-1].outputs
    for (inputs, outputs), (layer, (key, _)) in zip(counts.dense, dense, strict=True):
        side = math.isqrt(inputs // channels)
        maps = (channels, side, side) if layer == network.dense_layers[0] else None
        yield _Entry(layer, "kernel", f"{key}.weight", (outputs, inputs), maps)
        yield _Entry(layer, "bias", f"{key}.bias", (outputs,))


def _in_our_layout(array, entry):
    array = np.asarray(array, np.float32)
    if entry.maps:
        array = array.reshape(-1, *entry.maps).transpose(0, 2, 3, 1).reshape(array.shape)
    return np.ascontiguousarray(array.transpose(_ORDER[array.ndim]))


def _in_their_layout(array, entry):
    array = array.transpose(np.argsort(_ORDER[array.ndim]))
    if entry.maps:
        channels, height, width = entry.maps
        array = array.reshape(-1, height, width, channels).transpose(0, 3, 1, 2)
        array = array.reshape(len(array), -1)
    return np.ascontiguousarray(array)


def _without_wrappers(state):
    bare = {}
    for key, array in state.items():
        name = _WRAPPERS.sub("", key)
        if name in bare:
            raise DataError(f"the checkpoint has {name!r} twice, once as {key!r}.")
        bare[name] = array
    return bare


def _kind(state) -> str:
    """The network whose convolutions are most nearly those of the checkpoint."""
    convs = {k for k, array in state.items() if np.ndim(array) == 4 and not k.startswith("sobel.")}

    def differing(kind):
        keys = trunk_class(kind).torch_parts().values()
        return len(convs ^ {f"{conv}.weight" for conv, norm in keys if norm})

    return min(TRUNKS, key=differing)


def _settings(kind, state, resolution) -> dict:
    """Settings of the network, from the shapes of the first layers."""
    network = trunk_class(kind)
    parts = network.torch_parts()
    first = f"{parts[network.stem_conv][0]}.weight"
    outputs, inputs, side = (*_shape(state, first, _FIRST), 0, 0, 0)[:3]
    settings = dict(width=outputs / network.stem_channels, resolution=resolution, sobel=inputs == 2)
    settings["stem"] = SMALL if side == 3 else IMAGENET
    if network.dense_layers:
        key = f"{parts[network.dense_layers[0]][0]}.weight"
        settings["fc"] = (*_shape(state, key, "(4096, 25088)"), 0)[0]
    smallest = TRUNKS[kind].smallest.get(settings["stem"]) or TRUNKS[kind].smallest[IMAGENET]
    if resolution < smallest:
        raise ConfigError(
            f"the resolution is {resolution}; {network.title} needs at least {smallest} pixels."
        )
    return {name: settings[name] for name in network.setting_names}


def _shape(state, key, expected) -> tuple[int, ...]:
    if key not in state:
        raise DataError(
            f"the checkpoint has no {key!r} of shape {expected}, but {len(state)} other keys, the "
            f"first of which is {next(iter(state), None)!r}; expected {_EXPECTED}."
        )
    return tuple(np.shape(state[key]))


def _check(state, entry, settings):
    """Raises DataError unless the checkpoint has this weight."""
    key, array = entry.key, state.get(entry.key)
    shape = _shape(state, key, entry.shape)
    if shape != entry.shape:
        network = ", ".join(f"{name} {value}" for name, value in settings.items())
        raise DataError(f"{key!r} of the checkpoint is {shape}; {entry.shape} fits {network}.")
    if array.dtype.kind != "f":
        raise DataError(f"{key!r} of the checkpoint is {array.dtype}; expected float32.")
    if not np.isfinite(array).all():
        raise DataError(f"{key!r} of the checkpoint is not finite; the file is corrupt.")


def _belongs(key, array, places) -> bool:
    """Whether a key that is not a weight of the trunk still belongs to it.

    Raises:
        DataError: the key belongs to another network.
    """
    if key.startswith("sobel."):
        _check_sobel(key, array)
        return True
    part_of_trunk = key.startswith(places)
    if part_of_trunk and not key.endswith(_BATCH_COUNT):
        raise DataError(
            f"the checkpoint has {key!r}, {np.shape(array)}, for which there is no place in "
            f"{_EXPECTED}."
        )
    return part_of_trunk


def _check_sobel(key, array):
    """Checks that the fixed filters equal ours; otherwise the features would differ."""
    gradients = sobel_kernel().transpose(3, 2, 0, 1)
    fixed = [np.full((1, 3, 1, 1), 1 / 3), gradients, np.zeros(1), np.zeros(2)]
    same_shape = [values for values in fixed if values.shape == np.shape(array)]
    if not same_shape or not np.allclose(array, same_shape[0], atol=1e-6):
        raise DataError(
            f"{key!r} of the checkpoint, {np.shape(array)}, is not the fixed filter of {_EXPECTED}."
        )
