"""Names, labels and metadata of all images of a data set, in Parquet parts of some rows each.

    paths = write_parts(dataset, "/out/parts")       # what is there already is kept
    schema = union_schema(paths)
    table = conformed(pq.read_table(paths[0]), schema)

Records hold the images too, so reading them is the work; parts are read by several processes, and
one that is complete is not read again. Values of one name may be a text in one image and numbers in
another: a column takes the type that can hold them all, integers before floats before text, and
lists where any image has one.
"""

import functools
import os

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dc_tf import atomic
from dc_tf.data.storage import schema
from dc_tf.data.storage.manifest import Dataset
from dc_tf.data.storage.processes import map_lists, own_processes
from dc_tf.data.storage.reader import RowReader
from dc_tf.distributed import stop_request
from dc_tf.distributed.collective_errors import raise_on_all
from dc_tf.distributed.collectives import ALONE
from dc_tf.distributed.parts import own_missing, part_rows
from dc_tf.progress import Progress

PART_ROWS, _LEAST_ROWS = 1 << 16, 1 << 12
ROW, SOURCE, LABEL, CLASS = "row", "source", "label", "class"
# Columns of the final table; metadata of these names gets a prefix.
OF_CLUSTERING = ("cluster", "sub_cluster", "distance", "ratio", "outlier")
OF_CLUSTERS = ("cluster_size", "single_source")
RESERVED = (ROW, SOURCE, LABEL, CLASS, *OF_CLUSTERING, *OF_CLUSTERS)
_READ_ROWS = 256  # at a time, which bounds the images in memory
_KINDS = (pa.int64(), pa.float64(), pa.string())


def write_parts(dataset, folder: str, workers=None, comm=None) -> list[str]:
    """Writes the parts that are missing.

    Args:
        dataset: Dataset.
        folder: of the parts; those of another data set are removed.
        workers: processes; None: one per core.
        comm: Communicator of the workers that share the images, which all make the call.

    Returns:
        paths in row order; each has at most `PART_ROWS` rows.

    Raises:
        DataError: a shard cannot be read.
        Preempted: after Ctrl-C; the parts that are whole are kept.
    """
    comm, step = comm or ALONE, part_rows(dataset.rows, PART_ROWS, least=_LEAST_ROWS)
    owner = {"data": dataset.fingerprint(), "path": os.path.abspath(dataset.path), "step": step}
    with raise_on_all(comm):
        if comm.rank == 0:
            atomic.reset_foreign(os.path.join(folder, "parts.json"), owner)
    parts = [
        (start, min(start + step, dataset.rows), _part_path(folder, start))
        for start in range(0, dataset.rows, step)
    ]
    missing = [parts[number] for number in own_missing([[part[2]] for part in parts], comm)]
    write = functools.partial(_write_list, dataset.path)
    rows = sum(stop - start for start, stop, _ in missing)
    done = dataset.rows - rows if comm.size == 1 else 0
    shown = Progress(done + rows, "read names", "images", enabled=comm.rank == 0, done=done)
    with raise_on_all(comm), shown as progress:
        workers = own_processes(workers, comm)
        if workers == 1 or len(missing) <= 1:
            results = (count for part in missing for count in write([part]))
        else:
            results = map_lists(write, ([part] for part in missing), workers)
        for count in results:
            progress.update(count)
            stop_request.raise_if_requested("the parts that are whole are kept")
    return [path for _, _, path in parts]


def union_schema(paths) -> pa.Schema:
    """The schema that can hold all parts."""
    types = {}
    for path in paths:
        for field in pq.read_schema(path):
            types[field.name] = _wider(types.get(field.name), field.type)
    return pa.schema(list(types.items()))


def conformed(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table of a part with the columns and types of `union_schema`; missing ones are null."""
    columns = [
        converted(table[field.name].combine_chunks(), field.type)
        if field.name in table.column_names
        else pa.nulls(len(table), field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def corrupt_rows(table: pa.Table) -> int:
    """Number of rows whose record could not be read: they have no source."""
    return table[SOURCE].null_count


def _part_path(folder, start):
    return os.path.join(folder, f"rows-{start:012d}.parquet")


def _write_list(path, parts) -> list[int]:
    """Writes parts, (first row, end, path) each; the work of a process."""
    reader = RowReader(Dataset.open(path))
    return [_write_part(reader, *part) for part in parts]


def _write_part(reader, start, stop, path) -> int:
    sources, labels, columns = [], [], {}
    for row, example in enumerate(_examples(reader, start, stop), start):
        sources.append(example and example["source"])
        labels.append(example and example["label"])
        for name, value in (example["meta"] if example else {}).items():
            columns.setdefault(name, {})[row - start] = value
    arrays = {
        ROW: pa.array(np.arange(start, stop)),
        SOURCE: pa.array([name and utf8_text(name) for name in sources], pa.string()),
        LABEL: pa.array(labels, pa.int64()),
    }
    for name in sorted(columns):
        arrays[f"meta.{name}" if name in RESERVED else name] = _array(columns[name], stop - start)
    table = pa.table(arrays)
    atomic.write_file(path, lambda file: pq.write_table(table, file, compression="zstd"))
    return stop - start


def _examples(reader, start, stop):
    """Yields the decoded records of rows; None for a corrupt one."""
    for first in range(start, stop, _READ_ROWS):
        for record in reader.read(range(first, min(first + _READ_ROWS, stop)), corrupt=b""):
            try:
                yield schema.decode_example(record, reader.dataset.features)
            except ValueError:
                yield None


def _array(values, rows):
    """An array of {position: value or list} of one name, null elsewhere."""
    lists = {at: v if isinstance(v, list) else [v] for at, v in values.items()}
    kinds = {type(value) for each in lists.values() for value in each}
    kind = _KINDS[2 if kinds - {int, float} else 1 if float in kinds else 0]
    convert = _CONVERTERS[kind]
    lists = {at: [convert(value) for value in each] for at, each in lists.items()}
    if any(isinstance(value, list) for value in values.values()):
        return pa.array([lists.get(at) for at in range(rows)], pa.list_(kind))
    return pa.array([lists[at][0] if at in lists else None for at in range(rows)], kind)


def utf8_text(value) -> str:
    """A value as text that UTF-8 can hold; bytes of odd file names become escapes."""
    return str(value).encode("utf-8", "backslashreplace").decode()


_CONVERTERS = {pa.int64(): np.int64, pa.float64(): np.float64, pa.string(): utf8_text}


def _wider(a, b):
    if a is None or a == b:
        return b
    is_list = pa.types.is_list(a) or pa.types.is_list(b)
    kinds = [t.value_type if pa.types.is_list(t) else t for t in (a, b)]
    kind = max(kinds, key=_KINDS.index)
    return pa.list_(kind) if is_list else kind


def converted(array, to) -> pa.Array:
    """An array of a part in the type of `union_schema`: numbers as texts, values as lists."""
    if array.type == to:
        return array
    if pa.types.is_list(to) and not pa.types.is_list(array.type):
        ends = pc.cumulative_sum(array.is_valid().cast(pa.int32()))
        offsets = pa.concat_arrays([pa.array([0], pa.int32()), ends])
        values = array.drop_null().cast(to.value_type)
        return pa.ListArray.from_arrays(offsets, values, mask=array.is_null())
    return array.cast(to)
