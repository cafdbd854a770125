"""Batches of images by row id, for training (augmented, with labels) and for extraction.

    batches = training_batches(reader, draws, batch_size=48, size=224, start_step=1200)
    for batch in batches:          # image (48, 224, 224, 3), super_id (48,), sub_id (48,)
        ...

Records are read a batch at a time, decoded in parallel and delivered in order: step t gives the
same images to the bit whatever the number of threads and wherever the run was resumed.
"""

import re
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from dc_tf.data import augment, schema
from dc_tf.data.reader import read_rows
from dc_tf.errors import ConfigError, DataError

_READS_AHEAD = 2


class Draws(NamedTuple):
    """What one worker sees in one epoch, in order; arrays of equal length n.

    Attributes:
        row: (n,) int64 row ids.
        rotation: (n,) int32 quarter turns, counter-clockwise.
        super_id: (n,) int32 super-class.
        sub_id: (n,) int32 sub-class inside it.
        seed: (n, 2) int32 seeds of the augmentation.
    """

    row: np.ndarray
    rotation: np.ndarray
    super_id: np.ndarray
    sub_id: np.ndarray
    seed: np.ndarray


def training_batches(
    reader,
    draws,
    batch_size,
    size,
    min_area=0.08,
    max_ratio=4 / 3,
    flip=True,
    start_step=0,
    threads=None,
    prefetch=2,
):
    """Augmented, rotated images with their labels, for one epoch of one worker.

    Args:
        reader: RowReader.
        draws: Draws; what does not fill a last batch is left out.
        batch_size: int, images a step.
        size: int, side of the images in pixels.
        min_area: of the random crop, see `augment.random_resized_crop`.
        max_ratio: of the random crop.
        flip: whether to mirror half of the images.
        start_step: int, steps to skip; they are neither read nor decoded.
        threads: int, threads that decode; None lets TensorFlow choose.
        prefetch: int, batches kept ready.

    Returns:
        tf.data.Dataset of dict: image (batch, size, size, 3) float32 in [0, 1], super_id (batch,)
        int32, sub_id (batch,) int32. Iterating raises a TensorFlow error that names row, shard and
        offset where an image cannot be read; `reader.data_errors` makes it a DataError.

    Raises:
        ConfigError: no full batch, or draws of unequal lengths.
    """
    _check_draws(draws, batch_size)
    steps = len(draws.row) // batch_size

    def prepare(item):
        image = augment.random_resized_crop(
            item.pop("encoded"), size, item.pop("seed"), min_area, max_ratio, flip
        )
        return {"image": augment.rotate(image, item.pop("rotation")), **item}

    def drop_row(batch):
        batch.pop("row")
        return {name: _fix_batch(tensor, batch_size) for name, tensor in batch.items()}

    batches = _batches(reader, draws._asdict(), batch_size, prepare, (start_step, steps), threads)
    return _with_options(batches.map(drop_row).prefetch(prefetch), threads)


