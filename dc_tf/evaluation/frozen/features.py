"""Extracts features of a labelled data set, for all requested layers in one pass.

    extractor = Extractor(frozen.trunk, {"conv13": cell_average()})
    with FeatureCache() as cache:
        features = extract(extractor, frozen, split, cache, batch_size=256)
        features["conv13"]             # (n, d), rows in the order of split.rows

The arrays are in memory up to a bound and in files of a scratch folder beyond it, so memory does
not grow with the number of images.

Workers process the batches in turn and broadcast the vectors, so every worker gets the same bits as
a single process would. Each keeps the vectors of its own layers.
"""

import math
import os
import shutil
import tempfile
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from dc_tf.distributed.collectives import ALONE
from dc_tf.errors import ConfigError
from dc_tf.evaluation.frozen.pooling import cell_average
from dc_tf.progress import Progress

MEMORY_BYTES = 4 << 30
_HALF_MAX = np.finfo(np.float16).max


class Extractor:
    """Maps images to one pooled vector per layer; computes nothing beyond the last layer.

    Attributes:
        layers: tuple of names, this worker's share of the layers.
        dims: {layer: vector length} of `layers`.
    """

    def __init__(self, trunk, pools: dict, world=ALONE, mirror=False):
        """Traces the network.

        Args:
            trunk: built Trunk, or what has its attributes (`FrozenModel.trunk`).
            pools: {layer: function that pools a batch of its features to (b, d)}.
            world: Communicator of the workers that share the work.
            mirror: average the vectors of each image and of its mirror image.
        """
        self.layers = tuple(pools)[world.rank :: world.size]
        self._world = world

        @tf.function(input_signature=[tf.TensorSpec([None, *item_shape(trunk)])], autograph=False)
        def vectors(images):
            found = pooled(images)
            if not mirror:
                return found
            mirrored = pooled(tf.reverse(images, [2]))
            return {layer: (found[layer] + mirrored[layer]) / 2 for layer in pools}

        def pooled(images):
            endpoints = trunk(images, training=False)
            return {layer: pool(endpoints[layer]) for layer, pool in pools.items()}

        self._vectors = vectors
        shapes = vectors.get_concrete_function().structured_outputs
        self._all_dims = {layer: int(shapes[layer].shape[-1]) for layer in pools}
        self.dims = {layer: self._all_dims[layer] for layer in self.layers}

    def __call__(self, images) -> dict:
        """{layer: (b, dim) float32} of all layers, for (b, r, r, 3) float32 images in [0, 1]."""
        return self._vectors(images)

    def over(self, frozen, split, batch_size, what) -> Iterator[tuple[int, dict]]:
        """Yields (first position, {own layer: (b, dim) tensor}) over a split, with progress."""
        own = own_batches(len(split.rows), batch_size, self._world)
        crop = frozen.resolution, frozen.short_side
        images = split.images(batch_size, *crop, own, frozen.interpolation)
        enabled = self._world.rank == 0
        with split.errors(), Progress(len(split.rows), what, "images", enabled) as progress:
            for vectors in self.in_turn(images, len(split.rows), batch_size):
                yield progress.done, vectors
                progress.update(min(batch_size, len(split.rows) - progress.done))

    def in_turn(self, own_images, rows, batch_size) -> Iterator[dict]:
        """Yields {own layer: (b, dim) tensor} for all batches; each worker computes some of them.

        Args:
            own_images: iterable of this worker's batches in order, see `own_batches`.
            rows: total number of images.
            batch_size: size of all batches but the last, which may be shorter.
        """
        images, world = iter(own_images), self._world
        starts = range(0, rows, batch_size)
        for first in range(0, len(starts), world.size):
            mine = first + world.rank < len(starts)
            computed = self(next(images)) if mine else {}
            for root, start in enumerate(starts[first : first + world.size]):
                count = min(batch_size, rows - start)
                yield self._broadcast(computed if root == world.rank else None, count, root)

    def _broadcast(self, computed, count, root):
        """Broadcasts the vectors of worker `root`; returns those of this worker's layers."""
        received = {}
        for layer, dim in self._all_dims.items():
            own = tf.zeros([count, dim]) if computed is None else computed[layer]
            received[layer] = self._world.broadcast(own, root)
        return {layer: received[layer] for layer in self.layers}


