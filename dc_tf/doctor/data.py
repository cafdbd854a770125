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
    """The data set; None if it cannot be opened, which is reported."""
    try:
        dataset = Dataset.open(path)
        sizes, shards = dataset.stored_bytes(), len(dataset.used_shards())
    except DataError as error:
        report.fail(
            "data set", str(error), "correct data.path; all workers need to see this folder"
        )
        return None
    report.ok(
        "data set",
        f"{path}: {dataset.rows:,} images in {shards:,} shards, {size(sizes)}",
        shared=True,
    )
    return dataset


def check_images(report, dataset, rank, workers, sample) -> None:
    """Reads and decodes some rows, different ones on each worker, and compares their checksums."""
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
            f"dc_tf inspect {dataset.path} --verify names all; training tolerates a share of "
            "data.max_bad_share",
        )
    else:
        report.ok(
            "images",
            f"{len(rows)} of them are intact; one thread reads and decodes "
            f"{len(rows) / seconds:,.0f} a second",
        )


def check_shards(report, dataset, rank, workers) -> None:
    """Reads this worker's share of the shards and compares all checksums."""
    parts = list(rows_by_shard(dataset))
    own = parts[rank::workers]
    bad = [fault for fault in (check_shard(dataset, *part) for part in own) if fault]
    for fault in bad:
        report.fail("shard", describe(fault, dataset), "copy it again, or convert it again")
    if not bad:
        report.ok("shards", f"{len(own)} of {len(parts)} read: all checksums match")


def _decode(reader, row):
    """Reads and decodes a row's image without TensorFlow.

    A strategy over several workers cannot be created once TensorFlow has run an op.
    """
    encoded = reader.examples([row])[0]["encoded"]
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            if image.width * image.height > _MAX_PIXELS:
                raise ValueError(f"{image.width}x{image.height} pixels")
            image.load()
    except Exception as error:  # Pillow raises many kinds on a corrupt image
        where = reader.dataset.describe(row)
        raise CorruptRow(f"the image of {where} cannot be decoded: {error}.") from error
