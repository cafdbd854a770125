"""Converts weights of the paper's PyTorch program to our names and layouts, in NumPy.

    network = from_torch(state)             # {key: array} of a checkpoint
    trunk = VGG16(**network.settings).built_at_resolution()
    assign_weights(network.weights, trunk)

PyTorch stores convolutions as (out, in, h, w) and linear layers as (out, in), and flattens maps in
the order (c, h, w); here the layouts are (h, w, in, out), (in, out) and (h, w, c).

Reference: docs/reference.md, section 6.
"""

import dataclasses
import re
from typing import NamedTuple

import numpy as np

from dc_tf.errors import DataError
from dc_tf.nn.sobel import sobel_kernel
from dc_tf.nn.vgg16 import BLOCKS, CONV_LAYERS, channels, final_map_size

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
_EXPECTED = "VGG-16 with batch norm as the DeeperCluster program saves it"


@dataclasses.dataclass(frozen=True)
class TorchNetwork:
    """The trunk in a checkpoint.

    Attributes:
        settings: settings of `VGG16`: width, resolution, fc, sobel.
        weights: {layer: {name: float32 array}}, for `assign_weights`.
        ignored: keys of the checkpoint that do not belong to the trunk, such as a head's.
    """

    settings: dict
    weights: dict
    ignored: tuple[str, ...]


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
        DataError: a key is missing, unexpected, or has another shape or values that are not finite;
            the message names it.
    """
    state = _without_wrappers(state)
    settings = _settings(state, resolution)
    entries = list(_entries(**settings))
    for entry in entries:
        _check(state, entry, settings)
    others = sorted(state.keys() - {entry.key for entry in entries})
    ignored = tuple(key for key in others if not _belongs(key, state[key]))
    weights = {}
    for entry in entries:
        weights.setdefault(entry.layer, {})[entry.name] = _in_our_layout(state[entry.key], entry)
    return TorchNetwork(settings, weights, ignored)


def _entries(width, resolution, fc, sobel):
    """Yields every weight of the trunk, from the input to the output."""
    inputs = 2 if sobel else 3
    layers, place = iter(CONV_LAYERS), 0
    for block in channels(width):
        for outputs in block:
            layer = next(layers)
            yield _Entry(layer, "kernel", f"features.{place}.weight", (outputs, inputs, 3, 3))
            yield _Entry(layer, "bias", f"features.{place}.bias", (outputs,))
            for name, theirs in _BATCH_NORM.items():
                yield _Entry(layer, name, f"features.{place + 1}.{theirs}", (outputs,))
            inputs, place = outputs, place + 3  # convolution, batch norm, ReLU
        place += 1  # max-pool
    side = final_map_size(resolution)
    flat = (fc, inputs * side * side)
    yield _Entry("fc6", "kernel", "classifier.0.weight", flat, maps=(inputs, side, side))
    yield _Entry("fc6", "bias", "classifier.0.bias", (fc,))
    yield _Entry("fc7", "kernel", "classifier.3.weight", (fc, fc))
    yield _Entry("fc7", "bias", "classifier.3.bias", (fc,))


def _in_our_layout(array, entry):
    array = np.asarray(array, np.float32)
    if entry.maps:
        array = array.reshape(-1, *entry.maps).transpose(0, 2, 3, 1).reshape(array.shape)
    return np.ascontiguousarray(array.transpose(_ORDER[array.ndim]))


def _without_wrappers(state):
    bare = {}
    for key, array in state.items():
        name = _WRAPPERS.sub("", key)
        if name in bare:
            raise DataError(f"the checkpoint has {name!r} twice, once as {key!r}.")
        bare[name] = array
    return bare


def _settings(state, resolution) -> dict:
    """Settings of `VGG16`, from the shapes of the first convolution and first linear layer."""
    conv = _shape(state, "features.0.weight", "(64, 2, 3, 3), or (64, 3, 3, 3) for RGB")
    linear = _shape(state, "classifier.0.weight", "(4096, 25088)")
    outputs, inputs = (*conv, 0, 0)[:2]
    return dict(
        width=outputs / BLOCKS[0][0],
        resolution=resolution,
        fc=(*linear, 0)[0],
        sobel=inputs == 2,
    )


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


def _belongs(key, array) -> bool:
    """Whether a key that is not a weight of the trunk still belongs to it.

    Raises:
        DataError: the key belongs to another network.
    """
    if key.startswith("sobel."):
        _check_sobel(key, array)
        return True
    part_of_trunk = key.startswith(("features.", "classifier."))
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
