"""Digests and sizes of all images of a data set, on disk, and which images are equal.

    facts = RowFacts.of(dataset, "WORK/facts")      # reads every image once; resumes
    facts.take([7, 0])["width"]
    for first, others in facts.equal_rows(): ...

Images are read and decoded by a pool of processes. A corrupt image has a width of 0 and equals
none.
"""

import functools
import hashlib
import io
import os
from collections.abc import Iterator

import numpy as np
from PIL import Image

from dc_tf import atomic
from dc_tf.data.sources.image_files import Rules, clean, silence
from dc_tf.data.storage.manifest import Dataset
from dc_tf.data.storage.processes import map_lists, own_processes
from dc_tf.data.storage.reader import CorruptRow, RowReader
from dc_tf.distributed import stop_request
from dc_tf.distributed.collective_errors import raise_on_all
from dc_tf.distributed.collectives import ALONE
from dc_tf.distributed.parts import own_missing, part_rows
from dc_tf.progress import Progress

# `bytes` and `pixels` are the first 16 bytes of hashes; zeros: of a corrupt image, or not asked.
FACTS = np.dtype([("bytes", "S16"), ("pixels", "S16"), ("width", "<i4"), ("height", "<i4")])
_BLOCK_ROWS, _LEAST_ROWS = 1 << 16, 1 << 12  # of a file
_FEW_ROWS = 2048  # that are read before processes have started
_LIST_ROWS = 64  # of one task of a process
_PASS_ROWS = 1 << 23  # whose digests are sorted in memory at a time
_RULES = Rules(digest=True)


class RowFacts:
    """The facts of all rows, in files of at most `_BLOCK_ROWS` rows.

    Attributes:
        rows: number of rows.
    """

    def __init__(self, folder, rows):
        self.rows, self._step = rows, _step(rows)
        self._blocks = [
            np.load(_path(folder, start), mmap_mode="r") for start in range(0, rows, self._step)
        ]

    @classmethod
    def of(cls, dataset, folder, pixels=True, workers=None, comm=None) -> "RowFacts":
        """Reads what is not there yet.

        Args:
            dataset: Dataset.
            folder: for the files; what belongs to another data set there is removed.
            pixels: whether to decode the images, for their pixels' digests.
            workers: processes; None: one for each core.
            comm: Communicator of the workers that share the images, which all make the call.

        Raises:
            DataError: a shard cannot be read.
            Preempted: the process was asked to stop; complete files are kept.
        """
        comm, step = comm or ALONE, _step(dataset.rows)
        owner = {"data": dataset.fingerprint(), "pixels": pixels, "step": step}
        with raise_on_all(comm):
            if comm.rank == 0:
                atomic.reset_foreign(os.path.join(folder, "owner.json"), owner)
        function = functools.partial(_facts_of, dataset.path, pixels)
        workers = 1 if dataset.rows < _FEW_ROWS else own_processes(workers, comm)
        starts = range(0, dataset.rows, step)
        own = own_missing([[_path(folder, start)] for start in starts], comm)
        spans = [(starts[n], min(starts[n] + step, dataset.rows)) for n in own]
        total = sum(stop - start for start, stop in spans)
        shown = Progress(total, "equal images", "images", enabled=comm.rank == 0)
        with raise_on_all(comm), shown as progress:
            for start, stop in spans:
                _write_block(folder, start, stop, function, workers, progress)
        return cls(folder, dataset.rows)

    def blocks(self) -> Iterator:
        """Yields (first row, (n,) FACTS), in order."""
        for number, block in enumerate(self._blocks):
            yield number * self._step, block

    def take(self, row_ids) -> np.ndarray:
        """(n,) FACTS of rows, in any order."""
        row_ids = np.asarray(row_ids, np.int64)
        found = np.empty(len(row_ids), FACTS)
        owners = row_ids // self._step
        for number in np.unique(owners):
            mine = owners == number
            found[mine] = self._blocks[number][row_ids[mine] - number * self._step]
        return found

    def corrupt(self) -> np.ndarray:
        """(n,) int64 ids of the corrupt rows, ascending."""
        found = [start + np.flatnonzero(block["width"] == 0) for start, block in self.blocks()]
        return np.concatenate([np.empty(0, np.int64), *found])

    def equal_rows(self, column="pixels") -> Iterator:
        """Yields (first, other) int64 arrays: each row beside the lowest row that it equals.

        Digests are sorted a part at a time, so memory does not depend on the number of rows.

        Args:
            column: "bytes" or "pixels".
        """
        passes = 1 << int(np.ceil(np.log2(max(1, self.rows / _PASS_ROWS))))
        for number in range(passes):
            digests, rows = self._digests_of_pass(column, number, passes)
            order = np.lexsort((rows, digests))
            digests, rows = digests[order], rows[order]
            is_first = np.ones(len(rows), bool)
            is_first[1:] = digests[1:] != digests[:-1]
            first = rows[np.maximum.accumulate(np.where(is_first, np.arange(len(rows)), 0))]
            if not is_first.all():
                yield first[~is_first], rows[~is_first]

    def _digests_of_pass(self, column, number, passes):
        """Digests, and their rows, that belong to one of the parts by their first two bytes."""
        digests, rows = [np.empty(0, "S16")], [np.empty(0, np.int64)]
        for start, block in self.blocks():
            values = np.ascontiguousarray(block[column])
            head = values.view(">u2").reshape(len(values), 8)[:, 0]
            mine = (block["width"] > 0) & (head.astype(np.int64) * passes >> 16 == number)
            digests.append(values[mine])
            rows.append(start + np.flatnonzero(mine))
        return np.concatenate(digests), np.concatenate(rows)


def _step(rows):
    """Rows of a file."""
    return part_rows(rows, _BLOCK_ROWS, least=_LEAST_ROWS)


def _path(folder, start):
    return os.path.join(folder, f"rows-{start:012d}.npy")


def _write_block(folder, start, stop, function, workers, progress):
    firsts = range(start, stop, _LIST_ROWS)
    lists = (list(range(first, min(first + _LIST_ROWS, stop))) for first in firsts)
    facts = np.zeros(stop - start, FACTS)
    if workers == 1:
        results = (fact for rows in lists for fact in function(rows))
    else:
        results = map_lists(function, lists, workers, initializer=silence)
    for number, found in enumerate(results):
        facts[number] = found
        progress.update()
        stop_request.raise_if_requested("images that were read are kept")
    atomic.write_file(_path(folder, start), lambda file: np.save(file, facts))


@functools.lru_cache(1)
def _reader(path):
    return RowReader(Dataset.open(path))


def _facts_of(path, pixels, rows):
    """A tuple of FACTS for each row; the work of one process of a pool."""
    return [_fact(path, pixels, row) for row in rows]


def _fact(path, pixels, row):
    corrupt = (b"", b"", 0, 0)
    try:
        encoded = _reader(path).examples([row])[0]["encoded"]
    except CorruptRow:
        return corrupt
    digest = hashlib.blake2b(encoded, digest_size=16).digest()
    cleaned = clean(encoded, _RULES) if pixels else None
    if cleaned is not None and cleaned.encoded is None:
        return corrupt
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            return digest, cleaned.digest if cleaned else b"", *image.size
    except Exception:  # Pillow raises any exception on a corrupt header.
        return corrupt
