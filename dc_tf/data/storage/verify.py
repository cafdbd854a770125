"""Verifies a data set: every record, checksum, label and index.

for fault in verify(Dataset.open("/data/mine")):
    fault.shard, fault.offset, fault.reason
"""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Iterator

from dc_tf.data.storage import schema, tfrecord
from dc_tf.data.storage.files import size_of
from dc_tf.data.storage.manifest import Dataset, checksum
from dc_tf.data.storage.processes import map_shards
from dc_tf.errors import DataError
from dc_tf.progress import Progress


@dataclasses.dataclass(frozen=True)
class CorruptShard:
    """A shard that failed verification.

    Attributes:
        shard: name of the shard in the manifest.
        rows: number of its rows that cannot be used.
        offset: byte offset of the first such row, or None if the fault is not in a record.
        reason: str.
    """

    shard: str
    rows: int
    offset: int | None
    reason: str


def verify(dataset, workers=None, progress=True) -> Iterator[CorruptShard]:
    """Reads all shards and compares them with manifest and indexes.

    Args:
        dataset: Dataset.
        workers: number of processes; None: one per core.
        progress: whether to show progress.

    Yields:
        CorruptShard for each shard that differs from what was written, as soon as it is found.
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


def check_shards(numbers, path) -> list[CorruptShard | None]:
    """`check_shard` of each number, for the data set in `path`; the work of one process."""
    dataset = Dataset.open(path)
    return [check_shard(dataset, number) for number in numbers]


def check_shard(dataset, number) -> CorruptShard | None:
    """Verifies a shard: CorruptShard, or None if it is intact."""
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
        # Every record is valid, so records were replaced, added or removed.
        return CorruptShard(
            shard.name, shard.rows, None, "is not what was written: its checksum differs"
        )
    return None


def _compare(path, entries, features):
    """List of (offset, reason) of the bad rows in `entries`, and a digest of the valid ones."""
    bad, digest, last_fault = [], hashlib.sha256(), "is not where the index says"
    missing = dict(entries)
    for offset, record, fault in tfrecord.scan(path):
        if fault is not None:
            last_fault = fault  # if it ends the scan, it explains the records not found
        if missing.pop(offset, None) is None:
            continue  # a bad record, left out of the index
        fault = fault or _difference(record, *entries[offset], features)
        if fault:
            bad.append((offset, fault))
        else:
            digest.update(record)
    return sorted(bad + [(offset, last_fault) for offset in missing]), digest


def _difference(record, length, label, features):
    """How a record differs from its index entry: str, or None if it does not."""
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


def describe(fault, folder) -> str:
    """A one-line description of a CorruptShard."""
    where = "" if fault.offset is None else f", {fault.rows} rows, the first at {fault.offset}"
    return f"{os.path.join(folder, fault.shard)}{where}: {fault.reason}"
