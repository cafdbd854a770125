"""Makes the tree of clusters of some features, on one or many workers.

    tree = grow(features, HierarchyOptions(clusters=(1000, 100)), "/data/tree")

A finished tree is opened again; an interrupted call resumes. All levels are multiplied in one type,
which the tree keeps.
"""

import contextlib
import dataclasses
import os

from dc_tf import atomic
from dc_tf.clustering.store.embeddings import UnitRows
from dc_tf.curation.tree.tree import Tree
from dc_tf.distributed.blocks import row_block
from dc_tf.errors import ConfigError
from dc_tf.limits import AUTO


def grow(features, options, folder, normalize=False, comm=None) -> Tree | None:
    """The tree of all rows.

    Args:
        features: features.open.Features.
        options: HierarchyOptions.
        folder: of the tree, shared by all workers; made if missing.
        normalize: scale every row to length 1.
        comm: Communicator of the workers, which all make the call; None is this one alone.

    Returns:
        Tree on the chief, None on the others.

    Raises:
        ConfigError: settings that cannot work, or a folder with something else.
        DataError: rows that are not finite, or a folder that cannot be written.
        Preempted: a worker was asked to stop; what was done is saved.
    """
    from dc_tf.curation.tree.store import TreeStore
    from dc_tf.distributed.collective_errors import raise_on_all
    from dc_tf.distributed.collectives import ALONE

    comm, folder = comm or ALONE, os.path.abspath(os.path.expanduser(folder))
    store = TreeStore(folder)
    with contextlib.ExitStack() as end:
        with raise_on_all(comm):
            atomic.require_mounted(folder, "--tree")
            if comm.rank == 0:
                _lock(folder, end)
        _make(features, options, store, normalize, comm)
    return store.read() if comm.rank == 0 else None


def _lock(folder, end):
    """Keeps other processes from making a tree in the folder until `end`, an ExitStack."""
    from dc_tf.distributed.session import writable

    path = f"{folder}.lock"
    with writable(f"--tree={folder}"):
        atomic.make_folder(os.path.dirname(path))
        end.enter_context(atomic.locked(path, f"--tree={folder}"))
        end.callback(os.remove, path)


def _make(features, options, store, normalize, comm):
    """Does this worker's part."""
    from dc_tf.clustering.search.backends import choose_precision
    from dc_tf.clustering.store.points import Block
    from dc_tf.curation.tree.hierarchical_kmeans import hierarchical_kmeans
    from dc_tf.distributed.collective_errors import raise_on_all
    from dc_tf.distributed.collectives import broadcast_json
    from dc_tf.precision import print_choice

    with raise_on_all(comm):
        if features.rows < options.clusters[0]:
            raise ConfigError(
                f"--levels={','.join(map(str, options.clusters))}: {options.clusters[0]} clusters "
                f"need as many rows, and there are {features.rows}."
            )
        begun = (store.precision(), store.is_finished()) if comm.rank == 0 else None
    precision, is_finished = broadcast_json(begun, comm)
    if options.precision != AUTO:
        precision = options.precision
    if not is_finished:  # a finished tree multiplies nothing
        choice = choose_precision(precision, AUTO, options.clusters[0], features.dim, comm)
        precision = choice.dtype if precision == AUTO else precision
    with raise_on_all(comm):
        if comm.rank == 0:
            store.claim(_settings(features, options, precision, normalize))
    if is_finished:
        return
    if comm.rank == 0:
        print_choice(choice, "curate")
    own = row_block(features.rows, comm.rank, comm.size)
    points = Block(features, own.start, own.stop)
    options = dataclasses.replace(options, precision=choice.dtype)
    tree = hierarchical_kmeans(UnitRows(points) if normalize else points, options, comm, store)
    with raise_on_all(comm):
        store.write_part(tree, comm)
    with raise_on_all(comm):
        if comm.rank == 0:
            store.join_parts(tree, comm.size)


def _settings(features, options, precision, normalize) -> dict:
    """What the tree depends on, JSON-ready."""
    return {
        "features": features.fingerprint(),
        "rows": features.rows,
        "normalize": normalize,
        **dataclasses.asdict(options),
        "clusters": list(options.clusters),
        "precision": precision,
    }
