"""Verifies a data set: every record, checksum, label and index.

for fault in verify(Dataset.open("/data/mine")):
    fault.shard, fault.offset, fault.reason
"""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Iterator

import numpy as np

from dc_tf.data.storage import schema, tfrecord
from dc_tf.data.storage.files import size_of
from dc_tf.data.storage.manifest import Dataset, checksum
from dc_tf.data.storage.processes import map_shards
from dc_tf.data.storage.row_list import ROWS
from dc_tf.errors import DataError
from dc_tf.progress import Progress

_REPLACED = "is not what was written: its checksum differs"


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

    Of a view, all shards that hold rows of it; faults of other rows in them are not its own.

    Args:
        dataset: Dataset.
        workers: number of processes; None: one per core.
        progress: whether to show progress.

    Yields:
        CorruptShard for each shard that differs from what was written, as soon as it is found.
    """
    if dataset.row_list is not None and not dataset.row_list.is_intact():
        yield CorruptShard(ROWS, dataset.rows, None, _REPLACED)
        return
    parts = list(rows_by_shard(dataset))
    shards = [dataset.shards[number] for number, _ in parts]
    total = sum(shard.bytes for shard in shards)
    check = functools.partial(check_shards, path=(dataset.base or dataset).path)
    found, bad = map_shards(check, parts, total, workers), 0
    rows = sum(shard.rows for shard in shards)
    with Progress(rows, "verify", "rows", enabled=progress) as bar:
        for shard, fault in zip(shards, found, strict=True):
            bad += fault is not None
            bar.update(shard.rows, bad_shards=bad)
            if fault is not None:
                yield fault


def rows_by_shard(dataset) -> Iterator:
    """Yields (number, positions) of each shard that holds rows of a data set.

    The positions are those of its rows in the shard, (n,) int64; None stands for all.
    """
    if dataset.row_list is None:
        yield from ((number, None) for number in range(len(dataset.shards)))
        return
    row_ids = np.sort(dataset.row_list.row_ids)
    ends = np.searchsorted(row_ids, dataset.offsets)
    for number in np.flatnonzero(np.diff(ends)).tolist():
        yield number, row_ids[ends[number] : ends[number + 1]] - dataset.offsets[number]


def check_shards(parts, path) -> list[CorruptShard | None]:
    """`check_shard` of each (number, positions), for the data set in `path`, which is no view."""
    dataset = Dataset.open(path)
    return [check_shard(dataset, *part) for part in parts]


def check_shard(dataset, number, positions=None) -> CorruptShard | None:
    """Verifies a shard: CorruptShard, or None if it is intact.

    Args:
        dataset: Dataset.
        number: of the shard.
        positions: (n,) int64, the rows of the shard that count; None: all.
    """
    shard, path = dataset.shards[number], dataset.shard_path(number)
    rows = shard.rows if positions is None else len(positions)
    try:
        counted = dataset.index(number)[slice(None) if positions is None else positions, 0]
        entries = {offset: rest for offset, *rest in dataset.index(number).tolist()}
        size = size_of(path)
        bad, digest = _compare(path, entries, dataset.features)
    except (OSError, DataError) as error:
        return CorruptShard(shard.name, rows, None, f"cannot be read: {error}")
    if bad:
        counted = set(counted.tolist())
        own = [fault for fault in bad if fault[0] in counted]
        return CorruptShard(shard.name, len(own), *own[0]) if own else None
    if size != shard.bytes:
        return CorruptShard(
            shard.name, 0, None, f"has {size} bytes; the manifest says {shard.bytes}"
        )
    if len(entries) != shard.rows or checksum(digest) != shard.checksum:
        # Every record is valid, so records were replaced, added or removed.
        return CorruptShard(shard.name, rows, None, _REPLACED)
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


def describe(fault, dataset) -> str:
    """A one-line description of a CorruptShard of a Dataset."""
    folder = dataset.path if fault.shard == ROWS else (dataset.base or dataset).path
    where = "" if fault.offset is None else f", {fault.rows} rows, the first at {fault.offset}"
    return f"{os.path.join(folder, fault.shard)}{where}: {fault.reason}"
