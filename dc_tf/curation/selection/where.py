"""Keeps the rows of a data set whose label, class, source or metadata fulfil conditions.

conditions = [Condition.parse("meta/hashtag=sea"), Condition.parse("meta/latitude>=48.5")]
found = matching_rows(dataset, row_ids, conditions)
found.kept, found.corrupt
"""

import dataclasses
import os
import typing

import numpy as np

from dc_tf import atomic
from dc_tf.data.storage.reader import CorruptRow, RowReader
from dc_tf.data.storage.row_list import rows_checksum
from dc_tf.distributed import stop_request
from dc_tf.distributed.collective_errors import raise_on_all
from dc_tf.distributed.collectives import ALONE
from dc_tf.distributed.parts import own_missing, part_rows
from dc_tf.progress import Progress

_BLOCK = 1024  # rows
_PART_ROWS, _LEAST_ROWS = 1 << 18, 1 << 12  # of a file that a repeated call does not read again
_MATCHES, _CORRUPT = 1, 2


class Matching(typing.NamedTuple):
    """Rows that fulfil all conditions.

    Attributes:
        kept: (n,) bool.
        corrupt: number of rows that could not be read, which are not kept.
    """

    kept: np.ndarray
    corrupt: int


def matching_rows(dataset, row_ids, conditions, folder=None, comm=None) -> Matching:
    """Which of some rows fulfil all conditions; reads records only if they are about metadata.

    Args:
        dataset: Dataset.
        row_ids: (n,) int64.
        conditions: list of Condition.
        folder: keeps what was read, a byte a row, for a repeated call; None keeps nothing.
        comm: Communicator of the workers that share the records in `folder`, which all make the
            call; None is this one alone.

    Raises:
        DataError: a shard cannot be read.
        Preempted: the process was asked to stop; complete parts of `folder` are kept.
    """
    kept = np.ones(len(row_ids), bool)
    by_label = [c for c in conditions if c.name in ("label", "class")]
    if by_label:
        labels = dataset.labels()[row_ids]
        for label in np.unique(labels):
            values = _label_values(dataset, int(label))
            if not all(condition.holds(values[condition.name]) for condition in by_label):
                kept[labels == label] = False
    by_record = [c for c in conditions if c not in by_label]
    if not by_record:
        return Matching(kept, 0)
    left = np.flatnonzero(kept)
    if folder is None:
        with Progress(len(left), "where", "rows") as progress:
            states = _states(RowReader(dataset), row_ids[left], by_record, progress)
    else:
        states = _states_in_parts(dataset, row_ids[left], by_record, folder, comm or ALONE)
    kept[left] = states == _MATCHES
    return Matching(kept, int(np.count_nonzero(states == _CORRUPT)))


def _states_in_parts(dataset, row_ids, conditions, folder, comm):
    """(n,) uint8 as of `_states`, of which each part is kept in a file."""
    step = part_rows(len(row_ids), _PART_ROWS, least=_LEAST_ROWS)
    owner = {
        "data": dataset.fingerprint(),
        "conditions": [dataclasses.astuple(condition) for condition in conditions],
        "rows": rows_checksum([row_ids]),
        "step": step,
    }
    with raise_on_all(comm):
        if comm.rank == 0:
            atomic.reset_foreign(os.path.join(folder, "owner.json"), owner)
    starts = range(0, len(row_ids), step)
    paths = [os.path.join(folder, f"rows-{start:012d}.npy") for start in starts]
    reader, own = RowReader(dataset), own_missing([[path] for path in paths], comm)
    shown = Progress(len(own) * step, "where", "rows", enabled=comm.rank == 0)
    with raise_on_all(comm), shown as progress:
        for number in own:
            part = row_ids[starts[number] : starts[number] + step]
            states = _states(reader, part, conditions, progress)
            atomic.write_file(paths[number], lambda file, states=states: np.save(file, states))
    return np.concatenate([np.zeros(0, np.uint8), *map(np.load, paths)])


def _states(reader, row_ids, conditions, progress):
    """(n,) uint8: 0, or `_MATCHES`, or `_CORRUPT` of a row that cannot be read."""
    states, corrupt = np.zeros(len(row_ids), np.uint8), 0
    for start in range(0, len(row_ids), _BLOCK):
        block = row_ids[start : start + _BLOCK]
        for place, example in enumerate(_examples(reader, block), start):
            if example is None:
                states[place], corrupt = _CORRUPT, corrupt + 1
            elif _fulfils(example, conditions):
                states[place] = _MATCHES
        progress.update(len(block), corrupt=corrupt)
        stop_request.raise_if_requested("what was read is kept with the output")
    return states


def _examples(reader, row_ids):
    """Decoded examples, None for a corrupt row."""
    try:
        return reader.examples(row_ids)
    except CorruptRow:
        return [_example(reader, row) for row in row_ids]


def _example(reader, row):
    try:
        return reader.examples([row])[0]
    except CorruptRow:
        return None


def _fulfils(example, conditions):
    for condition in conditions:
        place, _, name = condition.name.partition("/")
        value = example["meta"].get(name) if name else example[place]
        if not condition.holds(value):
            return False
    return True


def _label_values(dataset, label):
    names = dataset.class_names
    known = names is not None and 0 <= label < len(names)
    return {
        "label": label if label >= 0 else None,
        "class": names[label] if known else None,
    }
