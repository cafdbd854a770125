"""Writes the rows of a data set as image files in a folder for each class.

    write_folder(dataset, "/data/images", None, overwrite=False, bar=bar)

    cat/000000007.jpg     an image, named by its row id; without a label directly in the folder, and
                          of a data set without any label in folders of 10,000: 00000/000000007.jpg
    images.jsonl          a line for each row: path, label, class, source and metadata
    folder.json           names of the classes

`dc_tf convert --input=FOLDER/images.jsonl` gives the same rows again, `--input=FOLDER
--labels_from_folders` the same images and labels in the order of the folders.
"""

import os
import re
import shutil

import numpy as np

from dc_tf import atomic
from dc_tf.data.storage import written
from dc_tf.data.storage.reader import RowReader
from dc_tf.distributed import stop_request

ROWS_PER_BLOCK = 10_000
_ROWS_AT_ONCE = 256
_PARTS = ".parts"  # lines of the blocks that are whole
_STOPPED = "the blocks of images that are whole are kept"


def write_folder(dataset, output, rows_per_file, overwrite, bar) -> int:
    """Writes all rows, after the blocks of rows that are whole; returns the number of images.

    Args:
        dataset: Dataset.
        output: folder.
        rows_per_file: rows of a block, after which an interrupted call resumes; None:
            `ROWS_PER_BLOCK`.
        overwrite: whether to replace images of other rows.
        bar: Progress.

    Raises:
        ConfigError: the output is in use.
        DataError: a row cannot be read.
        Preempted: the process was asked to stop.
    """
    size = rows_per_file or ROWS_PER_BLOCK
    folders = _folders(dataset)
    about = written.about(dataset, size, folders=folders)
    begun = os.path.join(output, written.FOLDER)
    if overwrite and os.path.exists(begun) and atomic.read_json(begun) != about:
        _remove(output, atomic.read_json(begun))
        atomic.write_json(begun, about)
    atomic.refuse_foreign(begun, about, "--output", "images")
    listed = os.path.join(output, written.LIST)
    with bar:
        if os.path.exists(listed):
            bar.skip(dataset.rows)
            return dataset.rows
        names = {label: name for name, label in folders.items()}
        atomic.make_folder(os.path.join(output, _PARTS))
        for path, row_ids in _parts(dataset, output, size):
            if os.path.exists(path):
                bar.skip(len(row_ids))
                continue
            lines = _write_block(dataset, output, row_ids, names, bar)
            atomic.write_file(path, lambda file, lines=lines: file.writelines(lines))
    paths = [path for path, _ in _parts(dataset, output, size)]
    atomic.write_file(listed, lambda file: _join(file, paths))
    atomic.remove_tree(os.path.join(output, _PARTS))
    return dataset.rows


def _folders(dataset) -> dict[str, int]:
    """{folder: label} of all classes."""
    if dataset.class_names is not None:
        return written.folder_names(dataset.class_names)
    return {f"{label:05d}": label for label in np.unique(dataset.labels()).tolist() if label >= 0}


def _parts(dataset, output, size):
    """Yields (path of the lines, (n,) row ids) of each block."""
    for number, start in enumerate(range(0, dataset.rows, size)):
        path = os.path.join(output, _PARTS, f"{number:05d}.jsonl")
        yield path, np.arange(start, min(start + size, dataset.rows))


def _write_block(dataset, output, row_ids, names, bar) -> list[bytes]:
    """Writes the images of a block; returns their lines."""
    reader, lines = RowReader(dataset), []
    for start in range(0, len(row_ids), _ROWS_AT_ONCE):
        block = row_ids[start : start + _ROWS_AT_ONCE]
        for row, example in zip(block.tolist(), reader.examples(block), strict=True):
            path = f"{row:09d}.{written.ending(example['encoded'])}"
            if example["label"] is not None:
                path = f"{names[example['label']]}/{path}"
            elif not names:
                path = f"{row // ROWS_PER_BLOCK:05d}/{path}"
            _write(os.path.join(output, path), example["encoded"])
            values = written.described(
                example, dataset.class_names, path=path, label=example["label"]
            )
            lines.append(written.line(values) + b"\n")
        bar.update(len(block))
        stop_request.raise_if_requested(_STOPPED)
    return lines


def _write(path, content):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:  # the block counts once its lines are there
        file.write(content)


def _join(file, paths):
    for path in paths:
        with open(path, "rb") as part:
            shutil.copyfileobj(part, file)


def _remove(output, about):
    """Removes what an earlier call for other rows wrote, and nothing else."""
    if os.path.exists(os.path.join(output, written.LIST)):
        os.remove(os.path.join(output, written.LIST))
    atomic.remove_tree(os.path.join(output, _PARTS))
    for folder in ["", *about.get("folders", {}), *_numbered(output)]:
        path = os.path.join(output, folder)
        for name in os.listdir(path) if os.path.isdir(path) else ():
            if re.fullmatch(r"\d{9,}\.(jpg|png|gif|bmp)", name):
                os.remove(os.path.join(path, name))
        if folder and os.path.isdir(path) and not os.listdir(path):
            os.rmdir(path)


def _numbered(output):
    return [name for name in os.listdir(output) if re.fullmatch(r"\d{5,}", name)]
