"""Writes what `duplicates` has found: a table, the rows to keep with their files, a view of them.

write_table(found, features, "OUT/duplicates.parquet")
write_keep(found, rows, "OUT/keep.npy")
write_names(features, "OUT/keep.npy", "OUT/keep.jsonl")
"""

import json
import os

import numpy as np

from dc_tf import atomic
from dc_tf.curation.duplicates.find import BYTES, NEAR, PIXELS
from dc_tf.curation.features.sources import beside, sources_of
from dc_tf.curation.tables import TableWriter
from dc_tf.data.storage import row_sources
from dc_tf.data.storage.row_list import SOURCES
from dc_tf.data.storage.view import write_view
from dc_tf.distributed import stop_request

COLUMNS = {
    "group": "int64",
    "row": "int64",
    "source": "string",
    "kind": "string",
    "similarity": "float32",
    "width": "int32",
    "height": "int32",
    "keeper": "bool",
}
_BLOCK_ROWS = 4096  # of the table
_KEEP_ROWS = 1 << 20


def write_table(found, features, path) -> None:
    """Writes a row for each image that has a copy, by group, the one that stays first.

    Args:
        found: Duplicates.
        features: Features, which know the sources.
        path: .parquet or .csv.
    """
    with TableWriter(path, COLUMNS) as table:
        for start in range(0, len(found.rows), _BLOCK_ROWS):
            part = slice(start, start + _BLOCK_ROWS)
            rows = found.rows[part]
            table.write(
                {
                    "group": found.group[part],
                    "row": rows,
                    "source": sources_of(features, rows),
                    "kind": found.kind[part].tolist(),
                    "similarity": found.similarity[part],
                    "width": found.width[part],
                    "height": found.height[part],
                    "keeper": found.keeper[part],
                }
            )


def write_keep(found, rows, path) -> None:
    """Writes the ids of the rows that stay, ascending int64, as `.npy`; a block at a time.

    Args:
        found: Duplicates.
        rows: number of rows of the collection.
        path: of the file.
    """
    dropped = found.dropped
    with atomic.replacing(path, ending=".npy") as staging:
        kept = np.lib.format.open_memmap(staging, "w+", np.int64, (rows - len(dropped),))
        done = 0
        for start in range(0, rows, _KEEP_ROWS):
            stop = min(start + _KEEP_ROWS, rows)
            gone = dropped[slice(*np.searchsorted(dropped, (start, stop)))]
            ids = np.setdiff1d(np.arange(start, stop), gone, assume_unique=True)
            kept[done : done + len(ids)] = ids
            done += len(ids)
        kept.flush()


def write_kept_view(found, dataset, keep, output, settings) -> None:
    """Writes a view of the rows that stay.

    Args:
        found: Duplicates.
        dataset: Dataset.
        keep: path of the file of `write_keep`.
        output: folder of the view.
        settings: dict, how copies were found.
    """
    origin = {"made_by": "dc_tf duplicates", "dropped": len(found.dropped), **settings}
    rows = np.load(keep, mmap_mode="r")
    write_view(dataset, rows, output, origin, overwrite=True, with_sources=True)


def write_names(features, keep, path, kept=None) -> None:
    """Writes the id and the file of each row that stays, a JSON object a line, of `row_sources`.

    Args:
        features: Features.
        keep: path of the file of `write_keep`.
        path: of the file.
        kept: view of `write_kept_view`, which has read the names already; None takes those beside
            the features, null where there are none.

    Raises:
        DataError: the names cannot be read.
        Preempted: the process was asked to stop; no file was written.
    """
    rows = np.load(keep, mmap_mode="r")

    def write(file):
        sources = _sources_of_view(kept) if kept else beside(features, rows)
        for number, (row, source) in enumerate(zip(rows, sources, strict=True)):
            if number % _BLOCK_ROWS == 0:
                stop_request.raise_if_requested("the names of the rows that stay were not written")
            file.write(row_sources.line(int(row), source))

    atomic.write_file(path, write)


def _sources_of_view(view):
    with open(os.path.join(view, SOURCES), "rb") as file:
        for line in file:
            yield json.loads(line)["source"]


def summary(found, rows, threshold) -> dict:
    """Figures of what was found.

    Returns:
        dict of rows, groups, would_go, share (of all rows that would go), by_kind (how those equal
        the one that stays), below_threshold (near copies of copies whose own cosine with the one
        that stays is lower), corrupt, clusters.
    """
    dropped = ~found.keeper
    below = dropped & (found.kind == NEAR) & (found.similarity < threshold)
    return {
        "rows": rows,
        "groups": int(found.keeper.sum()),
        "would_go": int(dropped.sum()),
        "share": float(dropped.sum() / rows),
        "by_kind": {kind: int((found.kind == kind).sum()) for kind in (BYTES, PIXELS, NEAR)},
        "below_threshold": int(below.sum()),
        "corrupt": found.corrupt,
        "clusters": found.clusters,
    }
