"""Converts images from any source to a data set, in parallel and in a deterministic order.

    convert("photos", "/data/photos", labels_from_folders=True)
    convert("list.csv", "/data/photos", drop_duplicates=True)
    convert("/data/photos", "/data/tars", to="webdataset")          # the other way

Every item of the source (see `sources`) becomes a row or a line of `rejected.jsonl` ({"path",
"reason"}), in the order of the source, for any number of processes. A conversion that was stopped
or killed resumes after its last finished shard when it is called again; the result is the same to
the byte as without the interruption.
"""

import base64
import functools
import itertools
import json
import os

import numpy as np
from absl import logging

from dc_tf.data.sources import image_files
from dc_tf.data.sources.digests import Digests
from dc_tf.data.sources.open import open_source
from dc_tf.data.storage import files
from dc_tf.data.storage.files import same_place
from dc_tf.data.storage.manifest import Dataset
from dc_tf.data.storage.materialize import materialize
from dc_tf.data.storage.processes import map_lists
from dc_tf.data.storage.staging import Staging, check_output, is_begun
from dc_tf.data.storage.writer import DatasetWriter, is_finished
from dc_tf.distributed import stop_request
from dc_tf.errors import ConfigError, DataError
from dc_tf.progress import Progress

REJECTED = "rejected.jsonl"
FORMATS = ("keep", "jpeg", "png")
TO = ("webdataset", "folder")
_CHUNK = 16  # items per task of a process
_CHUNK_BYTES = 8 << 20
_CRASHED = image_files.Cleaned(
    None, "its decoder crashed or ran out of memory; save it again as PNG"
)


def convert(
    input,
    output,
    labels_from_folders=False,
    max_short_side=None,
    format="keep",
    quality=92,
    max_pixels=100_000_000,
    drop_duplicates=False,
    drop_blank=False,
    rows_per_shard=None,
    workers=None,
    overwrite=False,
    tfds_data_dir=None,
    progress=True,
    split=None,
    encoding=None,
    value_range=None,
    image_column=None,
    label_column=None,
    to=None,
) -> dict:
    """Converts all images of a source; an interrupted call resumes.

    Args:
        input: folder, list, zip, tar or Parquet files, images or TensorFlow data set; see
            `sources.open.open_source`.
        output: folder of the data set.
        labels_from_folders: whether the first-level sub-folder is the class. Files outside the
            sub-folders have no label.
        max_short_side: pixels; images with a longer short side are downscaled. None: no limit.
        format: "jpeg", "png", or "keep": PNG stays PNG and everything else becomes JPEG.
        quality: JPEG quality of re-encoded images. Clean RGB JPEGs are copied unchanged.
        max_pixels: images whose header states more are rejected without decoding.
        drop_duplicates: whether to reject an image whose converted size and pixels equal those of
            an earlier one.
        drop_blank: whether to reject an image of a single colour.
        rows_per_shard: see DatasetWriter.
        workers: number of processes; None: one per core.
        overwrite: whether to replace a data set in `output`, and to discard an unfinished one of
            another source or other settings.
        tfds_data_dir: folder of TensorFlow data sets; None: the default of tensorflow-datasets.
        progress: whether to show progress.
        split: sub-folder of a folder or zip file to take instead of the whole, such as "train".
        encoding: of lists and of texts in tar files; None: UTF-8. A byte-order mark has
            precedence.
        value_range: values of pixels of more than 8 bits that become black and white: (low, high),
            or high; None: from the file (see `sources.pixels`).
        image_column: of Parquet and Arrow tables, with the images; None: the only one with bytes.
        label_column: of such tables, with the labels; "": none; None: `label`, else the only one
            whose class names the tables state.
        to: the other way: "webdataset" or "folder" writes the data set or view `input` as such
            files (`storage.materialize`), with `rows_per_shard` rows of a tar. No other setting
            applies.

    Returns:
        dict: output, rows, rejected, classes (None without), rejected_list (path). With `to`:
        output, rows, files.

    Raises:
        ConfigError: a setting is invalid, the input is missing, or the output is in use or holds an
            unfinished data set of another source or other settings.
        DataError: no image is usable, or a list cannot be read.
        Preempted: the process was asked to stop.
    """
    if to is not None:
        return _written(input, output, to, rows_per_shard, overwrite, progress)
    value_range = _value_range(value_range)
    rules = _rules(
        format, max_short_side, max_pixels, quality, drop_duplicates, drop_blank, value_range
    )
    input, output = os.fspath(input), os.fspath(output)
    if same_place(input, output):
        raise ConfigError(f"input and output are both {input}; give another output.")
    if not is_begun(output):  # otherwise checked against the job below
        check_output(output, overwrite)
    source = open_source(
        input,
        labels_from_folders,
        output,
        tfds_data_dir,
        progress,
        split,
        encoding,
        image_column,
        label_column,
    )
    job = {
        "made_by": "dc_tf convert",
        "source": source.identity,
        "labels_from_folders": labels_from_folders,
        "short_side": max_short_side,
        "format": format,
        "quality": quality,
        "max_pixels": max_pixels,
        "drop_duplicates": drop_duplicates,
        "drop_blank": drop_blank,
        "value_range": value_range and list(value_range),
        "rows_per_shard": rows_per_shard,
    }
    if is_finished(output, job) and not overwrite:
        logging.warning("%s is already complete; use --overwrite to convert it again.", output)
        Staging(output, job, overwrite=True).discard()  # left over if a commit was killed
    else:
        with DatasetWriter(output, source.class_names, rows_per_shard, overwrite, job) as writer:
            _Conversion(source, writer, rules).run(input, workers, progress)
    return _result(output)


