"""Replaces the rows of a feature store in place; a kill at any moment costs only time.

Block by block, the new rows first go into a small store beside the old ones, and are copied over
them once they are durable. Whatever a kill leaves, each block is as it was or its new rows are at
hand, so the call is made again and ends with the same bytes: no row is mapped twice or left out.

    rewrite(store, lambda rows: 2 * rows, "doubled", chunk_rows=4096)

It needs room for one block on the disk, and writes everything twice.
"""

import os
import shutil

from dc_tf.clustering.store.feature_store import ASIDE, FeatureStore
from dc_tf.clustering.store.points import chunks
from dc_tf.errors import DataError

BLOCK_BYTES = 256 << 20


def rewrite(store: FeatureStore, function, name, chunk_rows):
    """Replaces all rows by what `function` makes of them, or what is left of them to replace.

    Args:
        store: a complete store, or one that an earlier call with this name left in the middle.
        function: of (n, dim) rows of the store's dtype, to (n, dim) floating ones. A block of rows
            is always passed in the same chunks.
        name: of the function; `store.made_by` afterwards. If it is already, nothing is done.
        chunk_rows: n, or fewer at the end.

    Raises:
        DataError: the rows went through another function, or are not all written; the new ones
            are not finite; the disk is full or fails. Later calls can go on.
    """
    if store.made_by not in ("", name):
        raise DataError(
            f"the rows of {store.path} are those of {store.made_by}, not of an extraction; "
            "extract the features again."
        )
    aside = os.path.join(store.path, ASIDE)
    if store.rewritten is None:
        store.check_complete()
    while store.made_by != name or store.rewritten is not None:
        done = store.rewritten or 0
        block = _next_block(store, done, aside, function, name, chunk_rows)
        # Before the first old row is lost: also brings the entry of `aside` to the disk.
        _note(store, name, done)
        for start, rows in chunks(block, chunk_rows):
            store.file.write(done + start, rows)
        done += block.rows
        _note(store, name, None if done == store.rows else done)
    shutil.rmtree(aside, ignore_errors=True)


def _next_block(store, start, aside, function, name, chunk_rows):
    """The new rows from `start` on, durable: as an earlier call left them, or made now."""
    try:
        block = FeatureStore.open(aside)
        if (block.first_row, block.made_by, block.written) == (
            store.first_row + start,
            name,
            block.rows,
        ):
            return block
    except DataError:  # None, or one that was not finished.
        pass
    row_bytes = store.dim * store.dtype.itemsize
    most = chunk_rows * max(1, BLOCK_BYTES // (chunk_rows * row_bytes))
    count = min(most, store.rows - start)
    first_row = store.first_row + start
    block = FeatureStore.create(aside, count, store.dim, first_row, store.dtype, name)
    for first, rows in chunks(store.file, chunk_rows, start, start + count):
        block.write(first - start, function(rows))
    block.flush()
    return block


def _note(store, name, rewritten):
    store.made_by, store.rewritten = name, rewritten
    store.flush()
