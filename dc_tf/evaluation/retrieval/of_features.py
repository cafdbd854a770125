"""Retrieval by given features: every image asks for the others of its class.

    result, table = run(request, Protocol())

Vectors are whitened by the features of --train (other images) if it is given, and scaled to length
1. The images of --test are database and queries; a query itself does not count. At most
`MOST_QUERIES` images, evenly spread, are queries.
"""

import numpy as np

from dc_tf.clustering.store.whitening import Moments, Whitening
from dc_tf.data.storage.manifest import Dataset
from dc_tf.distributed.blocks import gather_rows
from dc_tf.distributed.collectives import all_gather
from dc_tf.errors import ConfigError, DataError
from dc_tf.evaluation.average_precision import average_precision
from dc_tf.evaluation.cost import Part, Work, spread
from dc_tf.evaluation.frozen.given_features import given_model, of_test, open_matrix, places_of
from dc_tf.evaluation.neighbours import FIRST, of_rows
from dc_tf.evaluation.retrieval.rankings import rankings
from dc_tf.evaluation.retrieval.rmac import normalized
from dc_tf.progress import Progress

MOST_QUERIES = 10_000
_BLOCK = 1 << 16  # rows
_ROWS_PER_DIRECTION = 4  # that tell a strong direction from a weak one


def run(request, protocol) -> tuple[dict, str]:
    """Measures; arguments as of `retrieval.task.run`.

    Raises:
        ConfigError: no labels, or features of other data sets.
    """
    if not request.test:
        raise ConfigError("--test is missing; give the data set of the features' labels.")
    features = open_matrix(request, "features")
    dataset = Dataset.open(request.test)
    rows, labels = _labelled(dataset)
    database = of_test(request, features)
    places = places_of(database, dataset, rows)
    request.opened["test"] = dataset.fingerprint()
    whitening, fitted = _whitening(request, features, protocol)
    vectors = _vectors(database, places, whitening)
    asked = np.flatnonzero(np.bincount(labels)[labels] > 1)
    asked = asked[np.unique(spread(len(asked), min(len(asked), MOST_QUERIES)))]
    if not len(asked):
        raise DataError(f"no class of {dataset.path} has two images; nothing can be retrieved.")
    frozen = given_model(request, features)
    request.announce(lambda: _work(vectors, labels, asked), networks=1)
    first, mean = _ranked(vectors, labels, asked, request.world)
    if request.neighbours is not None:
        similarities = np.einsum("qd,qnd->qn", vectors[asked], vectors[first])
        request.neighbours.extend(of_rows(dataset, rows[asked], rows[first], similarities))
    result = {
        "map": mean,
        "random_init_map": None,
        "kind": "classes",
        "images": len(rows),
        "queries": len(asked),
        "whitening_images": fitted,
        "dimensions": vectors.shape[1],
        "network": frozen.network,
    }
    return result, _table(frozen.trunk.feature_layer, result)


def _labelled(dataset):
    """(n,) ids of the rows with a label, and their (n,) labels."""
    labels = dataset.labels()
    rows = np.flatnonzero(labels >= 0)
    if not len(rows):
        raise ConfigError(f"the data set {dataset.path} has no labels, which this task needs.")
    return rows, labels[rows]


def _whitening(request, features, protocol):
    """The map fitted on --train, or None, and how many images it was fitted on."""
    if not request.train:
        return None, 0
    dataset = Dataset.open(request.train)
    places = places_of(features, dataset, np.arange(dataset.rows))
    request.opened["train"] = dataset.fingerprint()
    if protocol.dimensions > features.dim:
        raise ConfigError(
            f"dimensions is {protocol.dimensions}, but rows of {features.path} have "
            f"{features.dim} values; use that or fewer, or 0."
        )
    fitting = max(1, min(features.dim, len(places) // _ROWS_PER_DIRECTION))
    moments = Moments(features.dim)
    own = places[request.world.rank :: request.world.size]
    for start in range(0, len(own), _BLOCK):
        moments.update(features.take(own[start : start + _BLOCK]))
    return Whitening.fit(moments, request.world, protocol.dimensions or fitting), len(places)


def _vectors(features, places, whitening) -> np.ndarray:
    """(n, d) float32 of length 1."""
    parts = []
    for start in range(0, len(places), _BLOCK):
        rows = features.take(places[start : start + _BLOCK])
        parts.append(normalized(rows if whitening is None else whitening.apply(rows)))
    return np.concatenate(parts)


def _work(vectors, labels, asked) -> Work:
    """The work that is left once the vectors are read: every query ranks all images."""

    def sample(queries):
        for _ in _answers(vectors, labels, asked[:queries]):
            pass
        return queries

    text = f"{len(asked):,} queries in {len(vectors):,} images"
    return Work(text, (Part("queries", len(asked), sample, len(asked)),))


def _ranked(vectors, labels, asked, world) -> tuple[np.ndarray, float]:
    """The (q, n) first places of each query of `asked`, and mean average precision over them.

    Workers share the queries; all get both.
    """
    mine = range(world.rank, len(asked), world.size)
    own, total = asked[mine], 0.0
    first = np.zeros((len(own), min(FIRST, len(vectors) - 1)), np.int64)
    with Progress(len(own), "retrieval", "queries", enabled=world.rank == 0) as progress:
        for place, (others, precision) in enumerate(_answers(vectors, labels, own)):
            first[place] = others[: first.shape[1]]
            total += precision
            progress.update(1)
    first = gather_rows(first, mine, len(asked), world)
    return first, float(all_gather(total, world).sum()) / len(asked)


def _answers(vectors, labels, queries):
    """Yields for each query the other places by similarity, and the average precision."""
    for query, ranked in zip(queries, rankings(vectors, vectors[queries]), strict=True):
        positives = np.flatnonzero(labels == labels[query])
        precision = average_precision(ranked, np.setdiff1d(positives, [query]), [query])
        yield ranked[ranked != query], precision


def _table(layer, result) -> str:
    whitened = (
        f"whitened to {result['dimensions']} dimensions by {result['whitening_images']:,} images"
        if result["whitening_images"]
        else "not whitened"
    )
    return (
        f"retrieval (classes) by {layer}, {whitened}; {result['queries']:,} queries in "
        f"{result['images']:,} images\nmean average precision {100 * result['map']:.2f} percent"
    )
