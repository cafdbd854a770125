"""Copies the rows of a data set, usually a view, into shards or tar files of their own.

    materialize(Dataset.open("/data/view"), "/data/own")                       # a data set
    materialize(Dataset.open("/data/view"), "/data/tars", format="webdataset")  # 00000.tar, ...

Images are copied as they are stored, never encoded again.
"""

import io
import json
import os
import re
import tarfile

import numpy as np

from dc_tf import atomic
from dc_tf.data.storage import schema
from dc_tf.data.storage.manifest import Dataset
from dc_tf.data.storage.reader import RowReader
from dc_tf.data.storage.view import check_not_source
from dc_tf.data.storage.writer import DatasetWriter, is_finished
from dc_tf.distributed import stop_request
from dc_tf.errors import ConfigError
from dc_tf.progress import Progress

FORMATS = ("shards", "webdataset")
ABOUT = "webdataset.json"
_ROWS_AT_ONCE = 256
_ROWS_PER_TAR = 10_000
_STOPPED = "the files that are whole are kept"


def materialize(
    dataset, output, format="shards", rows_per_file=None, overwrite=False, progress=True
) -> dict:
    """Copies all rows in order; an interrupted call resumes after the files that are whole.

    Args:
        dataset: Dataset.
        output: folder, created if missing.
        format: "shards", a data set; or "webdataset", tar files with each row's image, label
            (`.cls`) and source and metadata (`.json`), named by its row id.
        rows_per_file: rows of a shard or tar file; None: shards of 256 MiB, tars of 10,000 rows.
        overwrite: whether to replace what is in the output.
        progress: whether to show progress.

    Returns:
        dict of output, rows, files.

    Raises:
        ConfigError: a setting that cannot work, or an output that is in use.
        DataError: a row cannot be read.
        Preempted: the process was asked to stop.
    """
    if format not in FORMATS:
        raise ConfigError(f"format is {format!r}; use {' or '.join(FORMATS)}.")
    if rows_per_file is not None and rows_per_file < 1:
        raise ConfigError(f"rows_per_file is {rows_per_file}; it must be at least 1.")
    output = os.fspath(output)
    check_not_source(dataset, output)
    write = _write_shards if format == "shards" else _write_tars
    bar = Progress(dataset.rows, "copy", "images", enabled=progress)
    count = write(dataset, output, rows_per_file, overwrite, bar)
    return {"output": output, "rows": dataset.rows, "files": count}


def _write_shards(dataset, output, rows_per_file, overwrite, bar):
    job = {"made_by": "materialize", "data": dataset.fingerprint(), "rows_per_file": rows_per_file}
    if not is_finished(output, job) or overwrite:
        writer = DatasetWriter(output, dataset.class_names, rows_per_file, overwrite, job)
        with writer, bar:
            bar.skip(writer.rows)
            for row_ids in _blocks(writer.rows, dataset.rows):
                _copy_rows(dataset, row_ids, writer)
                bar.update(len(row_ids))
                stop_request.raise_if_requested(_STOPPED)
    return len(Dataset.open(output).shards)


def _copy_rows(dataset, row_ids, writer):
    """Appends rows: records as they are, unless other feature names require new ones."""
    reader = RowReader(dataset)
    if dataset.features != schema.OURS:
        for example in reader.examples(row_ids):
            writer.write(**example)
        return
    _, entries = dataset.locate(row_ids)
    for record, label in zip(reader.read(row_ids), entries[:, 2].tolist(), strict=True):
        writer.write_record(record, None if label == schema.NO_LABEL else label)


def _write_tars(dataset, output, rows_per_file, overwrite, bar):
    size = rows_per_file or _ROWS_PER_TAR
    about = {"data": dataset.fingerprint(), "rows": dataset.rows, "rows_per_file": size}
    begun = os.path.join(output, ABOUT)
    if overwrite and os.path.exists(begun) and atomic.read_json(begun) != about:
        _remove_tars(output)
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
    os.remove(os.path.join(output, ABOUT))


def _write_tar(file, dataset, row_ids, bar):
    reader = RowReader(dataset)
    with tarfile.open(fileobj=file, mode="w") as tar:
        for block in _blocks(0, len(row_ids)):
            for row, example in zip(row_ids[block], reader.examples(row_ids[block]), strict=True):
                for ending, content in _members(example, dataset.class_names):
                    member = tarfile.TarInfo(f"{row:09d}.{ending}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
            bar.update(len(block))
            stop_request.raise_if_requested(_STOPPED)


def _members(example, class_names):
    """Yields (ending, bytes) of the files of one row."""
    label, about = example["label"], {**example["meta"], "source": example["source"]}
    yield _ending(example["encoded"]), example["encoded"]
    if label is not None:
        yield "cls", str(label).encode()
        if class_names is not None:
            about["class"] = class_names[label]
    yield "json", json.dumps(about, ensure_ascii=False).encode("utf-8", "surrogateescape")


def _ending(encoded):
    formats = ((b"\x89PNG", "png"), (b"GIF8", "gif"), (b"BM", "bmp"))
    return next((ending for start, ending in formats if encoded.startswith(start)), "jpg")


def _blocks(start, stop):
    """Yields (n,) row ids of start..stop in small parts."""
    for first in range(start, stop, _ROWS_AT_ONCE):
        yield np.arange(first, min(first + _ROWS_AT_ONCE, stop))
