"""Writes a view: a data set that is a list of rows of another one, whose images are not copied.

    write_view(Dataset.open("/data/mine"), [7, 3, 4711], "/data/few")
    Dataset.open("/data/few").rows                              # 3

Row i of the view is the i-th of the listed rows. A view of a view lists rows of the data set with
the shards. `materialize` makes a data set with shards of its own from a view.
"""

import os

import numpy as np

from dc_tf.data.storage import files
from dc_tf.data.storage.manifest import SCHEMA_VERSION, Dataset
from dc_tf.data.storage.row_list import ROWS, SOURCES, VIEW, RowList, rows_checksum
from dc_tf.data.storage.row_sources import write_sources
from dc_tf.data.storage.staging import Staging
from dc_tf.errors import ConfigError

_BLOCK = 1 << 20  # rows


def write_view(
    dataset, row_ids, output, origin=None, overwrite=False, with_sources=False
) -> Dataset:
    """Writes a view, complete or not at all.

    Args:
        dataset: Dataset; may be a view.
        row_ids: (n,) integer row ids of it, in the order that the view shall have; none twice.
        output: folder, created if missing.
        origin: JSON-serializable dict, how the rows were chosen.
        overwrite: whether to replace the data set in the output.
        with_sources: also write `sources.jsonl`, the file of each row (`row_sources`).

    Returns:
        Dataset, the view.

    Raises:
        ConfigError: no row, one twice or one that the data set does not have; an output that is in
            use, or that is the data set itself.
        DataError: a shard whose records name the files cannot be read.
        Preempted: the process was asked to stop before all files were named.
    """
    check_not_source(dataset, output)
    output, view = os.fspath(output), make_view(dataset, row_ids)
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "rows": view.rows,
        VIEW: view.row_list.entry(output),
        "origin": origin or {"made_by": "write_view"},
    }
    with Staging(output, overwrite=overwrite) as staging:
        with files.opened(staging.path(ROWS), "wb") as file:
            np.save(file, view.row_list.row_ids)
        files.sync(staging.path(ROWS))
        names = [ROWS]
        if with_sources:
            with files.opened(staging.path(SOURCES), "wb") as file:
                write_sources(file, view, range(view.rows))
            files.sync(staging.path(SOURCES))
            names.append(SOURCES)
        staging.commit({name: name for name in names}, manifest)
    return Dataset.open(output)


def make_view(dataset, row_ids) -> Dataset:
    """A view in memory; arguments and errors as of `write_view`. Its path is the data set's."""
    row_ids = dataset.base_rows(_checked(row_ids, dataset))
    base = dataset.base or dataset
    rows = RowList(base.path, base.fingerprint(), row_ids, rows_checksum([row_ids]))
    return base.view(dataset.path, rows, dataset.origin)


def check_not_source(dataset, output) -> None:
    """Checks that an output is not a folder that the data set needs.

    Raises:
        ConfigError: it is.
    """
    for needed in (dataset, dataset.base):
        if needed is not None and files.same_place(needed.path, os.fspath(output)):
            raise ConfigError(
                f"the output {output} is the data set that the rows are of; give another folder."
            )


def _checked(row_ids, dataset):
    row_ids = np.asarray(row_ids)
    if not row_ids.size:
        raise ConfigError(f"no row of {dataset.path} was chosen; a data set needs at least one.")
    if row_ids.ndim != 1 or not np.issubdtype(row_ids.dtype, np.integer):
        raise ConfigError(
            f"the row ids are {row_ids.dtype} of shape {row_ids.shape}; give a list of integers."
        )
    row_ids = row_ids.astype(np.int64, copy=False)
    ordered = row_ids if _is_ascending(row_ids) else np.sort(row_ids)
    if ordered[0] < 0 or ordered[-1] >= dataset.rows:
        wrong = ordered[0] if ordered[0] < 0 else ordered[-1]
        raise ConfigError(
            f"row {wrong} is not in {dataset.path}, which has rows 0..{dataset.rows - 1}."
        )
    if ordered is not row_ids:
        twice = ordered[1:][ordered[1:] == ordered[:-1]]
        if twice.size:
            raise ConfigError(f"row {twice[0]} is listed twice; a view has each row once.")
    return row_ids


def _is_ascending(row_ids):
    """Whether each row id is larger than the one before it; looks at a block at a time."""
    blocks = range(0, len(row_ids) - 1, _BLOCK)
    return all((np.diff(row_ids[start : start + _BLOCK + 1]) > 0).all() for start in blocks)
