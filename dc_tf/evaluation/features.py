"""Frozen features of a labelled data set, all asked-for layers in one pass over the images.

    extractor = Extractor(subject.trunk, {"conv13": cell_average("conv13")})
    features = extract(extractor, subject, split, batch_size=256)
    features["conv13"]             # (n, d), rows in the order of split.rows

The arrays live in memory up to a bound and in files of a scratch folder beyond, so memory stays
flat in the number of images.
"""

import math
import os
import shutil
import tempfile

import numpy as np
import tensorflow as tf

from dc_tf.errors import ConfigError
from dc_tf.evaluation.pooling import cell_average
from dc_tf.nn.vgg16 import LAYERS
from dc_tf.progress import Progress

MEMORY_BYTES = 4 << 30
_HALF_MAX = np.finfo(np.float16).max


class Extractor:
    """Images to one pooled vector for each of some layers; nothing beyond the last is computed.

    Attributes:
        layers: tuple of names.
        dims: {layer: vector length}.
    """

    def __init__(self, trunk, pools: dict):
        """Traces the network.

        Args:
            trunk: built VGG16.
            pools: {layer: function of its batch of features to (b, d)}.
        """
        resolution = trunk.settings["resolution"]
        self.layers = tuple(pools)

        @tf.function(input_signature=[tf.TensorSpec([None, resolution, resolution, 3])])
        def vectors(images):
            endpoints = trunk(images, training=False)
            return {layer: pool(endpoints[layer]) for layer, pool in pools.items()}

        self._vectors = vectors
        shapes = vectors.get_concrete_function().structured_outputs
        self.dims = {layer: int(shapes[layer].shape[-1]) for layer in pools}

    def __call__(self, images) -> dict:
        """{layer: (b, dim) float32} of (b, r, r, 3) float32 images in [0, 1]."""
        return self._vectors(images)

    def over(self, subject, split, batch_size, what):
        """Yields (first position, {layer: (b, dim) tensor}) over a split, with progress."""
        images = split.images(batch_size, subject.resolution, subject.short_side)
        with split.errors(), Progress(len(split.rows), what, "images") as progress:
            for batch in images:
                yield progress.done, self(batch)
                progress.update(len(batch))


class Store:
    """Arrays in memory up to a bound, then in files of a folder that is removed at the end.

    with Store("/scratch") as store: ...
    """

    def __init__(self, folder=None, memory_bytes=MEMORY_BYTES):
        """Prepares.

        Args:
            folder: where files go; by default $DC_TF_SCRATCH or the system's temporary folder.
            memory_bytes: bytes of all arrays that are kept in memory.
        """
        self._parent = folder or os.environ.get("DC_TF_SCRATCH") or tempfile.gettempdir()
        self._left = memory_bytes
        self._folder = None
        self._files = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def array(self, shape, dtype):
        """A new (n, d) array.

        Raises:
            ConfigError: it fits neither memory nor disk.
        """
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if size <= self._left:
            self._left -= size
            return np.empty(shape, dtype)
        if self._folder is None:
            os.makedirs(self._parent, exist_ok=True)
            self._folder = tempfile.mkdtemp(prefix="dc_tf-features-", dir=self._parent)
        free = shutil.disk_usage(self._folder).free
        if size > free:
            raise ConfigError(
                f"features need {size / 2**30:.1f} GiB in {self._parent!r}, which has "
                f"{free / 2**30:.1f} GiB free; name another folder with --scratch, or ask for "
                "fewer layers."
            )
        self._files += 1
        path = os.path.join(self._folder, f"{self._files}.npy")
        return np.lib.format.open_memmap(path, "w+", dtype, tuple(shape))


def extract(extractor, subject, split, store, batch_size=256, dtype="float32", what="features"):
    """Features of all rows of a split.

    Args:
        dtype: "float32", or "float16" with values clipped to its range.

    Returns:
        {layer: (n, dim) array}.
    """
    rows = len(split.rows)
    arrays = {layer: store.array((rows, dim), dtype) for layer, dim in extractor.dims.items()}
    for start, vectors in extractor.over(subject, split, batch_size, what):
        for layer, values in vectors.items():
            arrays[layer][start : start + len(values)] = storable(values, dtype)
    return arrays


def extract_cells(subject, splits, layers, protocol, store) -> list[dict]:
    """For each split, {layer: (n, dim) float32 array} of maps averaged over a few cells.

    Args:
        protocol: has `cells` and `batch_size`.
    """
    pools = {layer: cell_average(layer, protocol.cells) for layer in layers}
    extractor = Extractor(subject.trunk, pools)
    return [
        extract(
            extractor,
            subject,
            split,
            store,
            protocol.batch_size,
            what=f"{subject.name}: features of {split.path}",
        )
        for split in splits
    ]


def storable(values, dtype) -> np.ndarray:
    """A tensor's numbers, for "float16" clipped to its range."""
    values = values.numpy()
    return np.clip(values, -_HALF_MAX, _HALF_MAX) if dtype == "float16" else values


def directions(features, mean):
    """(n, d) float32 rows less the (d,) mean, of length 1; a row at the mean itself stays zero."""
    centred = np.asarray(features, np.float32) - mean
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    return np.ascontiguousarray(centred / np.maximum(length, np.finfo(np.float32).tiny))


def parse_layers(names) -> tuple[str, ...]:
    """Layers in the network's order, from names or "all".

    Raises:
        ConfigError: an unknown name, or none.
    """
    names = [name.strip() for name in names if name.strip()]
    unknown = sorted(set(names) - {*LAYERS, "all"})
    if unknown or not names:
        raise ConfigError(
            f"the layer is {', '.join(unknown) or 'missing'}; use 'all' or some of "
            f"{', '.join(LAYERS)}."
        )
    return LAYERS if "all" in names else tuple(name for name in LAYERS if name in names)
