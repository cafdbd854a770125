"""Clusters whose images all have one source, from the table of the clustering, kept on disk.

single = single_sources(table, index, 10, "WORK/single")       # (count,) bool, or None
"""

import os

import numpy as np
import pyarrow.parquet as pq

from dc_tf import atomic

_BATCH_ROWS = 1 << 18
_SINGLE = "single_source"


def single_sources(table, index, sub_clusters: int, folder: str) -> np.ndarray | None:
    """Reads the table once; its rows report only what is the same for all of their cluster.

    Args:
        table: TextTable, or None.
        index: ClusterIndex.
        sub_clusters: of each cluster of the first level; 1 for one level.
        folder: keeps the answer for this table.

    Returns:
        (count,) bool; None where the table is of another clustering, or does not say.
    """
    if table is None or _SINGLE not in pq.read_schema(table.path).names:
        return None
    status, path = os.stat(table.path), os.path.join(folder, "single.npy")
    owner = {"path": table.path, "size": status.st_size, "time": status.st_mtime_ns}
    owner["clusters"] = [index.count, sub_clusters]
    atomic.reset_foreign(os.path.join(folder, "owner.json"), owner)
    if not os.path.isfile(path):
        found = _read(table, index, sub_clusters)
        atomic.write_file(path, lambda file: np.save(file, found))
    found = np.load(path)
    return found if len(found) else None


def _read(table, index, sub_clusters):
    """(count,) bool; (0,) where the table is of another clustering or has no source."""
    single, first = np.zeros(index.count, bool), 0
    names = ["cluster", "sub_cluster"] if sub_clusters > 1 else ["cluster"]
    with pq.ParquetFile(table.path) as file:
        if not set(names) <= set(file.schema_arrow.names):
            return np.zeros(0, bool)
        for batch in file.iter_batches(_BATCH_ROWS, columns=[*names, _SINGLE]):
            flat = batch["cluster"].to_numpy().astype(np.int64) * sub_clusters
            if sub_clusters > 1:
                flat += batch["sub_cluster"].to_numpy()
            same = np.array_equal(flat, index.flat[first : first + len(flat)])
            if not same or batch[_SINGLE].null_count:
                return np.zeros(0, bool)
            single[flat] = batch[_SINGLE].to_numpy(zero_copy_only=False)
            first += len(flat)
    return single
