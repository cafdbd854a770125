"""Makes the tree of clusters of some features, on one or many workers, as TF_CONFIG says.

    tree = grow(features, HierarchyOptions(clusters=(1000, 100)), "/data/tree")

A finished tree is opened again; an interrupted call resumes.
"""

import contextlib
import dataclasses
import functools
import os
import shutil

import numpy as np

from dc_tf import atomic
from dc_tf.clustering.store.embeddings import UnitRows
from dc_tf.curation.tree import Tree
from dc_tf.distributed.blocks import row_block
from dc_tf.distributed.task import task_from_environment
from dc_tf.errors import ConfigError


def grow(features, options, folder, normalize=False, timeout_s=600.0) -> Tree | None:
    """The tree of all rows.

    Args:
        features: curation.features.Features.
        options: HierarchyOptions.
        folder: of the tree, shared by all workers; made if missing.
        normalize: scale every row to length 1.
        timeout_s: seconds that a worker may be silent; 0: for ever.

    Returns:
        Tree on the first worker, None on the others.

    Raises:
        ConfigError: settings that cannot work, or a folder with something else.
        DataError: rows that are not finite, or a folder that cannot be written.
        Preempted: a worker was asked to stop; what was done is saved.
    """
    from dc_tf.curation.tree_store import TreeStore
    from dc_tf.distributed.session import join, leaving, watched, writable

    atomic.require_mounted(folder, "--tree")
    folder = os.path.abspath(os.path.expanduser(folder))
    setting, task, store = f"--tree={folder}", task_from_environment(), TreeStore(folder)
    watch = f"{folder}.workers"
    with contextlib.ExitStack() as end:
        tidy = functools.partial(shutil.rmtree, watch, ignore_errors=True)  # all do it at once
        if task.size == 1:
            end.callback(tidy)
        heartbeats, stacks = (os.path.join(watch, name) for name in ("heartbeats", "stacks"))
        with watched(setting, heartbeats, stacks, task, timeout_s) as watchdog:
            if task.rank == 0:
                with writable(setting):
                    end.enter_context(atomic.locked(os.path.join(watch, "lock"), setting))
            cluster = join(watchdog)
            end.enter_context(leaving(cluster, tidy))
            _make(features, options, store, normalize, cluster)
    return store.read() if task.rank == 0 else None


def _make(features, options, store, normalize, cluster):
    """Does this worker's part."""
    from dc_tf.curation.hierarchical_kmeans import hierarchical_kmeans
    from dc_tf.distributed.collective_errors import raise_on_all

    comm = cluster.world
    settings = {
        "features": features.fingerprint(),
        "rows": features.rows,
        "normalize": normalize,
        **dataclasses.asdict(options),
        "clusters": list(options.clusters),
    }
    with raise_on_all(comm):
        if features.rows < options.clusters[0]:
            raise ConfigError(
                f"--levels={','.join(map(str, options.clusters))}: {options.clusters[0]} clusters "
                f"need as many rows, and there are {features.rows}."
            )
        if comm.rank == 0:
            store.claim(settings)
    if int(comm.broadcast(np.int64(comm.rank == 0 and store.is_finished()))):
        return
    own = row_block(features.rows, comm.rank, comm.size)
    points = _Block(features, own.start, own.stop)
    tree = hierarchical_kmeans(UnitRows(points) if normalize else points, options, comm, store)
    with raise_on_all(comm):
        store.write_part(tree, comm)
    with raise_on_all(comm):
        if comm.rank == 0:
            store.join_parts(tree, comm.size)


class _Block:
    """Rows [start, stop) of other points."""

    def __init__(self, points, start, stop):
        self.rows, self.dim, self.dtype = stop - start, points.dim, points.dtype
        self._points, self._start = points, start

    def read(self, start, stop):
        return self._points.read(self._start + start, self._start + stop)

    def take(self, positions):
        return self._points.take(self._start + positions)
