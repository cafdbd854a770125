"""An inverted file over features of many rows, kept beside them.

    index = InvertedFile.of(features)            # builds it, or opens what is there
    found = index.nearest_rows(vectors, 10)
    index.statement                              # "recall@10 0.97 against exact search ..."

Rows are in lists by their nearest of some thousand centroids, each component as 8 bits; a search
reads the lists of the nearest centroids and compares the best candidates again with the features
themselves, so cosines are exact and only the choice of rows is approximate. How many lists are
read follows from the recall, measured on sampled rows against the comparison with every row.

Memory does not depend on the number of rows: the lists are built in parts, merged on disk and
mapped. Several workers share the parts; the first makes the centroids, merges and measures. An
interrupted build resumes with the parts that are missing.

Folder, `LAYER.index/lists-256` beside the features of a search:
    owner.json            fingerprint of the features and settings; with others it is built again
    trained.faiss         centroids and ranges of the components
    part-00000.faiss      lists of one part of the rows, until they are merged
    index.faiss, index.ivfdata    the merged lists
    index.json            lists, probes, recall; written last
"""

import contextlib
import os
import sys

import numpy as np

from dc_tf import atomic
from dc_tf.curation.features.directions import folder_of
from dc_tf.curation.features.neighbours import (
    Neighbours,
    best_of,
    nearest_rows,
    unit,
    unit_blocks,
    without_row,
)
from dc_tf.distributed import heartbeat, stop_request
from dc_tf.distributed.collective_errors import raise_on_all
from dc_tf.distributed.collectives import ALONE
from dc_tf.distributed.parts import all_missing, own_missing, part_rows
from dc_tf.progress import Progress

RECALL = 0.95  # to reach by reading more lists
_RECALL_AT = 10
_SAMPLED = 200
_PART_BYTES = 256 << 20  # of 8-bit components, in memory
_PART_LEAST = 65_536  # rows of a part, so that merging costs little
_SAMPLE_BYTES = 1 << 30  # of the rows that k-means sees
_PER_CENTROID, _LEAST_PER_CENTROID = 32, 8  # of these rows
_ITERATIONS = 6
_CANDIDATES = 4  # compared again, for each row that is asked for
_VERSION = 2


class InvertedFile:
    """An opened index.

    Attributes:
        about: dict of lists, probes, recall, recall_at, sampled and reached.
        statement: str, its recall in a sentence.
    """

    def __init__(self, features, folder):
        import faiss

        self._features = features
        self.about = atomic.read_json(os.path.join(folder, "index.json"))
        path = os.path.join(folder, "index.faiss")
        # The lists lie beside the index, wherever the folder was moved.
        with _silent():
            self._index = faiss.read_index(path, faiss.IO_FLAG_ONDISK_SAME_DIR)

    @classmethod
    def of(cls, features, folder=None, comm=None) -> "InvertedFile":
        """The index of the features, built if it is missing or belongs to others.

        Args:
            features: Directions, or Features.
            folder: for the index; None takes one beside the features.
            comm: Communicator of the workers that build it, which all make the call.

        Raises:
            ConfigError: another process builds it.
            DataError: a row is not finite.
            Preempted: the process was asked to stop; complete parts are kept.
        """
        folder = folder or os.path.join(folder_of(features), "lists")
        comm = comm or ALONE
        with contextlib.ExitStack() as end:
            with raise_on_all(comm):
                if comm.rank == 0:
                    _claim(features, folder, end)
            if len(all_missing([[os.path.join(folder, "index.json")]], comm)):
                _build(features, folder, comm)
        return cls(features, folder)

    @property
    def statement(self) -> str:
        about = self.about
        return (
            f"inverted file, recall@{about['recall_at']} {about['recall']:.3f} against exact "
            f"search, measured on {about['sampled']} sampled rows ({about['probes']} of "
            f"{about['lists']} lists are read)"
        )

    def nearest_rows(self, vectors, count) -> Neighbours:
        """As `neighbours.nearest_rows`, of the rows in the lists that are read."""
        return _search(self._features, self._index, vectors, count, self.about["probes"])


def list_count(rows, sampled) -> int:
    """Number of lists: about four times the root of the number of rows, a power of two.

    No more than the sampled rows of k-means can tell apart.
    """
    wanted = 4 * np.sqrt(rows)
    return 1 << max(0, int(np.log2(max(1, min(wanted, sampled / _LEAST_PER_CENTROID)))))


def _claim(features, folder, end):
    """Locks the folder until `end`, an ExitStack, and empties it if it belongs to others."""
    atomic.make_folder(os.path.dirname(folder))
    end.enter_context(atomic.locked(f"{folder}.lock", folder))
    owner = {"features": features.fingerprint(), "version": _VERSION}
    atomic.reset_foreign(os.path.join(folder, "owner.json"), owner)


