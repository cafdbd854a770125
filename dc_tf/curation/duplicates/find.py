"""Finds groups of images that are copies of one another, and the one of each group to keep.

    found = find_duplicates(features, settings, "WORK")       # resumes
    found.rows, found.group, found.keeper                      # of the images that have a copy

Three kinds of copies: of the same bytes; of the same pixels once decoded; and near ones, whose
features have a cosine of at least a threshold. Near ones are looked for within clusters and
between those next to each other (`near_pairs`). Copies of copies are one group. Nothing is deleted.
Several workers share the images, the rows of k-means and the clusters that are compared.

Work folder, which a restart resumes from and another threshold uses again:
    images/       digests and sizes (`row_facts`)
    kmeans/       clusters, where none were given
    clusters/     rows by cluster
    pairs/        near pairs, a file for each part of the clusters
"""

import dataclasses
import hashlib
import os

import numpy as np

from dc_tf import atomic
from dc_tf.clustering.store.points import Block
from dc_tf.curation.duplicates.cluster_rows import ClusterRows
from dc_tf.curation.duplicates.groups import choose_keepers, connecting, grouped
from dc_tf.curation.duplicates.near_pairs import near_pairs
from dc_tf.curation.duplicates.row_facts import FACTS, RowFacts
from dc_tf.curation.features.directions import DIM, Directions
from dc_tf.curation.features.neighbours import unit
from dc_tf.curation.shared_columns import joined_columns
from dc_tf.distributed import heartbeat, stop_request
from dc_tf.distributed.blocks import row_block
from dc_tf.distributed.collective_errors import raise_on_all
from dc_tf.distributed.collectives import ALONE
from dc_tf.distributed.parts import all_missing, own_missing, part_rows
from dc_tf.errors import ConfigError
from dc_tf.progress import Progress

