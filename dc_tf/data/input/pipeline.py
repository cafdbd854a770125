"""Batches of images by row id, for training (augmented, with labels) and for extraction.

    batches = training_batches(reader, draws, batch_size=48, size=224, start_step=1200)
    for batch in batches:          # image (48, 224, 224, 3), super_id (48,), sub_id (48,)
        ...

Records are read a batch at a time, decoded in parallel and delivered in order: the images of step t
are bitwise equal for any number of threads and after any resume, also with corrupt rows (see
`storage.fallback_rows`).
"""

import numpy as np
import tensorflow as tf

from dc_tf.data.input import augment
from dc_tf.data.input.photometric import Photometric
from dc_tf.data.input.views import Views, make_views
from dc_tf.data.storage import schema
from dc_tf.data.storage.fallback_rows import FallbackRows
from dc_tf.data.storage.processes import cores
from dc_tf.data.storage.reader import CorruptRow
from dc_tf.errors import ConfigError, DataError

_READS_AHEAD = 2
# Control flow uses TensorFlow ops already; AutoGraph takes a third of an epoch's start-up time.
_without_autograph = tf.autograph.experimental.do_not_convert


@_without_autograph
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
    photometric=Photometric(),  # noqa: B008
    views=Views(),  # noqa: B008
) -> tf.data.Dataset:
    """Augmented, rotated images with their labels, for one epoch of one worker.

    Args:
        reader: RowReader, where a corrupt row is an error, or FallbackRows.
        draws: Draws, or another NamedTuple of arrays with row, rotation and seed; its other columns
            are labels. Draws beyond the last full batch are dropped.
        batch_size: int, images per step.
        size: int, side of the images in pixels.
        min_area: of the random crop, see `augment.random_resized_crop`.
        max_ratio: of the random crop.
        flip: whether to flip half of the images.
        start_step: int, steps to skip without reading or decoding.
        threads: int, threads that decode; None for one a core.
        prefetch: int, batches kept ready.
        photometric: Photometric, changes of the colours.
        views: Views of each image.

    Returns:
        tf.data.Dataset of dict: image (batch, size, size, 3) float32 in [0, 1], or image and
        local_image of several views as of `views.make_views`, behind the batch; and each column of
        labels, for Draws super_id (batch,) int32 and sub_id (batch,) int32. Iterating raises a
        TensorFlow error that names row, shard and offset if an image cannot be read or too many
        are corrupt (`FallbackRows`); `reader.data_errors` converts it to a DataError.

    Raises:
        ConfigError: there is no full batch, or the draws differ in length.
    """
    _check_draws(draws, batch_size)
    steps = len(draws.row) // batch_size

    def prepare(item):
        drawn = (item.pop(name) for name in ("encoded", "seed", "rotation"))
        images = make_views(*drawn, size, min_area, max_ratio, flip, views, photometric)
        return {**images, **item}

    def fix_shapes(batch):
        del batch["row"]
        return {name: _fix_batch(tensor, batch_size) for name, tensor in batch.items()}

    batches = _batches(reader, draws._asdict(), batch_size, prepare, (start_step, steps), threads)
    return with_options(batches.map(fix_shapes).prefetch(prefetch), threads)


