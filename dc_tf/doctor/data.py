"""Checks that the data set is readable and matches its checksums.

found = check_data(report, path, rank=0, workers=4, sample=200, verify=False)
"""

import io
import time

import numpy as np
from PIL import Image

from dc_tf.data.storage.manifest import Dataset
from dc_tf.data.storage.reader import CorruptRow, RowReader
from dc_tf.data.storage.verify import check_shard, describe, rows_by_shard
from dc_tf.errors import DataError
from dc_tf.memory import size

_MAX_PIXELS = 100_000_000


def open_data(report, path) -> Dataset | None:
    """The data set, or None where it cannot be opened, which is reported."""
    try:
        dataset = Dataset.open(path)
        sizes, shards = dataset.stored_bytes(), len(dataset.used_shards())
    except DataError as error:
        report.fail("data set", str(error), "see the message; all workers need to see this folder")
        return None
    report.ok(
        "data set",
        f"{path}: {dataset.rows:,} images in {shards:,} shards, {size(sizes)}",
        shared=True,
    )
    return dataset


def check_images(report, dataset, rank, workers, sample):
    """Reads some rows, other ones on each worker, with their checksums, and decodes them."""
    rows = np.linspace(rank, dataset.rows - 1, min(sample, dataset.rows)).astype(np.int64)
    reader, bad = RowReader(dataset), []
    started = time.monotonic()
    for row in rows.tolist():
        try:
            _decode(reader, row)
        except CorruptRow as error:
            bad.append(str(error))
        except DataError as error:
            report.fail("images", str(error), "make the shards readable on this worker")
            return
    seconds = time.monotonic() - started
    if bad:
        report.fail(
            "images",
            f"{len(bad)} of {len(rows)} that were read are corrupt; {bad[0]}",
            f"dc_tf inspect {dataset.path} --verify names all; training goes on up to "
            "data.max_bad_share",
        )
    else:
        report.ok(
            "images",
            f"{len(rows)} of them are whole, {len(rows) / seconds:,.0f} a second read and decoded "
            "by one thread",
        )


def check_shards(report, dataset, rank, workers):
    """Reads this worker's share of the shards, every record, and compares all checksums."""
    parts = list(rows_by_shard(dataset))
    own = parts[rank::workers]
    bad = [fault for fault in (check_shard(dataset, *part) for part in own) if fault]
    for fault in bad:
        report.fail("shard", describe(fault, dataset.path), "copy it again, or convert it again")
    if not bad:
        report.ok("shards", f"{len(own)} of {len(parts)} read: all checksums are right")


def _decode(reader, row):
    """Reads and decodes a row's image: without TensorFlow, which is joined later.

    A strategy over several workers refuses to begin where TensorFlow has computed already.
    """
    encoded = reader.examples([row])[0]["encoded"]
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            if image.width * image.height > _MAX_PIXELS:
                raise ValueError(f"{image.width}x{image.height} pixels")
            image.load()
    except Exception as error:  # Pillow raises anything on a corrupt image.
        where = reader.dataset.describe(row)
        raise CorruptRow(f"the image of {where} cannot be decoded: {error}.") from error
