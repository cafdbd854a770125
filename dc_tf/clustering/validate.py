"""Validates all embeddings before clustering: every value is finite; returns a checksum.

checksum = validate(embeddings.part(start, stop), comm)   # DataError names the file and the row
"""

import numpy as np

from dc_tf.clustering.search.parallel_chunks import in_parallel
from dc_tf.distributed.collectives import all_gather
from dc_tf.errors import DataError

_BLOCK_BYTES = 16 << 20


def validate(embeddings, comm, on_progress=None) -> str:
    """Reads all rows once, each worker its part.

    Args:
        embeddings: this worker's part of an `Embeddings`; the parts join.
        comm: `Communicator` of all workers.
        on_progress: called with a number of own rows after they are checked.

    Returns:
        16 hexadecimal digits that depend on all values and their order, and not on how the rows
        are divided into files or over workers.

    Raises:
        DataError: on every worker, for a row that is not finite or too large to be squared in
            float32, and for a file that cannot be read.
    """
    checksum, bad_row, failure = 0, None, None
    try:
        checksum, bad_row = _validate_own(embeddings, on_progress)
    except DataError as error:
        failure = error  # The others wait for our numbers; raising now would leave them there.
    bad = 0 if bad_row is None else bad_row + 1
    own = [checksum & 0xFFFFFFFF, checksum >> 32, bad, failure is not None]
    low, high, bad_rows, failures = all_gather(own, comm).T
    if failures.any():
        raise failure or DataError(
            f"worker {np.argmax(failures)} cannot read its embeddings; see its log."
        )
    if bad_rows.any():
        raise _bad_row_error(embeddings, int(bad_rows[np.flatnonzero(bad_rows)[0]]) - 1)
    return f"{(int(low.sum()) + (int(high.sum()) << 32)) % 2**64:016x}"


def _validate_own(embeddings, on_progress):
    """This worker's share of the checksum, and its first bad row over all files or None."""
    step = max(1, _BLOCK_BYTES // (4 * embeddings.dim))
    weights = _odd_numbers(embeddings.dim)

    def check(start):
        block = embeddings.read(start, min(start + step, embeddings.rows))
        first = embeddings.first_row + start
        return len(block), _checksum(block, first, weights), _first_bad(block, first)

    total = 0
    for rows, checksum, bad_row in in_parallel(check, range(0, embeddings.rows, step)):
        if bad_row is not None:
            return 0, bad_row
        total = (total + checksum) % 2**64
        if on_progress:
            on_progress(rows)
    return total, None


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


def _first_bad(block, first):
    with np.errstate(over="ignore", invalid="ignore"):
        rows = block.astype(np.float32, copy=False)
        bad = np.flatnonzero(~np.isfinite(np.einsum("nd,nd->n", rows, rows)))
    return first + int(bad[0]) if bad.size else None


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
    return DataError(f"{where} is too large to be squared in float32; scale the embeddings down.")
