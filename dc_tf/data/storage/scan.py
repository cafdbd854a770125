"""Scans TFRecord files for the offset of each record and for bad records.

index, checksum, bad = scan_shard("train-00000-of-01024", Features())
repair("/data/mine")          # rebuilds missing or corrupt indexes
"""

import functools
import hashlib
import io
import typing

from PIL import Image

from dc_tf.data.storage import files, schema, tfrecord
from dc_tf.data.storage.manifest import Dataset, checksum, encode_index
from dc_tf.data.storage.processes import map_shards
from dc_tf.errors import ConfigError, DataError
from dc_tf.progress import Progress

_FORMATS = ("JPEG", "PNG", "GIF", "BMP")  # those that TensorFlow decodes
_MAX_PIXELS = 100_000_000


class Scanned(typing.NamedTuple):
    """Result of a shard's scan.

    Attributes:
        index: list of (offset, length, label) of the valid records.
        checksum: str, over their payloads.
        bad: list of (offset, reason).
    """

    index: list
    checksum: str
    bad: list


def scan_shards(paths, features) -> list[Scanned]:
    """`scan_shard` of each path; the work of one process."""
    return [scan_shard(path, features) for path in paths]


def scan_shard(path, features) -> Scanned:
    """Reads all records of a TFRecord file: Scanned."""
    index, bad, digest = [], [], hashlib.sha256()
    for offset, record, fault in tfrecord.scan(path):
        if fault is None:
            label, fault = _check_record(record, features)
        if fault is None:
            index.append((offset, len(record), label))
            digest.update(record)
        else:
            bad.append((offset, fault))
    return Scanned(index, checksum(digest), bad)


def repair(path, workers=None, progress=True) -> dict:
    """Rebuilds the missing or corrupt indexes of a data set.

    Returns:
        dict: output, rows, shards, repaired (names of shards).

    Raises:
        ConfigError: it is a view, which has no indexes.
        DataError: a shard's content differs from the manifest, so its rows are unknown.
    """
    dataset = Dataset.open(path)
    if dataset.base is not None:
        raise ConfigError(
            f"{path} is a view of {dataset.base.path} and has no indexes of its own; "
            f"`dc_tf index --input={dataset.base.path}` rebuilds those of that data set."
        )
    broken = [number for number in range(len(dataset.shards)) if not _has_index(dataset, number)]
    paths = [dataset.shard_path(number) for number in broken]
    scan = functools.partial(scan_shards, features=dataset.features)
    total = sum(dataset.shards[number].bytes for number in broken)
    with Progress(len(broken), "index", "shards", enabled=progress) as bar:
        for number, scanned in zip(broken, map_shards(scan, paths, total, workers), strict=True):
            shard = dataset.shards[number]
            if (len(scanned.index), scanned.checksum) != (shard.rows, shard.checksum):
                raise DataError(
                    f"{dataset.shard_path(number)} has {len(scanned.index)} valid records that are "
                    f"not the {shard.rows} of the manifest, so its index cannot be rebuilt; "
                    f"restore the shard."
                )
            index = encode_index(scanned.index)
            files.write_file(
                dataset.index_path(number), lambda file, index=index: file.write(index)
            )
            bar.update(1)
    return {
        "output": path,
        "rows": dataset.rows,
        "shards": len(dataset.shards),
        "repaired": [dataset.shards[number].name for number in broken],
    }


def _check_record(record, features):
    """(label, None) of a valid record, or (None, fault)."""
    try:
        image, label = schema.image_and_label(record, features)
        with Image.open(io.BytesIO(image)) as header:  # reads no pixels
            if header.format not in _FORMATS:
                return None, f"holds a {header.format}; TensorFlow decodes {', '.join(_FORMATS)}"
            if header.width * header.height > _MAX_PIXELS:
                return None, f"holds an image of {header.width}x{header.height} pixels"
    except Exception as error:  # Pillow raises any exception on a corrupt header.
        return None, f"cannot be used: {error}"
    return schema.NO_LABEL if label is None else label, None


def _has_index(dataset, number):
    try:
        dataset.index(number)
    except DataError:
        return False
    return True
