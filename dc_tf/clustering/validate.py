"""Validates all embeddings before clustering: finite, and of a size that can be squared in float32.

checksum = validate(embeddings.part(start, stop), comm)   # DataError names the file and the row
"""

import dataclasses

import numpy as np

from dc_tf.clustering.magnitude import (
    check_not_too_small,
    largest_of,
    squared_lengths,
    too_large,
)
from dc_tf.clustering.search.parallel_chunks import in_parallel
from dc_tf.distributed.collectives import all_gather
from dc_tf.errors import DataError

_BLOCK_BYTES = 16 << 20


def validate(embeddings, comm, on_progress=None, any_size=False) -> str:
    """Reads all rows once, each worker its part.

    Args:
        embeddings: this worker's part of an `Embeddings`; the parts join.
        comm: `Communicator` of all workers.
        on_progress: called with a number of own rows after they are checked.
        any_size: rows may be of any size, since they will be scaled.

    Returns:
        16 hexadecimal digits that depend on all values and their order, and not on how the rows
        are divided into files or over workers.

    Raises:
        DataError: on every worker, for a row that is not finite or too large to be squared in
            float32, for rows that are all too small, and for a file that cannot be read.
    """
    own, failure = _Own(), None
    try:
        own = _validate_own(embeddings, on_progress, any_size)
    except DataError as error:
        failure = error  # The others wait for our numbers; raising now would leave them there.
    bad = 0 if own.bad_row is None else own.bad_row + 1
    numbers = [own.checksum & 0xFFFFFFFF, own.checksum >> 32, bad, failure is not None]
    low, high, bad_rows, failures = all_gather(numbers, comm).T
    largest = all_gather(np.float64(own.largest), comm).max()
    if failures.any():
        raise failure or DataError(
            f"worker {np.argmax(failures)} cannot read its embeddings; see its log."
        )
    if bad_rows.any():
        raise _bad_row_error(embeddings, int(bad_rows[np.flatnonzero(bad_rows)[0]]) - 1)
    check_not_too_small(float(largest))
    return f"{(int(low.sum()) + (int(high.sum()) << 32)) % 2**64:016x}"


@dataclasses.dataclass(frozen=True)
class _Own:
    """What a worker found in some rows.

    Attributes:
        checksum: their share of it.
        bad_row: the first that cannot be used, counted over all files; None if there is none.
        largest: of `magnitude.largest_of`.
    """

    checksum: int = 0
    bad_row: int | None = None
    largest: float = 0.0


def _validate_own(embeddings, on_progress, any_size) -> _Own:
    step = max(1, _BLOCK_BYTES // (4 * embeddings.dim))
    weights = _odd_numbers(embeddings.dim)

    def check(start):
        block = embeddings.read(start, min(start + step, embeddings.rows))
        first = embeddings.first_row + start
        bad, largest = _bad_and_largest(block, any_size)
        bad_row = first + int(bad[0]) if bad.size else None
        return len(block), _Own(_checksum(block, first, weights), bad_row, largest)

    checksum, largest = 0, 0.0
    for rows, own in in_parallel(check, range(0, embeddings.rows, step)):
        if own.bad_row is not None:
            return own
        checksum = (checksum + own.checksum) % 2**64
        largest = max(largest, own.largest)
        if on_progress:
            on_progress(rows)
    return _Own(checksum, None, largest)


def _bad_and_largest(block, any_size):
    """(b,) places of rows that cannot be used, and `largest_of` the block."""
    if any_size:
        return np.flatnonzero(~np.isfinite(block).all(axis=1)), 1.0
    squares = squared_lengths(block)
    return np.flatnonzero(~np.isfinite(squares)), largest_of(block, squares)


def _odd_numbers(count):
    numbers = np.random.default_rng(0).integers(0, 2**63, count, np.uint64)
    return numbers * np.uint64(2) + np.uint64(1)


def _checksum(block, first, weights) -> int:
    """Sum over the rows of (2 * place + 1) * (weights . bits), modulo 2**64.

    Integer arithmetic, so the division into blocks does not matter. It detects accidental changes,
    not deliberate ones.
    """
    bits = block.view(f"u{block.dtype.itemsize}")
    rows = np.einsum("nd,d->n", bits, weights, dtype=np.uint64, casting="unsafe")
    places = np.arange(first, first + len(block), dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    return int(np.sum(rows * places, dtype=np.uint64))


def _bad_row_error(embeddings, row):
    """The DataError for a bad row of any worker; each can open every file."""
    where = embeddings.where(row)
    place = row - embeddings.first_row
    values = embeddings.read(place, place + 1)[0].astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        return DataError(
            f"{where} is not finite: its component {bad[0]} is {values[bad[0]]}; leave such rows "
            "out, save x[np.isfinite(x).all(axis=1)]."
        )
    return too_large(where)
