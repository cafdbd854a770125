"""Applies a map to the rows of a feature store in place; a crash costs only time.

Block by block, the new rows are written to a small store inside the folder, and are copied over the
old ones once they are durable. After a crash each block is either intact or its replacement is on
disk, so a repeated call ends with the same bytes: no row is mapped twice or left out.

    map_in_place(store, lambda rows: 2 * rows, "doubled", chunk_rows=4096)

It needs disk space for one block, and writes every row twice.
"""

import os
import shutil

from dc_tf.clustering.store.feature_store import STAGING, FeatureStore
from dc_tf.clustering.store.points import chunks
from dc_tf.errors import DataError

BLOCK_BYTES = 256 << 20


def map_in_place(store: FeatureStore, function, name, chunk_rows) -> None:
    """Replaces all rows by `function` of them; resumes an interrupted call of this name.

    Args:
        store: a complete store, or one that an interrupted call with this name left.
        function: of (n, dim) rows of the store's dtype, to (n, dim) floating ones. A block of rows
            is always passed in the same chunks.
        name: of the function; `store.made_by` afterwards. If it is already, nothing happens.
        chunk_rows: n, or fewer at the end.

    Raises:
        DataError: another function was applied to the rows, or not all are written; the new
            ones are not finite; the disk is full or fails. A later call can resume.
    """
    if store.made_by not in ("", name):
        raise DataError(
            f"the rows of {store.path} are already mapped by {store.made_by}; extract the features "
            "again."
        )
    staging = os.path.join(store.path, STAGING)
    if store.mapped is None:
        store.check_complete()
    while store.made_by != name or store.mapped is not None:
        done = store.mapped or 0
        block = _next_block(store, done, staging, function, name, chunk_rows)
        # Before the first old row is lost: this also makes the entry of `staging` durable.
        _record(store, name, done)
        for start, rows in chunks(block, chunk_rows):
            store.file.write(done + start, rows)
        done += block.rows
        _record(store, name, None if done == store.rows else done)
    shutil.rmtree(staging, ignore_errors=True)


def _next_block(store, start, staging, function, name, chunk_rows):
    """The new rows from `start` on, durable: those of an interrupted call, or made now."""
    try:
        block = FeatureStore.open(staging)
        if (block.first_row, block.made_by, block.written) == (
            store.first_row + start,
            name,
            block.rows,
        ):
            return block
    except DataError:  # none, or one that is not complete
        pass
    row_bytes = store.dim * store.dtype.itemsize
    most = chunk_rows * max(1, BLOCK_BYTES // (chunk_rows * row_bytes))
    count = min(most, store.rows - start)
    first_row = store.first_row + start
    block = FeatureStore.create(staging, count, store.dim, first_row, store.dtype, name)
    for first, rows in chunks(store.file, chunk_rows, start, start + count):
        block.write(first - start, function(rows))
    block.flush()
    return block


def _record(store, name, mapped):
    store.made_by, store.mapped = name, mapped
    store.flush()
