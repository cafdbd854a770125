"""The table of a clustering: a row per image with source, cluster, distance, label and metadata.

    write_cluster_table(open_clustering(run="RUN"), "clusters.parquet")
    pandas.read_parquet("clusters.parquet").groupby("cluster").size()

Columns: `row` (row id), `source`, `cluster`, `sub_cluster` (with two levels), `distance` to the own
centroid and `ratio` of it to the nearest other one (null where not known), `outlier` by the rule of
`outliers.py` (null without distances), `cluster_size` and `single_source` of the row's cluster
(with two levels, of its sub-cluster; null where no image has a user), `label`, `class`, and one per
name of metadata. Memory does not grow with the number of rows: images are read in parts
(`record_parts.py`), and the table is written part by part.
"""

import dataclasses
import os

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dc_tf import atomic
from dc_tf.curation.clusters import outliers, record_parts
from dc_tf.curation.clusters.record_parts import CLASS, LABEL, ROW, SOURCE
from dc_tf.curation.tables import TableWriter, check_table_path


def write_cluster_table(
    clustering, output: str, workers: int | None = None, comm=None
) -> dict | None:
    """Writes the table of a clustering; the same call resumes an interrupted one.

    Args:
        clustering: clusters.open.Clustering.
        output: path of the file, replaced if it exists; its ending is one of `tables.ENDINGS`.
        workers: processes that read images; None: one per core.
        comm: Communicator of the workers that share the images, which all make the call; the chief
            writes the table.

    Returns:
        dict of output, rows, clusters, columns (names) and corrupt_rows; None on workers other than
        the chief.

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
    facts = _Facts.of(clustering, paths, records)
    schema = _with_clusters(records.empty_table(), clustering, facts).schema
    corrupt = 0
    with TableWriter(output, schema) as table:
        for path in paths:
            part = record_parts.conformed(pq.read_table(path), records)
            corrupt += record_parts.corrupt_rows(part)
            table.write(_with_clusters(part, clustering, facts))
    atomic.remove_tree(folder)
    return {
        "output": os.path.abspath(output),
        "rows": clustering.dataset.rows,
        "clusters": clustering.count,
        "columns": schema.names,
        "corrupt_rows": corrupt,
    }


@dataclasses.dataclass(frozen=True)
class _Facts:
    """What is known of clusters from all rows.

    Attributes:
        sizes: (count,) int64.
        statistics: of `outliers.distance_statistics`.
        single: (count,) bool, or None where no image has a source.
    """

    sizes: np.ndarray
    statistics: np.ndarray | None
    single: np.ndarray | None

    @classmethod
    def of(cls, clustering, paths, schema):
        name, single = outliers.source_column(schema.names), None
        if name is not None:
            sources = outliers.Sources(clustering.count)
            for path in paths:
                part = pq.read_table(path, columns=[ROW])
                flat = clustering.flat(_span(part[ROW].to_numpy()))
                if name in pq.read_schema(path).names:
                    values = pq.read_table(path, columns=[name])[name].combine_chunks()
                    sources.add(flat, record_parts.converted(values, schema.field(name).type))
            single = sources.single()
        return cls(clustering.sizes(), outliers.distance_statistics(clustering), single)


def _span(rows):
    """The slice of consecutive row ids."""
    return slice(int(rows[0]), int(rows[-1]) + 1) if len(rows) else slice(0)


def _with_clusters(records, clustering, facts):
    """The records of consecutive rows, with the columns of the clustering."""
    rows = records[ROW].to_numpy()
    part = _span(rows)
    columns = {ROW: records[ROW], SOURCE: records[SOURCE]}
    columns["cluster"] = pa.array(np.asarray(clustering.cluster[part], np.int32))
    if clustering.sub_clusters > 1:
        columns["sub_cluster"] = pa.array(np.asarray(clustering.sub[part], np.int32))
    for name in ("distance", "ratio"):
        values = getattr(clustering, name)
        if values is None:
            columns[name] = pa.nulls(len(rows), pa.float32())
        else:
            columns[name] = pa.array(np.asarray(values[part], np.float32))
    flat = clustering.flat(part)
    columns["outlier"] = pa.nulls(len(rows), pa.bool_())
    if facts.statistics is not None:
        far = outliers.deviations(clustering.distance[part], flat, facts.statistics, facts.sizes)
        columns["outlier"] = pa.array(outliers.is_outlier(far))
    columns["cluster_size"] = pa.array(facts.sizes[flat])
    columns["single_source"] = pa.nulls(len(rows), pa.bool_())
    if facts.single is not None:
        columns["single_source"] = pa.array(facts.single[flat])
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
