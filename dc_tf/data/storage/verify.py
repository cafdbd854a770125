"""Comparing a data set with what was written: every record, checksum, label and index.

for fault in verify(Dataset.open("/data/mine")):
    fault.shard, fault.offset, fault.reason
"""

import dataclasses
import functools
import hashlib
import os

from dc_tf.data.storage import schema, tfrecord
from dc_tf.data.storage.files import size_of
from dc_tf.data.storage.manifest import Dataset, checksum
from dc_tf.data.storage.processes import map_shards
from dc_tf.errors import DataError
from dc_tf.progress import Progress


@dataclasses.dataclass(frozen=True)
class CorruptShard:
    """What is wrong with a shard.

    Attributes:
        shard: its name in the manifest.
        rows: rows of it that cannot be used; of these, the others are good.
        offset: of the first of them in bytes, or None where it is not about a record.
        reason: str.
    """

    shard: str
    rows: int
    offset: int | None
    reason: str


def verify(dataset, workers=None, progress=True):
    """Reads everything.

    Args:
        dataset: Dataset.
        workers: processes; None: one for each core.
        progress: whether to show progress.

    Yields:
        CorruptShard, one for each shard that is not what was written, as it is found.
    """
    numbers = list(range(len(dataset.shards)))
    total = sum(shard.bytes for shard in dataset.shards)
    check = functools.partial(check_shards, path=dataset.path)
    found, bad = map_shards(check, numbers, total, workers), 0
    with Progress(dataset.rows, "verify", "rows", enabled=progress) as bar:
        for shard, fault in zip(dataset.shards, found, strict=True):
            bad += fault is not None
            bar.update(shard.rows, bad_shards=bad)
            if fault is not None:
                yield fault


def check_shards(numbers, path):
    """`check_shard` for some shards of the data set in `path`: the work of one process."""
    dataset = Dataset.open(path)
    return [check_shard(dataset, number) for number in numbers]


def check_shard(dataset, number):
    """What is wrong with a shard: CorruptShard, or None."""
    shard, path = dataset.shards[number], dataset.shard_path(number)
    try:
        entries = {offset: rest for offset, *rest in dataset.index(number).tolist()}
        size = size_of(path)
        bad, digest = _compare(path, entries, dataset.features)
    except (OSError, DataError) as error:
        return CorruptShard(shard.name, shard.rows, None, f"cannot be read: {error}")
    if bad:
        return CorruptShard(shard.name, len(bad), *bad[0])
    if size != shard.bytes:
        return CorruptShard(
            shard.name, 0, None, f"has {size} bytes; the manifest says {shard.bytes}"
        )
    if len(entries) != shard.rows or checksum(digest) != shard.checksum:
        # Every record is whole in itself: it is another one, or they were put together anew.
        return CorruptShard(
            shard.name, shard.rows, None, "is not what was written: its checksum differs"
        )
    return None


def _compare(path, entries, features):
    """List of (offset, reason) of the rows in `entries` that are bad, and a digest of the good."""
    bad, digest, fault_behind = [], hashlib.sha256(), "is not where the index says"
    missing = dict(entries)
    for offset, record, fault in tfrecord.scan(path):
        if fault is not None:
            fault_behind = fault  # if it is the last, what is behind it could not be found
        if missing.pop(offset, None) is None:
            continue  # left out when it was adopted
        fault = fault or _difference(record, *entries[offset], features)
        if fault:
            bad.append((offset, fault))
        else:
            digest.update(record)
    return sorted(bad + [(offset, fault_behind) for offset in missing]), digest


def _difference(record, length, label, features):
    """How a record differs from its index entry: str, or None."""
    try:
        _, stored = schema.image_and_label(record, features)
    except ValueError as error:
        return str(error)
    stored = schema.NO_LABEL if stored is None else stored
    if (len(record), stored) != (length, label):
        return (
            f"has {len(record)} bytes and label {stored}; the index says {length} and {label}: the "
            "index is corrupt"
        )
    return None


def describe(fault, folder):
    """One line about a CorruptShard."""
    where = "" if fault.offset is None else f", {fault.rows} rows, the first at {fault.offset}"
    return f"{os.path.join(folder, fault.shard)}{where}: {fault.reason}"
