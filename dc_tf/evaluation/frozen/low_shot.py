"""Low-shot classification: linear SVMs on frozen features of a few images per class.

Features are those of k-NN: maps averaged over a few cells, centred by the training set's mean and
scaled to length 1. Within a draw, the images for fewer shots are a subset of those for more.

    results = evaluate(frozen, train, test, ["conv11", "conv13"], Protocol())
    results["conv13"]["top1_s8"], results["conv13"]["std_s8"]
"""

import contextlib
import dataclasses

import numpy as np

from dc_tf.data.storage.processes import cores
from dc_tf.distributed.collectives import ALONE
from dc_tf.errors import ConfigError
from dc_tf.evaluation.cost import Part, Work
from dc_tf.evaluation.frozen import by_layer
from dc_tf.evaluation.frozen.features import FeatureCache, cell_extractor, directions, extract_cells
from dc_tf.evaluation.frozen.svm import classify, classify_all, end_processes
from dc_tf.evaluation.metrics import accuracy
from dc_tf.evaluation.work import features_part, text_of
from dc_tf.progress import Progress

# Images times dimensions times classes of all fits; a core takes about five seconds for so many.
_WORTH_PROCESSES = 2e8


@dataclasses.dataclass(frozen=True)
class Protocol:
    """Settings.

    Attributes:
        shots: numbers of images per class, ascending; `top1` is the accuracy at the largest.
        draws: number of random draws of images; metrics are means and deviations over draws.
        cost: C of the SVM.
        cells, batch_size, scratch: as in `knn.Protocol`.
        seed: seed of the draws.
    """

    shots: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 96)
    draws: int = 5
    cost: float = 1.0
    cells: int = 2
    batch_size: int = 256
    scratch: str | None = None
    seed: int = 0

    def __post_init__(self):
        if not self.shots or list(self.shots) != sorted(set(self.shots)) or self.shots[0] < 1:
            raise ConfigError(f"shots is {self.shots}; use ascending numbers of at least 1.")
        for name, least in (("draws", 1), ("cells", 1), ("cost", 1e-30)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}; use a positive number.")


def run(request, protocol: Protocol) -> tuple[dict, str]:
    """Runs the task; see `tasks`."""
    return by_layer.run(evaluate, request, protocol, work)


def work(frozen, train, test, layers, protocol: Protocol) -> Work:
    """The work: one pass over all images, then the fits, counted in images."""
    extractor = cell_extractor(frozen.trunk, layers, protocol.cells)
    dim = sum(extractor.dims.values()) // len(layers)
    rows = [shots * len(np.unique(train.labels)) for shots in protocol.shots]
    labels = np.arange(max(rows)) % len(np.unique(train.labels))
    fits = protocol.draws * len(layers)
    images = fits * sum(rows) / _processes(fits * sum(rows) * dim, train.classes)
    return Work(
        text_of(frozen, train, test, f"{fits * len(rows)} fits"),
        (
            features_part(extractor, frozen, train, test, protocol.batch_size),
            Part("images of fits", images, _fit(dim, labels, protocol.cost), max(rows)),
        ),
    )


def _fit(dim, labels, cost):
    """A function that fits random vectors with these labels, at least one per class."""
    random = np.random.default_rng(0)
    vectors = directions(random.standard_normal((len(labels), dim), np.float32), 0.0)

    def sample(images):
        count = min(len(vectors), max(images, labels.max() + 1))
        classify(vectors[:count], labels[:count], vectors[:1], cost)
        return count

    return sample


def evaluate(frozen, train, test, layers, protocol: Protocol, world=ALONE) -> dict:
    """Trains on a few images of a training split and classifies a test split.

    Args:
        frozen: models.FrozenModel.
        train, test: splits.Split.
        layers: names of layers.
        world: Communicator of the workers that share the layers.

    Returns:
        {own layer: {"top1": accuracy at the largest number of shots, "top1_s1": mean over draws,
        "std_s1": sample standard deviation over draws (0 for one draw), ...}}, shares in [0, 1].

    Raises:
        ConfigError: a class of the training split has fewer images than the largest number of
            shots.
    """
    drawn = draw(train, protocol)
    with FeatureCache(protocol.scratch) as cache, contextlib.ExitStack() as stack:
        both = extract_cells(frozen, (train, test), layers, protocol, cache, world)
        dims = sum(known.shape[1] for known in both[0].values())
        processes = _processes(sum(map(len, drawn.flat)) * dims, train.classes)
        if processes > 1:
            stack.callback(end_processes)
        results = {}
        fits = len(both[0]) * protocol.draws * len(protocol.shots)
        title = f"{frozen.name}: SVMs"
        progress = stack.enter_context(Progress(fits, title, "fits", world.rank == 0))
        for layer in both[0]:
            known, unknown = (features[layer] for features in both)
            mean = np.mean(known, axis=0, dtype=np.float64).astype(np.float32)
            problems = (
                (place, directions(known[rows], mean), train.labels[rows])
                for place, rows in _largest_first(drawn)
            )
            hits = np.empty((protocol.draws, len(protocol.shots)))
            for place, predicted in classify_all(
                problems, directions(unknown, mean), protocol.cost, processes
            ):
                hits[place] = accuracy(predicted, test.labels)
                progress.update(1)
            results[layer] = _metrics(hits, protocol.shots)
    return results


def _largest_first(drawn):
    """(place, rows) of each draw; the last ones are short, so that no process waits long."""
    return sorted(np.ndenumerate(drawn), key=lambda draw: -len(draw[1]))


def _processes(values, classes) -> int:
    """One for each core, unless the fits take less time than starting processes."""
    return cores() if values * classes > _WORTH_PROCESSES else 1


def draw(split, protocol) -> np.ndarray:
    """(draws, shots) object array of (n,) ascending indices into `split.rows`."""
    classes, counts = np.unique(split.labels, return_counts=True)
    if counts.min() < protocol.shots[-1]:
        poorest = classes[counts.argmin()]
        raise ConfigError(
            f"class {poorest} of {split.path} has {counts.min()} images, but up to "
            f"{protocol.shots[-1]} per class are needed; lower shots."
        )
    drawn = np.empty((protocol.draws, len(protocol.shots)), object)
    for number in range(protocol.draws):
        random = np.random.default_rng((protocol.seed, number))
        orders = [random.permutation(np.flatnonzero(split.labels == c)) for c in classes]
        for place, shots in enumerate(protocol.shots):
            drawn[number, place] = np.sort(np.concatenate([order[:shots] for order in orders]))
    return drawn


def _metrics(hits, shots) -> dict:
    metrics = {"top1": float(hits[:, -1].mean())}
    for place, count in enumerate(shots):
        metrics[f"top1_s{count}"] = float(hits[:, place].mean())
        metrics[f"std_s{count}"] = float(hits[:, place].std(ddof=1)) if len(hits) > 1 else 0.0
    return metrics
