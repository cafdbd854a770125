"""Lists of row ids: arrays, `.npy` files, text files with one a line, lists with sources.

rows = read_rows("selection.txt", "--rows", count=dataset.rows)
"""

import json
import os

import numpy as np

from dc_tf.errors import ConfigError


def read_rows(given, name, count) -> np.ndarray:
    """(n,) int64 row ids, ascending, each once.

    Args:
        given: array of integers, or path of a file.
        name: of the flag, for messages.
        count: rows of the data set.

    Raises:
        ConfigError: the file cannot be read, or holds something else than its row ids.
    """
    what = name
    if isinstance(given, str | os.PathLike):
        what = f"{name}={os.fspath(given)}"
        given = _load(os.path.expanduser(os.fspath(given)), what)
    rows = np.asarray(given)
    if rows.ndim != 1 or not (np.issubdtype(rows.dtype, np.integer) or not rows.size):
        raise ConfigError(
            f"{what} holds {rows.dtype} of shape {rows.shape}; give row ids, a list of integers."
        )
    rows = np.unique(rows.astype(np.int64))
    if rows.size and not 0 <= rows[0] <= rows[-1] < count:
        wrong = rows[0] if rows[0] < 0 else rows[-1]
        raise ConfigError(f"{what} lists row {wrong}; the data set has rows 0..{count - 1}.")
    return rows


def _load(path, what):
    try:
        if path.endswith(".npy"):
            return np.load(path, allow_pickle=False)
        read = _of_line if path.endswith(".jsonl") else int
        with open(path, encoding="utf-8") as file:
            return np.array([read(line) for line in file if line.strip()], np.int64)
    except OSError as error:
        raise ConfigError(
            f"{what} cannot be read: {error.strerror}; give a file that exists and that this user "
            "may read."
        ) from error
    except ValueError as error:
        raise ConfigError(
            f"{what} is no list of row ids: {error}; give a .npy file of integers, a text file "
            'with one a line, or a .jsonl file with {"row": 7} in each.'
        ) from error


def _of_line(line):
    """The row id of a line of `data.storage.row_sources`."""
    found = json.loads(line)
    row = found.get("row") if isinstance(found, dict) else None
    if type(row) is not int:
        raise ValueError(f"{line.strip()[:80]} has no row")
    return row