@_without_autograph
def evaluation_batches(
    reader,
    row_ids,
    batch_size,
    size,
    short_side,
    threads=None,
    prefetch=2,
    interpolation="bilinear",
) -> tf.data.Dataset:
    """Centre-cropped images without augmentation, in order; the last batch may be smaller.

    Args:
        reader: RowReader, where a corrupt row is an error, or FallbackRows.
        row_ids: (n,) integers.
        batch_size: int, largest number of images per batch.
        size: int, side of the images in pixels.
        short_side: int, length in pixels of the short side after resizing, before the crop; 0 for
            the whole image without a crop.
        threads: int, threads that decode; None for one a core.
        prefetch: int, batches kept ready.
        interpolation: as of `augment.center_crop`.

    Returns:
        tf.data.Dataset of dict: row (b,) int64, image (b, size, size, 3) float32 in [0, 1], label
        (b,) int32 with -1 for none. Errors as in `training_batches`.

    Raises:
        ConfigError: `short_side` is less than `size`.
    """
    if 0 < short_side < size:
        raise ConfigError(f"short_side is {short_side}; a crop of {size} needs at least {size}.")
    row_ids = np.asarray(row_ids, np.int64)
    _, entries = reader.dataset.locate(row_ids)
    columns = {"row": row_ids, "label": entries[:, 2].astype(np.int32)}

    crop = size, short_side, interpolation

    def prepare(item):
        return {"image": augment.center_crop(item.pop("encoded"), *crop), **item}

    span = (0, -(-len(row_ids) // batch_size))
    batches = _batches(reader, columns, batch_size, prepare, span, threads)
    return with_options(batches.prefetch(prefetch), threads)


def with_options(dataset, threads=None) -> tf.data.Dataset:
    """Sets the options of one worker's pipeline: deterministic order, own thread pool."""
    options = tf.data.Options()
    options.deterministic = True
    # Each worker builds its own batches already.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    # Destroying an iterator waits for its autotune thread, which may sleep for up to a minute; all
    # workers would wait with it.
    options.autotune.enabled = False
    if threads is not None:
        options.threading.private_threadpool_size = threads
    return dataset.with_options(options)


def _batches(reader, columns, batch_size, prepare, span, threads):
    """Reads, prepares and batches images; images that fail are replaced by fallback rows.

    Args:
        reader: RowReader, where a corrupt row is an error, or FallbackRows.
        columns: dict of name to (n, ...) array, including `row`. They stay in NumPy, so the graph
            does not grow with the epoch.
        batch_size: int.
        prepare: function of one item (dict of columns and `encoded`) to a dict without `encoded`.
        span: (first step, step to stop before).
        threads: int or None.

    Returns:
        tf.data.Dataset of dict, one per step, in order.
    """
    first, stop = span
    calls = threads or cores()
    rows = columns["row"]
    columns = {**columns, "place": np.arange(len(rows), dtype=np.int64)}
    batches = tf.data.Dataset.range(first, stop).map(_slicer(columns, batch_size))
    batches = batches.map(_reading(reader), num_parallel_calls=_READS_AHEAD, deterministic=True)
    items = batches.unbatch().map(prepare, num_parallel_calls=calls, deterministic=True)
    # A TensorFlow error does not identify its image. So errors are dropped here, and the gaps that
    # they leave in `place` are filled below.
    whole = items.ignore_errors().batch(batch_size)
    span = first * batch_size, min(stop * batch_size, len(rows))
    prepare_place = _preparing(reader, columns, prepare)
    return _fill_gaps(whole, span, batch_size, prepare_place).rebatch(batch_size)


def _fill_gaps(batches, span, batch_size, prepare_place):
    """Completes batches from which items are missing.

    Args:
        batches: tf.data.Dataset of dict of (b, ...) tensors, including `place`, ascending.
        span: (first, stop), the range of expected places.
        batch_size: int, largest number of items per batch.
        prepare_place: function of a place to its item.

    Returns:
        tf.data.Dataset of dict without `place`, in order. Complete batches pass unchanged.
    """
    first, stop = (np.int64(place) for place in span)
    spec = batches.element_spec

    def begin_and_end(begin, batch):
        end = tf.cond(tf.size(batch["place"]) > 0, lambda: batch["place"][-1] + 1, lambda: stop)
        return end, (begin, end, batch)

    def pieces(begin, end, batch):
        complete = tf.equal(tf.size(batch["place"], tf.int64), end - begin)

        def piece(start):
            places = tf.range(start, tf.minimum(start + batch_size, end))
            return tf.cond(complete, lambda: dict(batch), lambda: filled(places, batch))

        return tf.data.Dataset.range(begin, end, batch_size).map(piece)

    def filled(places, batch):
        types = [spec[name].dtype for name in spec]
        # In NumPy: gaps are rare, and a graph would be traced again in each epoch.
        parts = tf.numpy_function(fill, [places, *(batch[name] for name in spec)], types)
        for part, name in zip(parts, spec, strict=True):
            part.set_shape(spec[name].shape)
        return dict(zip(spec, parts, strict=True))

    def fill(places, *parts):
        batch = dict(zip(spec, parts, strict=True))
        return _items_at(places.tolist(), batch, prepare_place)

    # An empty batch at the end reveals the items missing after the last batch.
    empty = tf.nest.map_structure(_empty_like, spec)
    batches = batches.concatenate(tf.data.Dataset.from_tensors(empty))
    batches = batches.scan(first, begin_and_end).flat_map(pieces)
    return batches.map(lambda batch: {k: v for k, v in batch.items() if k != "place"})


def _items_at(places, batch, prepare_place) -> list:
    """The columns of a batch, in their order, of the items at some places.

    Args:
        places: list of int.
        batch: dict of (b, ...) arrays, including `place`.
        prepare_place: function of a place to its item, for those that the batch lacks.
    """
    indexes = {place: index for index, place in enumerate(batch["place"].tolist())}
    items = [
        {name: part[indexes[place]] for name, part in batch.items()}
        if place in indexes
        else prepare_place(place)
        for place in places
    ]
    return [np.stack([item[name] for item in items]) for name in batch]


def _preparing(reader, columns, prepare):
    """A function of a place to its prepared item, from its row's image or the fallback row's."""

    rows = reader if isinstance(reader, FallbackRows) else FallbackRows(reader, max_share=0.0)

    def prepare_place(place):
        item = {name: tf.constant(column[place]) for name, column in columns.items()}
        row = int(item["row"])
        image = rows.image(row)
        try:
            return prepare({"encoded": image, **item})
        except tf.errors.OpError as error:
            raise DataError(
                f"the image of {reader.dataset.describe(row)}, or of its fallback row, can be "
                f"decoded but not prepared ({error.message.splitlines()[0]}); leave the row "
                "out with `dc_tf curate --drop_rows`."
            ) from error

    return prepare_place


def _slicer(columns, batch_size):
    """A function of a step to the dict of that step's slice of each column."""
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
    """A function that adds `encoded` to a batch of columns; empty for corrupt records."""

    def read_good(row_ids):
        try:
            records = reader.read(row_ids)
        except CorruptRow:
            records = reader.read(row_ids, corrupt=b"")
        return np.array(records, object)  # TensorFlow would take a list for several results

    def add_encoded(columns):
        records = tf.numpy_function(read_good, [columns["row"]], tf.string, stateful=False)
        records = tf.ensure_shape(records, columns["row"].shape)
        return {"encoded": schema.parse_images(records, reader.dataset.features), **columns}

    return add_encoded


def _empty_like(spec):
    return tf.zeros([0, *spec.shape[1:]], spec.dtype)


def _fix_batch(tensor, batch_size):
    return tf.ensure_shape(tensor, [batch_size, *tensor.shape[1:]])


def _check_draws(draws, batch_size):
    lengths = {name: len(array) for name, array in draws._asdict().items()}
    if len(set(lengths.values())) != 1:
        raise ConfigError(
            f"the arrays of the draws differ in length: {lengths}; give equal lengths."
        )
    if len(draws.row) < batch_size:
        raise ConfigError(
            f"a batch of {batch_size} needs as many draws, but this worker's epoch has "
            f"{len(draws.row)}; use a smaller batch, fewer workers or more images."
        )
