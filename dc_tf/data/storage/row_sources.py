"""The file that each row of a data set was made of, as its record names it, without its image.

    sources_of(dataset, [7, 0])                          # ["dogs/rex.jpg", "cats/tom.jpg"]
    write_sources(file, dataset, [7, 0])                 # {"row": 7, "source": "dogs/rex.jpg"}, ...

All lists of rows that are written name their files in this form: one JSON object a line.
"""

import json
from collections.abc import Iterator

import numpy as np

from dc_tf.data.storage.reader import RowReader
from dc_tf.distributed import stop_request

_ROWS = 4096  # at a time


def sources_of(dataset, rows) -> list[str | None]:
    """The source of each row.

    Args:
        dataset: Dataset.
        rows: (n,) row ids, in any order.

    Returns:
        list of n str; "" where a record names none, None where it is corrupt.

    Raises:
        DataError: a row id out of range, or a shard cannot be read.
    """
    return list(_sources(dataset, rows))


def write_sources(file, dataset, rows) -> None:
    """Writes a line for each row to an open binary file; arguments and errors as of `sources_of`.

    Raises:
        Preempted: the process was asked to stop.
    """
    for row, source in zip(rows, _sources(dataset, rows), strict=True):
        file.write(line(int(row), source))


def line(row: int, source: str | None, used: int | None = None) -> bytes:
    """The line of a row.

    Args:
        used: the row whose image was used in its place, whose source it is.
    """
    replaced = {} if used in (None, row) else {"replaced_by": used}
    text = json.dumps({"row": row, "source": source, **replaced}, ensure_ascii=False)
    return text.encode("utf-8", "replace") + b"\n"


def _sources(dataset, rows) -> Iterator[str | None]:
    reader = RowReader(dataset)
    for start in range(0, len(rows), _ROWS):
        yield from reader.sources(np.asarray(rows[start : start + _ROWS]))
        stop_request.raise_if_requested("the names of these rows were not written")
