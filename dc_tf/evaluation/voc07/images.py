"""Input pipelines of VOC images, and VOC labels for linear classifiers.

images = random_crops(split, places, seeds, batch_size=16, size=224)
labelled = MultiLabelSplit.of(split)          # replaces a splits.Split
"""

import contextlib
import dataclasses
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from dc_tf.data.input import augment
from dc_tf.data.input.pipeline import with_options
from dc_tf.data.storage.processes import cores
from dc_tf.data.voc.devkit import VocSplit, read_splits
from dc_tf.errors import ConfigError, DataError
from dc_tf.evaluation.paper import Facts, voc_data


def open_voc(request, names) -> list[VocSplit]:
    """The splits of the development kit that `--train` names.

    Raises:
        ConfigError, DataError: as in `read_splits`; also ConfigError if `--test` is given.
    """
    if not request.train:
        raise ConfigError("--train is missing; give a VOC development kit, such as VOCdevkit.")
    if request.test:
        raise ConfigError(
            f"--test is {request.test!r}, but the VOC development kit in --train also holds the "
            "test images; leave --test out, and choose lists with train_split and test_split."
        )
    splits = read_splits(request.train, dict.fromkeys(names))
    return [next(split for split in splits if split.name == name) for name in names]


def voc_facts(train: VocSplit, test: VocSplit) -> Facts:
    """Facts by which the paper's VOC 2007 is recognised."""
    counts = ((split.name, len(split)) for split in (train, test))
    return voc_data(train.classes, *counts)


def random_crops(split, places, seeds, batch_size, size) -> tf.data.Dataset:
    """Random resized crops, half of them mirrored, as in training; the last batch may be short.

    Args:
        split: VocSplit.
        places: (n,) integers, indices of images in the split; repeats allowed.
        seeds: (n, 2) int32, seeds of the crops.
        batch_size: images per batch.
        size: int, side in pixels.

    Returns:
        tf.data.Dataset of (b, size, size, 3) float32 in [0, 1]; iterate it inside `image_errors`.
    """
    paths = tf.constant(split.images)
    columns = np.asarray(places, np.int32), np.asarray(seeds, np.int32)

    def prepare(place, seed):
        return augment.random_resized_crop(tf.io.read_file(paths[place]), size, seed)

    return _batches(columns, prepare, batch_size)


def center_crops(
    split, batch_size, size, short_side, places=slice(None), interpolation="bilinear"
) -> tf.data.Dataset:
    """Centre crops of the images, or of those selected by `places`; else as `random_crops`."""

    def prepare(path):
        return augment.center_crop(tf.io.read_file(path), size, short_side, interpolation)

    return _batches((np.array(split.images)[places],), prepare, batch_size)


@contextlib.contextmanager
def image_errors(split) -> Iterator[None]:
    """Turns TensorFlow's errors on reading an image into a DataError that names the file."""
    try:
        yield
    except tf.errors.OpError as error:
        for path in split.images:
            try:
                tf.io.decode_image(tf.io.read_file(path), 3, expand_animations=False)
            except tf.errors.OpError as cause:
                raise DataError(
                    f"the image {path} cannot be read ({cause.message}); unpack the development "
                    "kit again."
                ) from error
        raise


@dataclasses.dataclass(frozen=True)
class MultiLabelSplit:
    """The interface of `splits.Split` for images with several labels.

    Attributes:
        path: path and list name, for messages.
        rows: (n,) int64, 0..n-1.
        labels: (n, classes) int8: 1 present, 0 absent, -1 ignored.
        classes: number of classes.
        split: VocSplit.
    """

    path: str
    rows: np.ndarray
    labels: np.ndarray
    classes: int
    split: VocSplit

    @classmethod
    def of(cls, split: VocSplit) -> "MultiLabelSplit":
        """The labels of a VocSplit."""
        path = f"{split.path} ({split.name})"
        return cls(path, np.arange(len(split)), split.presence(), len(split.classes), split)

    def images(
        self, batch_size, resolution, short_side, places=slice(None), interpolation="bilinear"
    ) -> tf.data.Dataset:
        """Centre crops in the order of `rows`; see `Split.images`."""
        return center_crops(self.split, batch_size, resolution, short_side, places, interpolation)

    def augmented(self, places, seeds, batch_size, resolution) -> tf.data.Dataset:
        """Random crops in full batches only; see `Split.augmented`."""
        crops = random_crops(self.split, places, seeds, batch_size, resolution)
        return crops.take(len(places) // batch_size)

    def errors(self) -> contextlib.AbstractContextManager:
        """See `image_errors`."""
        return image_errors(self.split)


def _batches(columns, prepare, batch_size):
    items = tf.data.Dataset.from_tensor_slices(columns)
    items = items.map(prepare, num_parallel_calls=cores(), deterministic=True)
    return with_options(items.batch(batch_size).prefetch(2))
