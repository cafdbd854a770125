"""The table of a clustering: a row per image with file, cluster, distance, label and metadata.

    write_cluster_table(open_clustering(run="RUN"), "clusters.parquet")
    pandas.read_parquet("clusters.parquet").groupby("cluster").size()

Columns: `row` (row id), `file`, `cluster`, `sub_cluster` (with two levels), `distance` to the own
centroid and `ratio` of it to the nearest other one (null where not known), `label`, `class`, and
one per name of metadata. Memory does not grow with the number of rows: images are read in parts
(`record_parts.py`), and the table is written part by part.
"""

import os

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dc_tf import atomic
from dc_tf.curation import record_parts
from dc_tf.curation.record_parts import CLASS, FILE, LABEL, ROW
from dc_tf.curation.tables import TableWriter, check_table_path


def write_cluster_table(
    clustering, output: str, workers: int | None = None, comm=None
) -> dict | None:
    """Writes the table of a clustering; the same call resumes an interrupted one.

    Args:
        clustering: clusters.Clustering.
        output: path of the file, replaced if it exists; its ending is one of `tables.ENDINGS`.
        workers: processes that read images; None: one per core.
        comm: Communicator of the workers that share the images, which all make the call; the first
            one writes the table.

    Returns:
        dict of output, rows, clusters, columns (names) and corrupt_rows; None on workers other than
        the first.

    Raises:
        ConfigError: an output that cannot be written.
        DataError: a shard cannot be read.
        Preempted: after Ctrl-C; what was read is kept beside the output.
    """
    check_table_path(output)
    folder = f"{output}.parts"
    paths = record_parts.write_parts(clustering.dataset, folder, workers, comm)
    if comm is not None and comm.rank:
        return None
    records = record_parts.union_schema(paths)
    schema = _with_clusters(records.empty_table(), clustering).schema
    corrupt = 0
    with TableWriter(output, schema) as table:
        for path in paths:
            part = record_parts.conformed(pq.read_table(path), records)
            corrupt += record_parts.corrupt_rows(part)
            table.write(_with_clusters(part, clustering))
    atomic.remove_tree(folder)
    return {
        "output": os.path.abspath(output),
        "rows": clustering.dataset.rows,
        "clusters": clustering.count,
        "columns": schema.names,
        "corrupt_rows": corrupt,
    }


def _with_clusters(records, clustering):
    """The records of consecutive rows, with the columns of the clustering."""
    rows = records[ROW].to_numpy()
    part = slice(int(rows[0]), int(rows[-1]) + 1) if len(rows) else slice(0)
    columns = {ROW: records[ROW], FILE: records[FILE]}
    columns["cluster"] = pa.array(np.asarray(clustering.cluster[part], np.int32))
    if clustering.sub_clusters > 1:
        columns["sub_cluster"] = pa.array(np.asarray(clustering.sub[part], np.int32))
    for name in ("distance", "ratio"):
        values = getattr(clustering, name)
        if values is None:
            columns[name] = pa.nulls(len(rows), pa.float32())
        else:
            columns[name] = pa.array(np.asarray(values[part], np.float32))
    columns[LABEL] = records[LABEL]
    if clustering.dataset.class_names:
        columns[CLASS] = _classes(records[LABEL], clustering.dataset.class_names)
    for name in records.column_names:
        columns.setdefault(name, records[name])
    return pa.table(columns)


def _classes(labels, names):
    """Names of classes; null for an image without a label, and for one without a name."""
    known = pc.if_else(pc.less(labels, len(names)), labels, pa.scalar(None, pa.int64()))
    names = pa.array([record_parts.utf8_text(name) for name in names], pa.string())
    return names.take(known.combine_chunks())
