"""Where `dc_tf embed` writes: files of a million rows, and the parts that they are joined from.

    plan = FeatureFiles("/data/features", ("fc7",), rows=1_281_167, rows_per_file=1_000_000, ...)
    plan.paths_of_part(7)          # {"fc7": ".../parts/fc7-000000112000.npy", "sources": ...}
    plan.join(0)                   # parts -> fc7-00000-of-00002.npy, and the parts are removed

Parts are what a restart keeps and what workers share; files are what is read.
"""

import os

import numpy as np

from dc_tf import atomic
from dc_tf.clustering.store.joined_file import write_joined
from dc_tf.distributed.parts import all_missing, part_rows

ROWS, SOURCES = "rows", "sources"
_MOST_ROWS = 16_384  # of a part
_MOST_BYTES = 256 << 20  # of its features, in memory
_COPY_BYTES = 1 << 20


class FeatureFiles:
    """The files of one output folder.

    Attributes:
        folder: of the parts.
        count: number of files.
        parts: list of (first row, end).
        batch_size: int.
    """

    def __init__(self, output, dims, rows, rows_per_file, batch_size, itemsize):
        """Divides the rows.

        Args:
            output: folder.
            dims: {layer: components of a row}.
            rows: of the data set.
            rows_per_file: a multiple of `batch_size`.
            batch_size: images of a batch; parts have whole ones, since a row's last digits can
                depend on its neighbours.
            itemsize: bytes of a component.
        """
        self.folder = os.path.join(output, "parts")
        self.batch_size = batch_size
        self._output, self._layers = output, tuple(dims)
        self._starts = range(0, rows, rows_per_file)
        self.count = len(self._starts)
        self._ends = [min(start + rows_per_file, rows) for start in self._starts]
        in_memory = max(1, _MOST_BYTES // (itemsize * sum(dims.values())))
        step = part_rows(rows, min(_MOST_ROWS, in_memory, rows_per_file), batch_size)
        spans = [range(*ends, step) for ends in zip(self._starts, self._ends, strict=True)]
        self.parts = [(first, min(first + step, span.stop)) for span in spans for first in span]
        self._first_parts = np.cumsum([0, *map(len, spans)]).tolist()

    def rows_of_file(self, number) -> np.ndarray:
        """(n,) int64 row ids of a file."""
        return np.arange(self._starts[number], self._ends[number])

    def parts_of_file(self, number) -> range:
        """Numbers of the parts of a file, in order."""
        return range(self._first_parts[number], self._first_parts[number + 1])

    def paths_of_file(self, number) -> dict[str, str]:
        """{layer, `ROWS` or `SOURCES`: path}."""
        ending = f"{number:05d}-of-{self.count:05d}"
        names = (*self._layers, ROWS, SOURCES)
        return {name: os.path.join(self._output, f"{name}-{ending}{_type(name)}") for name in names}

    def paths_of_part(self, number) -> dict[str, str]:
        """{layer or `SOURCES`: path}."""
        start = f"{self.parts[number][0]:012d}"
        names = (*self._layers, SOURCES)
        return {name: os.path.join(self.folder, f"{name}-{start}{_type(name)}") for name in names}

    def unfinished(self, comm) -> np.ndarray:
        """(n,) numbers of the files that are not complete, the same on all workers of `comm`."""
        return all_missing([self.paths_of_file(n).values() for n in range(self.count)], comm)

    def missing(self, comm) -> np.ndarray:
        """(n,) ascending numbers of the parts that are to be computed, the same on all workers."""
        needed = [part for number in self.unfinished(comm) for part in self.parts_of_file(number)]
        missing = all_missing([self.paths_of_part(part).values() for part in needed], comm)
        return np.array(needed, np.int64)[missing]

    def rows_of_parts(self, numbers) -> int:
        """How many rows some parts have together."""
        return sum(self.parts[number][1] - self.parts[number][0] for number in numbers)

    def completed_by(self, missing, own) -> dict[int, int]:
        """{part: file} of the files whose missing parts all are `own`, by the last of these."""
        found = {}
        for number in range(self.count):
            span = self.parts_of_file(number)
            needed, made = (
                each[slice(*np.searchsorted(each, (span.start, span.stop)))]
                for each in (missing, own)
            )
            if len(needed) and len(needed) == len(made):
                found[int(made[-1])] = number
        return found

    def join(self, number) -> None:
        """Writes a file from its parts, which are complete, and removes them."""
        paths = self.paths_of_file(number)
        parts = [self.paths_of_part(part) for part in self.parts_of_file(number)]
        for layer in self._layers:
            own = [part[layer] for part in parts]
            atomic.write_file(paths[layer], lambda file, own=own: write_joined(file, own))
        atomic.write_file(paths[ROWS], lambda file: np.save(file, self.rows_of_file(number)))
        own = [part[SOURCES] for part in parts]
        atomic.write_file(paths[SOURCES], lambda file: _write_lines(file, own))
        for path in (path for part in parts for path in part.values()):
            os.remove(path)


def _type(name):
    return ".jsonl" if name == SOURCES else ".npy"


def _write_lines(file, paths):
    for path in paths:
        with open(path, "rb") as part:
            while block := part.read(_COPY_BYTES):
                file.write(block)