def item_shape(trunk) -> list[int]:
    """Shape of what a network takes, without the batch: an image, or a row of given features."""
    if hasattr(trunk, "item_shape"):
        return trunk.item_shape
    return [trunk.settings["resolution"], trunk.settings["resolution"], 3]


def own_batches(rows: int, batch_size: int, world) -> np.ndarray:
    """(n,) int64 indices in [0, rows) of this worker's batches: every `world.size`-th batch."""
    places = np.arange(rows)
    return places[places // batch_size % world.size == world.rank]


class FeatureCache:
    """Arrays in memory up to a bound, then in files of a folder that is removed on exit.

    with FeatureCache("/scratch") as cache: ...
    """

    def __init__(self, folder=None, memory_bytes=MEMORY_BYTES):
        """Prepares.

        Args:
            folder: folder for files; by default $DC_TF_SCRATCH or the system's temporary folder.
            memory_bytes: total size of the arrays that are kept in memory.
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

    def array(self, shape, dtype) -> np.ndarray:
        """A new (n, d) array, or a memory map beyond the bound.

        Raises:
            ConfigError: the disk is too small for it.
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


def extract(
    extractor, frozen, split, cache, batch_size=256, dtype="float32", what="features"
) -> dict:
    """Features of all rows of a split.

    Args:
        extractor: Extractor.
        frozen: models.FrozenModel.
        split: splits.Split.
        cache: FeatureCache for the arrays.
        batch_size: images per batch.
        dtype: "float32", or "float16" with values clipped to its range.
        what: title of the progress.

    Returns:
        {own layer: (n, dim) array}.
    """
    rows = len(split.rows)
    arrays = {layer: cache.array((rows, dim), dtype) for layer, dim in extractor.dims.items()}
    for start, vectors in extractor.over(frozen, split, batch_size, what):
        for layer, values in vectors.items():
            arrays[layer][start : start + len(values)] = storable(values, dtype)
    return arrays


def extract_cells(frozen, splits, layers, protocol, cache, world=ALONE) -> list[dict]:
    """For each split, {own layer: (n, dim) float32 array} of maps averaged over cells.

    Args:
        splits: (training split, test split).
        protocol: Protocol with `cells` and `batch_size`.
    """
    extractor = cell_extractor(frozen.trunk, layers, protocol.cells, world)
    return [
        extract(
            extractor,
            frozen,
            split,
            cache,
            protocol.batch_size,
            what=f"{frozen.name}: features of {name} images",
        )
        for name, split in zip(("train", "test"), splits, strict=True)
    ]


def cell_extractor(trunk, layers, cells, world=ALONE, mirror=False) -> Extractor:
    """Extractor of maps averaged over `cells` x `cells` cells, and of unchanged vectors."""
    pools = dict.fromkeys(layers, cell_average(cells))
    return Extractor(trunk, pools, world, mirror)


def storable(values, dtype) -> np.ndarray:
    """A tensor as an array; for "float16", clipped to its range."""
    values = values.numpy()
    return np.clip(values, -_HALF_MAX, _HALF_MAX) if dtype == "float16" else values


def directions(features, mean) -> np.ndarray:
    """(n, d) float32 rows minus the (d,) mean, scaled to length 1; zero rows stay zero."""
    centred = np.asarray(features, np.float32) - mean
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    return np.ascontiguousarray(centred / np.maximum(length, np.finfo(np.float32).tiny))


def parse_layers(names, known) -> tuple[str, ...]:
    """Layers in the network's order, from names or "all".

    Args:
        names: of layers.
        known: all layers of the network.

    Raises:
        ConfigError: a name is unknown, or there is none.
    """
    names = [name.strip() for name in names if name.strip()]
    unknown = sorted(set(names) - {*known, "all"})
    if unknown or not names:
        raise ConfigError(
            f"the layer is {', '.join(unknown) or 'missing'}; use 'all' or some of "
            f"{', '.join(known)}."
        )
    return tuple(known) if "all" in names else tuple(name for name in known if name in names)