def evaluation_batches(reader, row_ids, batch_size, size, short_side, threads=None, prefetch=2):
    """Images as they are, centre-cropped, in order; the last batch may be short.

    Args:
        reader: RowReader.
        row_ids: (n,) integers.
        batch_size: int, most images in a batch.
        size: int, side of the images in pixels.
        short_side: int, length in pixels that the short side is brought to before the crop.
        threads: int, threads that decode; None lets TensorFlow choose.
        prefetch: int, batches kept ready.

    Returns:
        tf.data.Dataset of dict: row (b,) int64, image (b, size, size, 3) float32 in [0, 1], label
        (b,) int32 with -1 for none. Errors as in `training_batches`.

    Raises:
        ConfigError: `short_side` is less than `size`.
    """
    if short_side < size:
        raise ConfigError(f"short_side is {short_side}; a crop of {size} needs at least {size}.")
    row_ids = np.asarray(row_ids, np.int64)
    _, entries = reader.dataset.locate(row_ids)
    columns = {"row": row_ids, "label": entries[:, 2].astype(np.int32)}

    def prepare(item):
        return {"image": augment.center_crop(item.pop("encoded"), size, short_side), **item}

    span = (0, -(-len(row_ids) // batch_size))
    batches = _batches(reader, columns, batch_size, prepare, span, threads)
    return _with_options(batches.prefetch(prefetch), threads)


def _batches(reader, columns, batch_size, prepare, span, threads):
    """Reads, prepares image by image, batches, and checks that no image went missing.

    Args:
        reader: RowReader.
        columns: dict of name to (n, ...) array, among them `row`. They stay in NumPy, so an epoch
            of any length costs the graph nothing.
        batch_size: int.
        prepare: function of one item (dict of columns and `encoded`) to a dict that keeps `row`.
        span: (first step, step to stop before).
        threads: int or None.

    Returns:
        tf.data.Dataset of dict, one a step, in order.
    """
    first, stop = span
    calls = threads or tf.data.AUTOTUNE
    batches = tf.data.Dataset.range(first, stop)
    batches = batches.map(_slicer(columns, batch_size))
    batches = batches.map(_reading(reader), num_parallel_calls=_READS_AHEAD, deterministic=True)
    items = batches.unbatch().map(prepare, num_parallel_calls=calls, deterministic=True)
    # A failure inside TensorFlow cannot say which image it was. So failures are dropped here, and
    # the check below sees by its row id which image is missing and finds out why.
    whole = items.ignore_errors().batch(batch_size)
    # One batch more, an empty one: it makes a last batch that failed as a whole show.
    empty = tf.nest.map_structure(_empty_like, whole.element_spec)
    whole = whole.concatenate(tf.data.Dataset.from_tensors(empty)).enumerate(first)
    return whole.map(_checking(reader, columns["row"], batch_size)).take(stop - first)


def _checking(reader, row_ids, batch_size):
    """A function of (step, batch) to the batch; it raises where an image of the step is missing."""

    def explain(step, arrived):
        expected = row_ids[int(step) * batch_size : (int(step) + 1) * batch_size]
        if np.array_equal(arrived, expected):
            return np.int64(len(arrived))
        reader.read(expected)  # A record that cannot be read loses its whole step, and raises here.
        missing = next(
            row for place, row in enumerate(expected) if list(arrived[place : place + 1]) != [row]
        )
        raise DataError(_why_unreadable(reader, int(missing)))

    def check(step, batch):
        # Stateful, or the graph optimiser takes it out: nothing uses its result.
        count = tf.numpy_function(explain, [step, batch["row"]], tf.int64, stateful=True)
        with tf.control_dependencies([count]):
            return {name: tf.identity(tensor) for name, tensor in batch.items()}

    return check


def _why_unreadable(reader, row_id):
    place = reader.dataset.describe(row_id)
    encoded = schema.decode_example(reader.read([row_id])[0])["encoded"]
    try:
        tf.io.decode_image(encoded, channels=3, expand_animations=False)
    except tf.errors.OpError as error:
        cause = re.sub(r"\{\{.*?\}\} ?|\[Op:.*", "", error.message.splitlines()[0]).strip()
        return f"The image of {place} cannot be decoded: {cause}"
    return f"The image of {place} cannot be prepared, although it can be decoded."


def _slicer(columns, batch_size):
    """A function of a step to the dict of that step's part of each column."""
    names = list(columns)

    def cut(step):
        part = slice(int(step) * batch_size, (int(step) + 1) * batch_size)
        return [np.ascontiguousarray(columns[name][part]) for name in names]

    def slice_step(step):
        types = [tf.as_dtype(columns[name].dtype) for name in names]
        parts = tf.numpy_function(cut, [step], types, stateful=False)
        for part, name in zip(parts, names, strict=True):
            part.set_shape([None, *columns[name].shape[1:]])
        return dict(zip(names, parts, strict=True))

    return slice_step


def _reading(reader):
    read = read_rows(reader)

    def add_encoded(columns):
        return {"encoded": schema.parse_example(read(columns["row"]))["encoded"], **columns}

    return add_encoded


def _empty_like(spec):
    return tf.zeros([0, *spec.shape[1:]], spec.dtype)


def _fix_batch(tensor, batch_size):
    return tf.ensure_shape(tensor, [batch_size, *tensor.shape[1:]])


def _with_options(dataset, threads):
    options = tf.data.Options()
    options.deterministic = True
    # Each worker makes its own batches already.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    if threads is not None:
        options.threading.private_threadpool_size = threads
    return dataset.with_options(options)


def _check_draws(draws, batch_size):
    lengths = {name: len(array) for name, array in draws._asdict().items()}
    if len(set(lengths.values())) != 1:
        raise ConfigError(f"The arrays of the draws differ in length: {lengths}.")
    if len(draws.row) < batch_size:
        raise ConfigError(
            f"A batch of {batch_size} needs as many draws, but this worker's epoch has "
            f"{len(draws.row)}; use a smaller batch, fewer workers or more images."
        )
