"""Writes the rows of a data set to tar files in WebDataset format.

    write_tars(dataset, "/data/tars", None, overwrite=False, bar=bar)     # 00000.tar, ...

Of each row there are KEY.jpg or .png, KEY.cls with its label, and KEY.json with its metadata, where
KEY is the row id.
"""

import io
import os
import re
import tarfile

import numpy as np

from dc_tf import atomic
from dc_tf.data.storage import written
from dc_tf.data.storage.reader import RowReader
from dc_tf.distributed import stop_request

STOPPED = "the files that are whole are kept"
ROWS_PER_TAR = 10_000
_ROWS_AT_ONCE = 256


def write_tars(dataset, output, rows_per_file, overwrite, bar) -> int:
    """Writes all rows, after the tars that are whole; returns the number of tars.

    Args:
        dataset: Dataset.
        output: folder.
        rows_per_file: rows of a tar; None: `ROWS_PER_TAR`.
        overwrite: whether to replace tars of other rows.
        bar: Progress.

    Raises:
        ConfigError: the output is in use.
        DataError: a row cannot be read.
        Preempted: the process was asked to stop.
    """
    size = rows_per_file or ROWS_PER_TAR
    about = written.about(dataset, size)
    begun = os.path.join(output, written.TARS)
    if overwrite and os.path.exists(begun) and atomic.read_json(begun) != about:
        _remove_tars(output)
        atomic.write_json(begun, about)
    atomic.refuse_foreign(begun, about, "--output", "tar files")
    starts = range(0, dataset.rows, size)
    with bar:
        for number, start in enumerate(starts):
            row_ids = np.arange(start, min(start + size, dataset.rows))
            path = os.path.join(output, f"{number:05d}.tar")
            if os.path.exists(path):
                bar.skip(len(row_ids))
                continue
            atomic.write_file(path, lambda file, rows=row_ids: _write_tar(file, dataset, rows, bar))
    return len(starts)


def _remove_tars(output):
    """Removes what an earlier call for other rows wrote."""
    for name in os.listdir(output):
        if re.fullmatch(r"\d{5,}\.tar", name):
            os.remove(os.path.join(output, name))


def _write_tar(file, dataset, row_ids, bar):
    reader = RowReader(dataset)
    with tarfile.open(fileobj=file, mode="w") as tar:
        for start in range(0, len(row_ids), _ROWS_AT_ONCE):
            block = row_ids[start : start + _ROWS_AT_ONCE]
            for row, example in zip(block, reader.examples(block), strict=True):
                for ending, content in _members(example, dataset.class_names):
                    member = tarfile.TarInfo(f"{row:09d}.{ending}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
            bar.update(len(block))
            stop_request.raise_if_requested(STOPPED)


def _members(example, class_names):
    """Yields (ending, bytes) of the files of one row."""
    yield written.ending(example["encoded"]), example["encoded"]
    if example["label"] is not None:
        yield "cls", str(example["label"]).encode()
    yield "json", written.line(written.described(example, class_names))