def check_settings_of(to, given: dict) -> None:
    """Refuses settings that do not apply to writing a data set as other files.

    Args:
        to: as of `convert`.
        given: {name: whether it was given} of the others.

    Raises:
        ConfigError: names the first one.
    """
    wrong = [name for name, value in given.items() if value]
    if to is not None and wrong:
        raise ConfigError(
            f"--{wrong[0]} is for conversions to a data set; --to={to} copies the images of one as "
            "they are."
        )


def _written(input, output, to, rows_per_shard, overwrite, progress) -> dict:
    """Writes a data set as other files."""
    if to not in TO:
        raise ConfigError(f"--to is {to!r}; use {' or '.join(TO)}.")
    try:
        dataset = Dataset.open(os.fspath(input))
    except DataError as error:
        raise ConfigError(
            f"--input: {error} --to={to} writes a data set or view of dc_tf."
        ) from error
    return materialize(dataset, output, to, rows_per_shard, overwrite, progress)


class _Conversion:
    """One conversion in progress.

    Attributes:
        rejected: int, items rejected so far, including those of earlier calls.
    """

    def __init__(self, source, writer, rules):
        self._source = source
        self._writer = writer
        self._rules = rules
        self._seen = Digests() if rules.digest else None
        self._place, self._items, self.rejected = None, 0, 0
        # Of the current shard:
        self._new_rejected, self._new_digests, self._new_items = [], [], 0

    def run(self, input, workers, progress) -> None:
        self._resume()
        with Progress(self._source.total, "convert", "images", enabled=progress) as bar:
            bar.skip(self._items)
            for item, cleaned in self._cleaned(workers):
                self._add(item, cleaned)
                bar.update(1, rejected=self.rejected)
                stop_request.raise_if_requested("the shards that are finished are kept")
        self._close_shard()
        if not self._writer.rows:
            reason = self._nothing_usable(input)
            self._writer.discard()
            raise DataError(reason)
        self._write_rejected()

    def _resume(self):
        """Restores the state after the last shard that earlier calls finished."""
        digests = []
        for note in self._writer.notes():
            self._place = note["place"]
            self._items += note["items"]
            self.rejected += len(note["rejected"])
            digests.append(base64.b64decode(note["digests"]))
        if self._seen is not None:
            self._seen.extend(b"".join(digests), first_row=0)

    def _cleaned(self, workers):
        """Yields (item, Cleaned) in order; items without content skip the pool."""
        items, sent = itertools.tee(self._source.items(self._place))
        chunks = _chunks(item.content for item in sent if item.reason is None)
        outcomes = map_lists(
            functools.partial(image_files.clean_all, rules=self._rules),
            chunks,
            workers,
            initializer=image_files.silence,
            crashed=lambda _: _CRASHED,
            weight=_bytes_of,
        )
        for item in items:
            yield item, next(outcomes) if item.reason is None else None

    def _add(self, item, cleaned):
        reason = item.reason or cleaned.reason or self._label_fault(item.label)
        if reason is None and self._seen is not None:
            first = self._seen.add(cleaned.digest, self._writer.rows)
            reason = None if first is None else f"duplicate of row {first}"
        if reason is None:
            self._writer.write(cleaned.encoded, item.label, item.name, item.meta)
            self._new_digests.append(cleaned.digest)
        else:
            self._new_rejected.append([item.name, reason])
            self.rejected += 1
        self._place = item.place
        self._new_items += 1
        if self._writer.is_full:
            self._close_shard()

    def _label_fault(self, label):
        """Why a label cannot be stored, or None."""
        classes = self._source.class_names
        if label is None or classes is None or label < len(classes):
            return None
        return (
            f"label {label} is outside the {len(classes)} class names, which are numbered from 0; "
            "correct it, or add the name"
        )

    def _close_shard(self):
        if not self._new_items:
            return
        self._writer.close_shard(
            {
                "place": self._place,
                "items": self._new_items,
                "rejected": self._new_rejected,
                "digests": base64.b64encode(b"".join(self._new_digests)).decode(),
            }
        )
        self._new_rejected, self._new_digests, self._new_items = [], [], 0

    def _write_rejected(self):
        lines = (
            json.dumps({"path": path, "reason": reason}) + "\n"
            for note in self._writer.notes()
            for path, reason in note["rejected"]
        )
        self._writer.write_file(REJECTED, lines)

    def _nothing_usable(self, input):
        rejected = [line for note in self._writer.notes() for line in note["rejected"]]
        if not rejected:
            return f"{input} holds no files; give a folder of images, or a list of them."
        path, reason = rejected[0]
        return (
            f"none of the {len(rejected)} files in {input} is a usable image; the first, {path}: "
            f"{reason}."
        )


