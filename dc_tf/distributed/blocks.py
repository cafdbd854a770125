"""Sums and rows of large arrays over a group of workers, in messages of bounded size.

80,000 x 4096 centroids in one message would take 1.3 GB, and twice that while it is sent. While
one block is in flight, the next is prepared and the previous one is consumed.

    for block, total in summed_blocks(rows, dim, block_of, comm): ...
    own = row_block(rows, comm.rank, comm.size)
    everyones = gather_rows(x[own.start : own.stop], own, rows, comm)
"""

import concurrent.futures
import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

# Size of one message: large enough for the full bandwidth, small enough to bound memory.
MESSAGE_BYTES = 64 << 20


def row_block(rows: int, rank: int, size: int) -> range:
    """The rows that a worker owns: the rank-th of `size` nearly equal ranges."""
    return range(rows * rank // size, rows * (rank + 1) // size)


@dataclasses.dataclass
class Meter:
    """A communicator that counts the bytes a worker puts in.

    Attributes:
        bytes: sum of the sizes of what was passed to `all_sum` so far.
    """

    comm: object
    bytes: int = 0

    @property
    def rank(self) -> int:
        return self.comm.rank

    @property
    def size(self) -> int:
        return self.comm.size

    def all_sum(self, tensor) -> Any:
        total = self.comm.all_sum(tensor)
        self.bytes += total.dtype.size * int(np.prod(total.shape))
        return total


def summed_blocks(rows, row_bytes, block_of, comm) -> Iterator[tuple[slice, np.ndarray]]:
    """Sums a `(rows, ...)` array over the group, block by block.

    Args:
        rows: length of the first axis, the same on all workers.
        row_bytes: size of one row.
        block_of: function of a slice that gives this worker's block.
        comm: the group.

    Yields:
        (slice, NumPy array with the sum of that block over the group).
    """

    def exchanged(part):
        return comm.all_sum(part).numpy()  # a copy, which the caller may change

    if comm.size == 1:
        for block in blocks(rows, row_bytes):
            yield block, np.array(block_of(block))
        return
    # One thread, so that all workers exchange the blocks in the same order.
    with concurrent.futures.ThreadPoolExecutor(1, "exchange") as exchange:
        in_flight = None
        for block in blocks(rows, row_bytes):
            part = block_of(block)
            before, in_flight = in_flight, (block, exchange.submit(exchanged, part))
            if before:
                yield before[0], before[1].result()
        if in_flight:
            yield in_flight[0], in_flight[1].result()


def blocks(rows, row_bytes, block_bytes=MESSAGE_BYTES) -> list[slice]:
    """Slices that divide `rows` into blocks of about `block_bytes`."""
    step = max(1, block_bytes // max(1, row_bytes))
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


def all_sum_array(array, comm) -> np.ndarray:
    """Sum of a NumPy array over the group, in messages of bounded size."""
    total = np.empty_like(array)
    row_bytes = array.nbytes // max(1, len(array))
    for block, part in summed_blocks(len(array), row_bytes, array.__getitem__, comm):
        total[block] = part
    return total


def gather_rows(own, places, rows, comm) -> np.ndarray:
    """The rows that workers hold, in the order of their places, on every worker.

    Args:
        own: (n, ...) numbers, this worker's rows; of one dtype and row shape on all workers.
        places: n indices in [0, rows), a range or an array, which no other worker has.
        rows: number of places, the same on all workers.
        comm: the group.

    Returns:
        (rows, ...) of the dtype of `own`; zeros at a place that no worker has.
    """
    gathered = np.zeros((rows, *own.shape[1:]), own.dtype)
    gathered[places] = own  # with the others' zeros, a sum is exact
    return all_sum_array(gathered, comm)
