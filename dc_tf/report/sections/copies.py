"""Groups of near-duplicates as `dc_tf duplicates` has found them, or of any table of groups.

path = find("RUN", dataset)                    # the newest complete output in a run folder, or None
copies = read("COPIES", dataset.rows)
copies.groups[0].rows, copies.rows, copies.count
"""

import contextlib
import dataclasses
import os

import numpy as np

from dc_tf.atomic import read_json
from dc_tf.errors import ConfigError

_SHOWN = 24  # groups with pictures
_MEMBERS = 8  # pictures of a group
_NEEDED = "row", "group"
_KEEPER = "keeper"
_TABLES = "duplicates.parquet", "duplicates.csv"  # of `dc_tf duplicates`


@dataclasses.dataclass(frozen=True)
class Group:
    """Images that are nearly the same.

    Attributes:
        size: how many.
        rows: row ids of the first of them, the one that stays first where the table says so.
    """

    size: int
    rows: list


@dataclasses.dataclass(frozen=True)
class Copies:
    """What the table holds.

    Attributes:
        count: number of groups.
        rows: number of images in them.
        groups: list of Group, the largest first.
    """

    count: int
    rows: int
    groups: list


def find(folder: str | None, dataset) -> str | None:
    """The newest complete output of `dc_tf duplicates` over a data set in a run folder.

    Args:
        folder: of a run, or None; outputs are folders in it.
        dataset: Dataset.

    Returns:
        path of the output; None without one.
    """
    found = []
    for entry in os.scandir(folder) if folder else ():
        result = os.path.join(entry.path, "duplicates.json")
        settings = os.path.join(entry.path, "settings.json")
        with contextlib.suppress(OSError, ConfigError):  # not an output, or one of others
            if read_json(settings).get("data") == dataset.fingerprint():
                found.append((os.stat(result).st_mtime_ns, entry.path))
    return max(found, default=(0, None))[1]


def read(path: str, rows: int) -> Copies:
    """Reads a table of groups.

    Args:
        path: output of `dc_tf duplicates`, or a Parquet or CSV file (.parquet, .csv) with the
            integer columns `row` and `group`, and `keeper` where one of each group stays.
        rows: number of rows of the data set.

    Raises:
        ConfigError: it cannot be read, lacks a column, or has rows of another data set.
    """
    row, group, keeper = _columns(_table(path))
    if len(row) and not 0 <= row.min() <= row.max() < rows:
        raise ConfigError(
            f"--duplicates={path} has row {row.max()}, but the data set has rows 0..{rows - 1}; "
            "give the table of this data set."
        )
    order = np.lexsort([row, ~keeper, group])
    _, starts, sizes = np.unique(group[order], return_index=True, return_counts=True)
    largest = np.argsort(-sizes, kind="stable")[:_SHOWN]
    groups = [
        Group(int(sizes[number]), row[order][start : start + min(sizes[number], _MEMBERS)].tolist())
        for number, start in zip(largest, starts[largest], strict=True)
    ]
    return Copies(len(sizes), len(row), groups)


def _table(path):
    """The table in the output of `dc_tf duplicates`, or the file itself."""
    inside = [os.path.join(path, name) for name in _TABLES]
    return next((table for table in inside if os.path.isfile(table)), path)


def _columns(path):
    """(n,) int64 rows and groups, and (n,) bool keepers, read in batches."""
    import pyarrow  # for those only who give a table

    parts = [], [], []
    try:
        for batch in _batches(path):
            for part, name in zip(parts, _NEEDED, strict=False):
                part.append(batch.column(name).to_numpy(zero_copy_only=False).astype(np.int64))
            has_keeper = _KEEPER in batch.schema.names
            kept = batch.column(_KEEPER).to_pylist() if has_keeper else [False] * len(batch)
            parts[2].append(np.array(kept, bool))
    except (OSError, KeyError, ValueError, TypeError, pyarrow.ArrowException) as error:
        raise ConfigError(
            f"--duplicates={path} is no table in Parquet or CSV with the integer columns row and "
            f"group ({str(error).partition(chr(10))[0]}); give the output of `dc_tf duplicates`."
        ) from error
    empty = np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, bool)
    return [np.concatenate([none, *part]) for none, part in zip(empty, parts, strict=True)]


def _batches(path):
    """Yields record batches of the columns that are needed."""
    wanted = [*_NEEDED, _KEEPER]
    if os.path.splitext(path)[1].lower() == ".csv":
        import pyarrow.csv

        with pyarrow.csv.open_csv(path) as reader:
            yield from reader
        return
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        names = [name for name in file.schema_arrow.names if name in wanted]
        yield from file.iter_batches(columns=names)