BYTES, PIXELS, NEAR = "bytes", "pixels", "near"  # kinds of copies
ALL_PAIRS = 32_768  # rows up to which every pair is compared, as one cluster
_ITERATIONS = 8  # of k-means
_PART_ROWS, _PART_LEAST = 500_000, 4096  # of a file of pairs
_TAKE_ROWS = 65_536


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is a copy, and where it is looked for.

    Attributes:
        threshold: least cosine of near copies, in (0, 1].
        whiten: directions that the features are whitened to; 0 compares them as they are.
        pixels: whether to decode the images, to find equal pixels in different files.
        k: number of clusters that are made; 0: one up to `ALL_PAIRS` rows, else the square root
            of the number of rows.
        neighbours: clusters next to a row's own that it is compared with.
        seed: of k-means.
    """

    threshold: float = 0.8
    whiten: int = DIM
    pixels: bool = True
    k: int = 0
    neighbours: int = 4
    seed: int = 0

    def __post_init__(self):
        if not 0 < self.threshold <= 1:
            raise ConfigError(
                f"--threshold={self.threshold}; use a cosine above 0 and at most 1, such as 0.8."
            )
        for name in ("whiten", "k", "neighbours", "seed"):
            if getattr(self, name) < 0:
                raise ConfigError(f"--{name}={getattr(self, name)}; use 0 or more.")

    def clusters(self, rows) -> int:
        """Number of clusters for so many rows."""
        return self.k or (1 if rows <= ALL_PAIRS else round(rows**0.5))


@dataclasses.dataclass(frozen=True)
class Duplicates:
    """The images that have a copy, by group, the one that stays first, then the most similar.

    Attributes:
        rows: (n,) int64 row ids.
        group: (n,) int64, ascending; groups are numbered by their lowest row.
        keeper: (n,) bool, the one of the group that stays.
        kind: (n,) str, how it equals the one that stays: BYTES, PIXELS or NEAR; "" of that one.
        similarity: (n,) float32, cosine with the one that stays. A near copy of a copy may be
            below the threshold.
        width, height: (n,) int32 pixels; 0 without a data set.
        corrupt: number of images that cannot be read; they have no copies.
        clusters: number of clusters.
    """

    rows: np.ndarray
    group: np.ndarray
    keeper: np.ndarray
    kind: np.ndarray
    similarity: np.ndarray
    width: np.ndarray
    height: np.ndarray
    corrupt: int
    clusters: int

    @property
    def dropped(self) -> np.ndarray:
        """(m,) ascending int64 row ids that have a copy that stays."""
        return np.sort(self.rows[~self.keeper])


def find_duplicates(
    features, settings, work, given=None, workers=None, comm=None
) -> Duplicates | None:
    """Finds the copies.

    Args:
        features: Features; without a data set only near copies are looked for.
        settings: Settings.
        work: folder for intermediate results, created if missing.
        given: clusters to look in, ((rows,) integers, their number); None makes some by k-means.
        workers: processes that decode images; None: one for each core.
        comm: Communicator of the workers, which see `work` and all make the call.

    Returns:
        Duplicates on the chief, None on the others.

    Raises:
        ConfigError: settings that cannot work.
        DataError: features or a shard that cannot be read.
        Preempted: the process was asked to stop; what is done is kept in `work`.
    """
    comm = comm or ALONE
    atomic.make_folder(work)
    facts, equal = None, [np.empty((2, 0), np.int64)]
    if features.dataset is not None:
        folder = os.path.join(work, "images")
        facts = RowFacts.of(features.dataset, folder, settings.pixels, workers, comm)
        equal += map(np.stack, facts.equal_rows(PIXELS if settings.pixels else BYTES))
    equal = np.concatenate(equal, axis=1)
    corrupt = facts.corrupt() if facts else np.empty(0, np.int64)
    features = Directions.of(features, settings.whiten, comm)
    labels, k = given or _made_clusters(features, settings, work, comm)
    # Of equal images the lowest row stands for all, and corrupt ones have features of others.
    without = np.union1d(equal[1], corrupt)
    folder = os.path.join(work, "clusters")
    clusters = ClusterRows.of(features, labels, k, folder, without, comm)
    near = _near(features, clusters, settings, work, without, comm)
    if comm.rank:
        return None
    pairs = np.concatenate([equal, near], axis=1)
    with heartbeat.slow_operation("groups of copies"):
        return _described(features, facts, clusters, labels, pairs, len(corrupt))


def _made_clusters(features, settings, work, comm):
    """(labels, k) by k-means of the directions of the rows."""
    k = settings.clusters(features.rows)
    if k == 1:
        return np.zeros(features.rows, np.int8), 1
    if k > features.rows:
        raise ConfigError(f"--k={k} clusters need as many rows, and there are {features.rows}.")
    folder = os.path.join(work, "kmeans")
    owner = {"features": features.fingerprint(), "k": k, "seed": settings.seed}
    _own(folder, owner, comm)
    path = os.path.join(folder, "labels.npy")
    if len(all_missing([[path]], comm)):
        own = row_block(features.rows, comm.rank, comm.size)
        block = Block(features, own.start, own.stop)
        found = _clustered(block, k, settings.seed, os.path.join(folder, "state"), comm)
        joined_columns(folder, {"labels": found}, comm)
        if comm.size == 1:
            atomic.write_file(path, lambda file: np.save(file, found))
    return np.load(path, mmap_mode="r"), k


def _clustered(points, k, seed, folder, comm):
    """(rows,) int32 labels; k-means of directions resumes after the iteration it was saved at."""
    from dc_tf.clustering.kmeans import kmeans  # and TensorFlow, which few rows do not need
    from dc_tf.clustering.shared_state import SharedState

    shared = SharedState(folder, comm)
    state = shared.newest(k, points.dim)
    total = (_ITERATIONS + 1) * points.rows
    done = state.iteration * points.rows if state else 0
    shown = Progress(total, "k-means", "rows", enabled=comm.rank == 0, done=done)
    with shown as progress:
        return kmeans(
            points,
            k,
            comm,
            seed=seed,
            iterations=_ITERATIONS,
            spherical=True,
            state=state,
            on_iteration=shared.save_if_due,
            on_progress=lambda rows, **_: progress.update(rows),
        ).assignments


def _near(features, clusters, settings, work, without, comm):
    """(2, n) int64 near pairs; those of each part of the clusters are kept in a file."""
    folder = os.path.join(work, "pairs")
    owner = {
        "features": features.fingerprint(),
        "threshold": settings.threshold,
        "neighbours": settings.neighbours,
        "clusters": _digest(clusters.starts, clusters.centroids, without),
    }
    _own(folder, owner, comm)
    others = clusters.next_to(settings.neighbours)
    parts = list(_parts(clusters.starts))
    paths = [os.path.join(folder, f"clusters-{first:09d}-{stop:09d}.npy") for first, stop in parts]
    own = own_missing([[path] for path in paths], comm)
    total = sum(int(clusters.starts[parts[n][1]] - clusters.starts[parts[n][0]]) for n in own)
    shown = Progress(total, "near copies", "rows", enabled=comm.rank == 0)
    with raise_on_all(comm), shown as progress:
        for number in own:
            found = _near_part(features, clusters, settings, *parts[number], others, progress)
            atomic.write_file(paths[number], lambda file, found=found: np.save(file, found))
    found = [np.load(path) for path in paths] if comm.rank == 0 else []
    return np.concatenate([np.empty((2, 0), np.int64), *found], axis=1)


def _near_part(features, clusters, settings, first, stop, others, progress):
    pairs = [np.empty((2, 0), np.int64)]
    for pair in near_pairs(features, clusters, settings.threshold, first, stop, others, progress):
        pairs.append(np.stack(pair))
        stop_request.raise_if_requested("what was compared is kept")
    return np.stack(connecting(*np.concatenate(pairs, axis=1)))


def _parts(starts):
    """Yields (first, stop) of consecutive clusters with about as many rows together."""
    first, step = 0, part_rows(int(starts[-1]), _PART_ROWS, least=_PART_LEAST)
    while first < len(starts) - 1:
        stop = int(np.searchsorted(starts, starts[first] + step))
        stop = min(max(stop, first + 1), len(starts) - 1)
        yield first, stop
        first = stop


def _described(features, facts, clusters, labels, pairs, corrupt):
    """The Duplicates that pairs mean."""
    rows, group = grouped(*pairs)
    about = facts.take(rows) if facts else None
    if about is None:
        about = np.zeros(len(rows), FACTS)
    width, height = about["width"], about["height"]
    closeness = _cosines(features, rows, clusters.centroids, np.asarray(labels[rows], np.int64))
    keepers = choose_keepers(rows, group, width.astype(np.int64) * height, closeness)
    own_keeper = keepers[group]
    similarity = _cosines_of_rows(features, rows, rows[own_keeper])
    is_keeper = own_keeper == np.arange(len(rows))
    kind = np.where(is_keeper, "", _kinds(about, own_keeper))
    order = np.lexsort((rows, -similarity, ~is_keeper, group))
    columns = (rows, group, is_keeper, kind, similarity, width, height)
    return Duplicates(*(column[order] for column in columns), corrupt, clusters.k)


def _kinds(about, own_keeper):
    kept = about[own_keeper]
    same_bytes, same_pixels = (
        (about[name] == kept[name]) & (about[name] != b"") for name in ("bytes", "pixels")
    )
    return np.where(same_bytes, BYTES, np.where(same_pixels, PIXELS, NEAR))


def _cosines(features, rows, centroids, labels):
    """(n,) float32 cosines of rows with the centroids of their clusters."""
    found = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), _TAKE_ROWS):
        part = slice(start, start + _TAKE_ROWS)
        block = unit(features.take(rows[part]))
        found[part] = np.einsum("nd,nd->n", block, centroids[labels[part]])
    return found


def _cosines_of_rows(features, rows, others):
    """(n,) float32 cosines of rows with other rows."""
    found = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), _TAKE_ROWS):
        part = slice(start, start + _TAKE_ROWS)
        a, b = unit(features.take(rows[part])), unit(features.take(others[part]))
        found[part] = np.minimum(np.einsum("nd,nd->n", a, b), 1)
    return found


def _own(folder, owner, comm):
    """Makes the folder empty unless it belongs to `owner`."""
    with raise_on_all(comm):
        if comm.rank == 0:
            atomic.reset_foreign(os.path.join(folder, "owner.json"), owner)


def _digest(*arrays):
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
