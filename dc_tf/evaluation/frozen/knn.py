"""Weighted k-nearest-neighbour classification on frozen features.

Feature maps are averaged over a few cells; vectors such as fc7 are used unchanged. Features are
centred by the training set's mean and compared by cosine similarity with exact search (faiss). A
neighbour votes with weight exp(cosine / temperature). Nothing is trained, so the metric depends on
the features only. Rows are read in chunks, so features on disk may exceed memory.

    results = evaluate(frozen, train, test, ["conv7", "conv13"], Protocol())
    results["conv13"]["top1"]

Reference for the weighting: Wu et al. 2018 (non-parametric instance discrimination), section 3.4.
"""

import dataclasses
import functools
import logging

import numpy as np

from dc_tf.distributed.blocks import gather_rows
from dc_tf.distributed.collectives import ALONE
from dc_tf.errors import ConfigError
from dc_tf.evaluation.cost import Part, Work
from dc_tf.evaluation.frozen import by_layer
from dc_tf.evaluation.frozen.features import FeatureCache, cell_extractor, directions, extract_cells
from dc_tf.evaluation.metrics import accuracy, mean_class_accuracy
from dc_tf.evaluation.neighbours import NEAREST, of_splits
from dc_tf.evaluation.work import features_part, text_of
from dc_tf.progress import Progress

# faiss logs each instruction set that its wheel was not built for.
logging.getLogger("faiss.loader").setLevel(logging.WARNING)

_CHUNK_BYTES = 256 << 20  # of float32 rows, per chunk of either split
_TEST_ROWS = 4096  # largest chunk of test rows: votes take (rows, classes) numbers


@dataclasses.dataclass(frozen=True)
class Protocol:
    """Settings.

    Attributes:
        neighbours: values of k to report; `top1` is the accuracy at the largest.
        temperature: temperature of the votes.
        cells: maps are averaged over cells x cells cells; 1 discards the spatial layout, which
            on small images lowers the accuracy of early layers considerably.
        batch_size: images per batch through the network.
        scratch: folder for features that do not fit memory; None for the system's temporary folder.
    """

    neighbours: tuple[int, ...] = (1, 5, 20)
    temperature: float = 0.07
    cells: int = 2
    batch_size: int = 256
    scratch: str | None = None

    def __post_init__(self):
        if not self.neighbours or min(self.neighbours) < 1:
            raise ConfigError(f"neighbours is {self.neighbours}; use numbers of at least 1.")
        if self.cells < 1:
            raise ConfigError(f"cells is {self.cells}; use at least 1.")
        if self.temperature <= 0:
            raise ConfigError(f"temperature is {self.temperature}; use a positive number.")


def run(request, protocol: Protocol) -> tuple[dict, str]:
    """Runs the task; see `tasks`."""
    if request.neighbours is None:
        return by_layer.run(evaluate, request, protocol, work)
    kept = {}  # of this worker's layers of the model, whose turn comes before the untrained network
    keeping = functools.partial(evaluate, kept=kept)
    splits = request.splits()
    result, table = by_layer.run(keeping, request, protocol, work, lambda *_: splits)
    best = result["best_layer"]
    found = _on_all(kept.get(best), splits, protocol, request.world)
    request.neighbours.extend(of_splits(best, *splits, *found))
    return result, table


def _on_all(own, splits, protocol, world):
    """(prediction, rows, cosines) of one layer on every worker, of which one has them."""
    train, test = splits
    count = min(NEAREST, max(protocol.neighbours), len(train.rows))
    columns = np.zeros((0, 1 + 2 * count))
    if own is not None:
        columns = np.concatenate([own[0][:, None], *own[1:]], axis=1)
    columns = gather_rows(columns, range(len(columns)), len(test.rows), world)
    prediction, rows = columns[:, 0].astype(np.int64), columns[:, 1 : 1 + count].astype(np.int64)
    return prediction, rows, columns[:, 1 + count :]