def _chunks(contents):
    """Yields lists of contents, each closed at `_CHUNK` items or once it has `_CHUNK_BYTES`."""
    chunk = []
    for content in contents:
        chunk.append(content)
        if len(chunk) == _CHUNK or _bytes_of(chunk) >= _CHUNK_BYTES:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _bytes_of(contents):
    return sum(len(content) for content in contents)


def _result(output):
    dataset = Dataset.open(output)
    path = os.path.join(output, REJECTED)
    with files.opened(path, "r") as file:
        rejected = sum(1 for _ in file)
    return {
        "output": output,
        "rows": dataset.rows,
        "rejected": rejected,
        "classes": len(dataset.class_names) if dataset.class_names else None,
        "rejected_list": path,
    }


def _value_range(value):
    """(low, high) or None; from None, a number, a pair, or a str "HIGH" or "LOW,HIGH"."""
    if value is None:
        return None
    try:
        values = value.split(",") if isinstance(value, str) else np.atleast_1d(value).tolist()
        low, high = [0.0, *map(float, values)][-2:] if len(values) < 3 else (0, 0)
    except (ValueError, TypeError):
        low = high = 0
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise ConfigError(
            f"value_range is {value!r}; give the value that becomes white, such as 4095, or those "
            f"that become black and white, such as 0,4095."
        )
    return low, high


def _rules(format, max_short_side, max_pixels, quality, drop_duplicates, drop_blank, value_range):
    if format not in FORMATS:
        raise ConfigError(f"format is {format!r}; use one of {', '.join(FORMATS)}.")
    if max_short_side is not None and max_short_side < 1:
        raise ConfigError(f"short_side is {max_short_side}; it must be at least 1 pixel.")
    if max_pixels < 1:
        raise ConfigError(f"max_pixels is {max_pixels}; it must be at least 1.")
    if not 1 <= quality <= 95:
        raise ConfigError(f"quality is {quality}; JPEG quality is 1 to 95.")
    return image_files.Rules(
        format, max_short_side, max_pixels, quality, drop_duplicates, drop_blank, value_range
    )
