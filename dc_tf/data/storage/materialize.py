"""Copies the rows of a data set or view: into shards of their own, tar files or a folder of images.

    materialize(Dataset.open("/data/view"), "/data/own")                       # a data set
    materialize(Dataset.open("/data/view"), "/data/tars", format="webdataset")  # 00000.tar, ...
    materialize(Dataset.open("/data/view"), "/data/images", format="folder")    # cat/000000007.jpg

Images are copied as they are stored, never encoded again.
"""

import os

import numpy as np

from dc_tf.data.storage import schema
from dc_tf.data.storage.image_folder import write_folder
from dc_tf.data.storage.manifest import Dataset
from dc_tf.data.storage.reader import RowReader
from dc_tf.data.storage.tar_files import STOPPED, write_tars
from dc_tf.data.storage.view import check_not_source
from dc_tf.data.storage.writer import DatasetWriter, is_finished
from dc_tf.distributed import stop_request
from dc_tf.errors import ConfigError
from dc_tf.progress import Progress

FORMATS = ("shards", "webdataset", "folder")
_ROWS_AT_ONCE = 256


def materialize(
    dataset, output, format="shards", rows_per_file=None, overwrite=False, progress=True
) -> dict:
    """Copies all rows in order; an interrupted call resumes after the files that are whole.

    Args:
        dataset: Dataset.
        output: folder, created if missing.
        format: "shards", a data set; "webdataset", tar files (`tar_files`); or "folder", image
            files in a folder for each class (`image_folder`).
        rows_per_file: rows of a shard or tar file, or of the blocks of images after which an
            interrupted call resumes; None: shards of 256 MiB, 10,000 rows of the others.
        overwrite: whether to replace what is in the output.
        progress: whether to show progress.

    Returns:
        dict of output, rows, files (of images, tars or shards).

    Raises:
        ConfigError: a setting that cannot work, or an output that is in use.
        DataError: a row cannot be read.
        Preempted: the process was asked to stop.
    """
    if format not in FORMATS:
        raise ConfigError(f"format is {format!r}; use one of {', '.join(FORMATS)}.")
    if rows_per_file is not None and rows_per_file < 1:
        raise ConfigError(f"rows_per_file is {rows_per_file}; it must be at least 1.")
    output = os.fspath(output)
    check_not_source(dataset, output)
    write = {"webdataset": write_tars, "folder": write_folder}.get(format, _write_shards)
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
                stop_request.raise_if_requested(STOPPED)
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


def _blocks(start, stop):
    """Yields (n,) row ids of start..stop in small parts."""
    for first in range(start, stop, _ROWS_AT_ONCE):
        yield np.arange(first, min(first + _ROWS_AT_ONCE, stop))