def work(frozen, train, test, layers, protocol: Protocol) -> Work:
    """The work: one pass over all images, then a search of all test rows in all training rows."""
    extractor = cell_extractor(frozen.trunk, layers, protocol.cells)
    columns = sum(extractor.dims.values())
    millions = len(train.rows) * len(test.rows) * columns / 1e6
    search = _search(columns // len(layers), max(protocol.neighbours))
    return Work(
        text_of(frozen, train, test),
        (
            features_part(extractor, frozen, train, test, protocol.batch_size),
            Part("millions of products of the search", millions, search, _TEST_ROWS),
        ),
    )


def _search(dim, neighbours):
    """A function that searches random rows in a database of a million numbers."""
    import faiss

    random = np.random.default_rng(0)
    database = random.standard_normal((-(-1_000_000 // dim), dim), np.float32)
    rows = random.standard_normal((_TEST_ROWS, dim), np.float32)
    count = min(neighbours, len(database))

    def sample(millions):
        faiss.knn(rows[:millions], database, count, metric=faiss.METRIC_INNER_PRODUCT)
        return millions

    return sample


def evaluate(frozen, train, test, layers, protocol: Protocol, world=ALONE, kept=None) -> dict:
    """Classifies a test split by a training split.

    Args:
        frozen: models.FrozenModel.
        train, test: splits.Split.
        layers: names of layers.
        world: Communicator of the workers that share the layers.
        kept: dict that gets, once for each own layer, (t,) predictions at the largest k and (t,
            NEAREST or fewer) rows and cosines of the nearest; None keeps nothing.

    Returns:
        {own layer: {"top1": accuracy at the largest k, "mean_class": the same averaged over
        classes, "top1_k1": ..., "top1_k5": ..., ...}}, shares in [0, 1].
    """
    with FeatureCache(protocol.scratch) as cache:
        features = extract_cells(frozen, (train, test), layers, protocol, cache, world)
        results = {}
        own, what = features[0], f"{frozen.name}: k-NN"
        with Progress(len(own), what, "layers", world.rank == 0) as progress:
            for layer in own:
                arrays = (split[layer] for split in features)
                most = min(max(protocol.neighbours), len(train.rows))
                cosines, rows = nearest(*arrays, most)
                predicted = voted(
                    cosines,
                    rows,
                    train.labels,
                    train.classes,
                    protocol.neighbours,
                    protocol.temperature,
                )
                if kept is not None:
                    first = rows[:, :NEAREST], cosines[:, :NEAREST]
                    kept.setdefault(layer, (predicted[max(predicted)], *first))
                results[layer] = _metrics(predicted, test.labels)
                progress.update(1, top1=results[layer]["top1"])
    return results


def classify(train, test, train_labels, classes, neighbours=(20,), temperature=0.07) -> dict:
    """Predicts classes by weighted votes.

    Args:
        train: (n, d) features; a k larger than n is reduced to n.
        test: (t, d) features.
        train_labels: (n,) int32 in [0, classes).
        classes: number of classes.
        neighbours: values of k.
        temperature: temperature of the votes.

    Returns:
        {k: (t,) int64 predicted classes} for each k in `neighbours`.
    """
    cosines, rows = nearest(train, test, min(max(neighbours), len(train)))
    return voted(cosines, rows, train_labels, classes, neighbours, temperature)


def voted(cosines, rows, train_labels, classes, neighbours, temperature) -> dict:
    """As `classify`, of the (t, n) cosines and rows that `nearest` has found."""
    chunks = []
    for start in range(0, len(rows), _TEST_ROWS):
        part = slice(start, start + _TEST_ROWS)
        votes = np.exp((cosines[part] - cosines[part, :1]) / temperature)
        labels = train_labels[rows[part]]
        chunks.append([_vote(votes[:, :k], labels[:, :k], classes) for k in neighbours])
    by_count = zip(*chunks, strict=True)
    return {k: np.concatenate(parts) for k, parts in zip(neighbours, by_count, strict=True)}


def nearest(train, test, count: int) -> tuple[np.ndarray, np.ndarray]:
    """For each test row, the training rows of highest cosine, after subtracting the training mean.

    Apart from the result, memory does not depend on the size of either split. The training set may
    exceed memory: each chunk of it is read once and compared with the whole test set.

    Args:
        train: (n, d) float32 array or memory map.
        test: (t, d) float32 array or memory map.
        count: number of training rows per test row, in [1, n].

    Returns:
        (t, count) float32 cosines, descending, and (t, count) int64 rows in [0, n). Of equal
        cosines the lower row comes first; among those tied at the last place faiss chooses.
    """
    import faiss  # slow to import, and only this task needs it

    mean = np.mean(train, axis=0, dtype=np.float64).astype(np.float32)
    cosines = np.full((len(test), count), -np.inf, np.float32)
    rows = np.full((len(test), count), -1, np.int64)
    for known in _parts(train):
        database = directions(train[known], mean)
        for part in _parts(test, _TEST_ROWS):
            found, places = faiss.knn(
                directions(test[part], mean),
                database,
                min(count, len(database)),
                metric=faiss.METRIC_INNER_PRODUCT,
            )
            cosines[part], rows[part] = _best(
                np.concatenate([cosines[part], found], axis=1),
                np.concatenate([rows[part], known.start + places], axis=1),
                count,
            )
        del database  # free it before the next chunk is allocated
    return cosines, rows


def _parts(features, most_rows=None) -> list[slice]:
    """Consecutive slices over all rows, each within the bounds but at least one row long."""
    step = max(1, _CHUNK_BYTES // (4 * features.shape[1]))
    step = min(step, most_rows or step)
    return [slice(start, start + step) for start in range(0, len(features), step)]


def _best(cosines, rows, count):
    """The first `count` entries of each line by descending cosine, then ascending row."""
    order = np.lexsort((rows, -cosines))[:, :count]
    return np.take_along_axis(cosines, order, 1), np.take_along_axis(rows, order, 1)


def _vote(votes, labels, classes):
    rows = np.arange(len(votes))[:, None]
    sums = np.bincount(
        (rows * classes + labels).ravel(), votes.ravel(), minlength=len(votes) * classes
    )
    return sums.reshape(-1, classes).argmax(1)


def _metrics(predicted, labels):
    most = max(predicted)
    return {
        "top1": accuracy(predicted[most], labels),
        "mean_class": mean_class_accuracy(predicted[most], labels),
        **{f"top1_k{k}": accuracy(values, labels) for k, values in predicted.items()},
    }