def _build(features, folder, comm):
    trained = os.path.join(folder, "trained.faiss")
    with raise_on_all(comm):
        if comm.rank == 0 and not os.path.isfile(trained):
            _write_index(_trained(features), trained)
    step = part_rows(features.rows, max(1, _PART_BYTES // features.dim), least=_PART_LEAST)
    starts = range(0, features.rows, step)
    parts = [os.path.join(folder, f"part-{number:05d}.faiss") for number in range(len(starts))]
    own = own_missing([[path] for path in parts], comm)
    with raise_on_all(comm):
        spans = [(parts[number], starts[number]) for number in own]
        _write_parts(features, trained, spans, step, comm.rank == 0)
    with raise_on_all(comm):
        if comm.rank == 0:
            _finish(features, folder, trained, parts)


def _finish(features, folder, trained, parts):
    """Merges the parts and measures the recall."""
    index = _merged(folder, trained, parts)
    about = {"lists": index.nlist, "rows": features.rows, **_measured(features, index)}
    atomic.write_json(os.path.join(folder, "index.json"), about)
    for path in parts:
        os.remove(path)


def _trained(features):
    """An empty index with centroids of a sample of the rows, by spherical k-means."""
    import faiss

    from dc_tf.clustering.kmeans import kmeans

    most = min(_PER_CENTROID * list_count(features.rows, features.rows), features.rows)
    sample = _sample(features.rows, min(most, _SAMPLE_BYTES // (4 * features.dim)))
    lists = list_count(features.rows, len(sample))
    rows = unit(features.take(sample))
    total = len(rows) * (_ITERATIONS + 1)
    with Progress(total, "centroids of the index", "rows") as progress:
        report = lambda n, **_: progress.update(n)  # noqa: E731
        found = kmeans(rows, lists, iterations=_ITERATIONS, spherical=True, on_progress=report)
    index = faiss.index_factory(features.dim, f"IVF{lists},SQ8", faiss.METRIC_INNER_PRODUCT)
    faiss.extract_index_ivf(index).by_residual = False
    index.quantizer.add(found.centroids)
    index.train(rows)  # the ranges of the components
    return index


def _write_parts(features, trained, spans, step, shown):
    """Writes the lists of some parts of the rows, (path, first row) each."""
    import faiss

    total = sum(min(start + step, features.rows) - start for _, start in spans)
    with Progress(total, "index", "rows", enabled=shown) as progress:
        for path, start in spans:
            index = faiss.read_index(trained)
            for first, block in unit_blocks(features, start, min(start + step, features.rows)):
                index.add_with_ids(block, np.arange(first, first + len(block)))
                progress.update(len(block))
                stop_request.raise_if_requested("complete parts of the index are kept")
            _write_index(_without_centroids(index), path)


def _without_centroids(index):
    """The same lists, without the centroids that `trained.faiss` has as well."""
    index.quantizer.reset()
    return index


def _merged(folder, trained, parts):
    """One index over the lists of all parts, which lie on disk."""
    import faiss
    from faiss.contrib.ondisk import merge_ondisk

    index = faiss.read_index(trained)
    with heartbeat.slow_operation("merging the index"), _silent():
        merge_ondisk(index, parts, os.path.join(folder, "index.ivfdata"))
    _write_index(index, os.path.join(folder, "index.faiss"))
    return index


@contextlib.contextmanager
def _silent():
    """Discards what faiss prints to stdout about its files: stdout is for results."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def _measured(features, index) -> dict:
    """The fewest lists to read for RECALL, and the recall with them."""
    sample = _sample(features.rows, _SAMPLED, seed=1)
    vectors, count = features.take(sample), min(_RECALL_AT, features.rows - 1)
    exact = nearest_rows(features, vectors, count + 1, what="recall of the index")
    exact = without_row(exact, sample, count)
    probes = 1
    while True:
        found = _search(features, index, vectors, count + 1, probes)
        recall = _recall(without_row(found, sample, count), exact)
        if recall >= RECALL or probes >= index.nlist:
            break
        probes = min(2 * probes, index.nlist)
    return {"probes": probes, "recall": recall, "recall_at": count, "sampled": len(sample)}


def _recall(found, exact) -> float:
    """Share of rows as near as the exact ones; of rows that tie, any will do."""
    least = exact.cosines[:, -1:] - 1e-6
    return float(np.mean((found.cosines >= least) & (found.rows >= 0)))


def _search(features, index, vectors, count, probes):
    """Neighbours by the lists, compared again with the features."""
    import faiss

    vectors = unit(vectors)
    wanted = min(features.rows, _CANDIDATES * count)
    parameters = faiss.SearchParametersIVF(nprobe=probes)
    _, rows = index.search(vectors, wanted, params=parameters)
    cosines = np.full(rows.shape, -np.inf, np.float32)
    for number, candidates in enumerate(rows):
        there = candidates >= 0
        cosines[number, there] = unit(features.take(candidates[there])) @ vectors[number]
    found = best_of(rows, np.minimum(cosines, 1), min(count, wanted))
    return Neighbours(*found)


def _sample(rows, count, seed=0):
    """At most `count` distinct row ids, ascending."""
    if count >= rows:
        return np.arange(rows)
    return np.sort(np.random.default_rng(seed).choice(rows, count, replace=False))


def _write_index(index, path):
    import faiss

    with atomic.replacing(path) as staging:
        faiss.write_index(index, staging)
