"""The built-in data set: procedural upright scenes with long-tailed classes and metadata.

    generate("/tmp/scenes", images=4000, size=64, seed=0)
    generate("/tmp/scenes_test", images=1000, size=64, seed=0, split="test")

Classes are numbered by frequency, which falls as 1 / rank. Picture i depends only on (seed, split,
i), not on the number of pictures or processes, and the splits share no picture.
"""

import functools
import io
import itertools
import os
import typing

import numpy as np
from PIL import Image

from dc_tf.data.storage.processes import cores, map_lists
from dc_tf.data.synthetic.objects import OBJECTS
from dc_tf.data.synthetic.photo_metadata import PhotoSite
from dc_tf.data.synthetic.scenes import scene
from dc_tf.errors import ConfigError
from dc_tf.progress import Progress

SPLITS = ("train", "test")
CLASS_NAMES = tuple(OBJECTS)
_CHUNK = 64  # pictures per task of a process


class Picture(typing.NamedTuple):
    """One generated row.

    Attributes:
        encoded: bytes, JPEG.
        label: int, index into CLASS_NAMES.
        meta: dict of name to str, float or list of str.
    """

    encoded: bytes
    label: int
    meta: dict


def generate(
    output,
    images=4000,
    size=64,
    seed=0,
    split="train",
    classes=None,
    rows_per_shard=1000,
    processes=None,
    overwrite=False,
) -> dict:
    """Writes a data set of generated pictures.

    Args:
        output: folder, new or empty unless `overwrite`.
        images: int, number of pictures.
        size: int, side in pixels.
        seed: int >= 0; determines pictures, users and places.
        split: "train" or "test".
        classes: int, number of most frequent classes to draw; None: all.
        rows_per_shard: int.
        processes: int, drawing processes; None: one per core; 1: draws in this process.
        overwrite: bool, whether to replace a data set in `output`.

    Returns:
        dict of output, rows, shards and class_counts (name to count).

    Raises:
        ConfigError: a setting is out of range, or the output is not empty.
    """
    # Drawing processes import this module and need none of these.
    from dc_tf.data.storage.manifest import Dataset
    from dc_tf.data.storage.writer import DatasetWriter

    classes = len(CLASS_NAMES) if classes is None else classes
    _check(images, size, seed, split, classes)
    names = CLASS_NAMES[:classes]
    writer = DatasetWriter(output, names, rows_per_shard=rows_per_shard, overwrite=overwrite)
    draw = functools.partial(draw_chunk, size=size, seed=seed, split=split, classes=classes)
    starts = range(0, images, _CHUNK)
    chunks = [range(start, min(start + _CHUNK, images)) for start in starts]
    counts = np.zeros(classes, np.int64)
    with writer, Progress(images, "generate", "images") as progress:
        for picture in _drawn(draw, chunks, processes):
            source = f"generated/{split}/{names[picture.label]}-{writer.rows:07d}.jpg"
            writer.write(picture.encoded, picture.label, source, picture.meta)
            counts[picture.label] += 1
            progress.update(1)
    return {
        "output": os.fspath(output),
        "rows": images,
        "shards": len(Dataset.open(output).shards),
        "class_counts": dict(zip(names, counts.tolist(), strict=True)),
    }


def draw_chunk(indices, size, seed, split, classes) -> list[Picture]:
    """Draws the pictures of the given indices: list of Picture."""
    site = _site(seed)
    return [draw_picture(site, index, size, seed, split, classes) for index in indices]


def draw_picture(site, index, size, seed, split, classes) -> Picture:
    """Draws picture `index` of a split; see `generate` for the rest."""
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    frequency = 1 / np.arange(1, classes + 1)
    label = int(rng.choice(classes, p=frequency / frequency.sum()))
    object_name = CLASS_NAMES[label]
    photo = site.take(object_name, rng)
    pixels = scene(object_name, photo.place, photo.hour, size, rng)
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "JPEG", quality=92, subsampling=0)
    return Picture(encoded.getvalue(), label, photo.meta())


@functools.lru_cache(maxsize=1)
def _site(seed):
    return PhotoSite(seed)


def _drawn(draw, chunks, processes):
    """Yields the pictures of all chunks, in order."""
    processes = min(processes or cores(), len(chunks))
    if processes == 1:
        return itertools.chain.from_iterable(map(draw, chunks))
    return map_lists(draw, chunks, processes)


def _check(images, size, seed, split, classes):
    ranges = [
        ("images", images, 1, 100_000_000),
        ("size", size, 32, 512),
        ("seed", seed, 0, 2**32 - 1),
        ("classes", classes, 2, len(CLASS_NAMES)),
    ]
    for name, value, least, most in ranges:
        if not least <= value <= most:
            raise ConfigError(f"{name} is {value}; it must be from {least} to {most}.")
    if split not in SPLITS:
        raise ConfigError(f"split is {split!r}; it must be one of {', '.join(SPLITS)}.")
