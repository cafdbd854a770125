"""A bank of features: a vector of every row, and newer ones of the rows that were drawn since.

    bank = FeatureBank(folder, rows=1000, dim=64)
    bank.write_base(rank=0, size=1, blocks=[(0, features)])
    bank.write_part(Part(first=0, last=8, rank=0, size=1), rows, order, newer)
    for start, block in bank.merged(bank.parts(), range(0, 1000)): ...

    base-00001-of-00004.npy                             the rows of worker 1 of 4
    part-0000000000-0000000008-00001-of-00004.npy       what worker 1 saw in steps 0 to 8, by row
    part-0000000000-0000000008-00001-of-00004.rows.npy  (2, n) int64: their rows and their order

A file gets its name when it is complete and never changes afterwards. Any number of workers can
read the files of any other number. Memory does not grow with rows or parts.
"""

import dataclasses
import itertools
import os
import re
from collections.abc import Iterable, Iterator

import numpy as np

from dc_tf import atomic
from dc_tf.clustering.store.npy_file import NpyFile
from dc_tf.clustering.store.row_file import RowFile
from dc_tf.distributed.blocks import row_block
from dc_tf.errors import DataError

# Rows that are merged at a time.
BLOCK_BYTES = 64 << 20
_BASE = re.compile(r"base-(\d{5})-of-(\d{5})\.npy$")
_PART = re.compile(r"part-(\d{10})-(\d{10})-(\d{5})-of-(\d{5})\.")
_ROWS = ".rows.npy"  # of a part; written last


@dataclasses.dataclass(frozen=True, order=True)
class Part:
    """What one worker has seen in consecutive steps.

    Attributes:
        first, last: steps [first, last), counted over the whole run.
        size: number of workers that took the steps together.
        rank: of the worker.
    """

    first: int
    last: int
    size: int
    rank: int

    @property
    def name(self) -> str:
        """Of its files, without their endings."""
        return f"part-{self.first:010d}-{self.last:010d}-{self.rank:05d}-of-{self.size:05d}"

    @property
    def rows_file(self) -> str:
        """Name of the file of its rows, which is written last."""
        return self.name + _ROWS

    @classmethod
    def of_file(cls, name: str) -> "Part | None":
        """The part that a file belongs to, complete or not; None for other files."""
        found = _PART.match(name)
        if not found:
            return None
        first, last, rank, size = map(int, found.groups())
        return cls(first, last, size, rank)


class FeatureBank:
    """Features by row id in a folder that all workers share.

    Attributes:
        path: the folder; it need not exist yet.
        rows: N, of all workers.
        dim: components of a row.
        dtype: of the files.
    """

    def __init__(self, path, rows, dim, dtype=np.float16):
        self.path = path
        self.rows = rows
        self.dim = dim
        self.dtype = np.dtype(dtype)

    @property
    def row_bytes(self) -> int:
        return self.dim * self.dtype.itemsize

    def write_base(self, rank: int, size: int, blocks: Iterable) -> None:
        """Writes the features of all rows of a worker.

        Args:
            rank, size: of the worker, whose rows are those of `row_block`.
            blocks: (start, (n, dim) of `dtype`), counted from the worker's first row.

        Raises:
            DataError: the disk is full or fails; the file does not exist then.
        """
        atomic.make_folder(self.path)
        own = row_block(self.rows, rank, size)
        with atomic.replacing(self._base(rank, size)) as staging:
            file = RowFile.create(staging, len(own), self.dim, self.dtype)
            for start, block in blocks:
                file.write(start, block)
            file.sync()

    def has_base(self, rank: int, size: int) -> bool:
        """Whether `write_base` was completed by this worker."""
        return os.path.exists(self._base(rank, size))

    def base_size(self) -> int | None:
        """The number of workers that have written a complete base; None without one."""
        found = {}
        for name in self._names():
            if match := _BASE.match(name):
                rank, size = map(int, match.groups())
                found.setdefault(size, set()).add(rank)
        complete = (size for size, ranks in sorted(found.items()) if len(ranks) == size)
        return next(complete, None)

    def read_base(self, start: int, stop: int, size: int | None = None) -> np.ndarray:
        """(stop - start, dim) of `dtype`, the rows [start, stop).

        Args:
            start, stop: row ids.
            size: as of `base_size`, which is asked otherwise.

        Raises:
            DataError: there is no complete base, or it is corrupt.
        """
        size = size or self.base_size()
        if size is None:
            raise DataError(f"{self.path} has no features of all rows; restore the folder.")
        parts = []
        for rank in range(size):
            own = row_block(self.rows, rank, size)
            low, high = max(start, own.start), min(stop, own.stop)
            if low < high:
                rows = self._open(self._base(rank, size), len(own))
                parts.append(rows.read(low - own.start, high - own.start))
        return np.concatenate(parts) if parts else np.empty((0, self.dim), self.dtype)

    def write_part(self, part: Part, rows, order, features) -> None:
        """Writes newer features.

        Args:
            part: who saw them, and when.
            rows: (n,) row ids; of one that comes several times the last in `order` counts.
            order: (n,) integers, unique over all workers: when a row was seen.
            features: (n, dim) of `dtype`.

        Raises:
            DataError: the disk is full or fails; the part does not exist then.
        """
        places = np.lexsort((order, rows))
        last = np.append(np.diff(rows[places]) > 0, True)[: len(places)]
        places = places[last]
        index = np.stack([rows[places], order[places]]).astype(np.int64)
        atomic.make_folder(self.path)
        path = os.path.join(self.path, part.name)
        with atomic.replacing(f"{path}.npy") as staging:
            file = RowFile.create(staging, len(places), self.dim, self.dtype)
            file.write(0, features[places])
        atomic.write_file(
            os.path.join(self.path, part.rows_file), lambda file: np.save(file, index)
        )

    def parts(self) -> list[Part]:
        """The complete parts, ascending."""
        return sorted(Part.of_file(name) for name in self._names() if name.endswith(_ROWS))

    def remove_parts(self, after: int) -> None:
        """Removes the parts, complete or not, with steps from step `after` on."""
        for name in self._names():
            part = Part.of_file(name)
            if part is not None and part.last > after:
                os.remove(os.path.join(self.path, name))

    def merged(self, parts: list[Part], block: range) -> Iterator[tuple[int, np.ndarray]]:
        """The newest features of the rows of a block.

        Args:
            parts: which to merge with the base.
            block: consecutive row ids.

        Yields:
            (start, (n, dim) of `dtype`), `start` counted from the block's first row.

        Raises:
            DataError: a file is gone or corrupt, or there is no complete base.
        """
        size = self.base_size()
        step = max(1, BLOCK_BYTES // self.row_bytes)
        for start in range(block.start, block.stop, step):
            stop = min(start + step, block.stop)
            rows = self.read_base(start, stop, size)
            newest = np.full(stop - start, -1, np.int64)
            for part in parts:
                self._update(rows, newest, part, start)
            yield start - block.start, rows

    def _update(self, rows, newest, part, start):
        """Puts the features of a part into the rows from row `start` on that have older ones."""
        path = os.path.join(self.path, part.name)
        index = _read_index(path + _ROWS)
        low, high = np.searchsorted(index[0], [start, start + len(rows)])
        if low == high:
            return
        places, order = index[0, low:high] - start, index[1, low:high]
        newer = order > newest[places]
        features = self._open(f"{path}.npy", index.shape[1]).read(int(low), int(high))
        newest[places[newer]] = order[newer]
        rows[places[newer]] = features[newer]

    def _open(self, path, rows):
        """The rows of a file, which has to have these many."""
        file = NpyFile.open(path)
        if (file.rows, file.dim, file.dtype) != (rows, self.dim, self.dtype):
            raise DataError(
                f"{path} has {file.rows} rows of {file.dim} {file.dtype.name}, not {rows} of "
                f"{self.dim} {self.dtype.name}; restore the folder of its own bank."
            )
        return file.open_rows()

    def _base(self, rank, size):
        return os.path.join(self.path, f"base-{rank:05d}-of-{size:05d}.npy")

    def _names(self):
        return os.listdir(self.path) if os.path.isdir(self.path) else []


def covers(parts: list[Part], first: int, last: int) -> bool:
    """Whether the parts of all workers together hold steps [first, last), each once."""
    done = first
    for (begin, end, size), group in itertools.groupby(
        sorted(parts), key=lambda part: (part.first, part.last, part.size)
    ):
        if begin != done or len(list(group)) != size:
            return False
        done = end
    return done == last


def _read_index(path):
    """(2, n) int64, ascending rows and their order, read where they are needed."""
    try:
        index = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is corrupt ({error}); restore it.") from error
    if index.ndim != 2 or len(index) != 2 or index.dtype != np.int64:
        raise DataError(f"{path} has {index.dtype} of shape {index.shape}, not (2, n) int64.")
    return index
