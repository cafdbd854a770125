"""Nearest neighbours among the training set's frozen features vote on the class.

Maps are averaged over a few cells, fc vectors taken as they are; centred by the training set's
mean, compared by cosine, exactly (faiss). A neighbour votes with exp(cosine / temperature).
Nothing is learned, so the figure is of the features alone.

    results = evaluate(subject, train, test, ["conv7", "conv13"], Protocol())
    results["conv13"]["top1"]

Reference for the weighting: Wu et al. 2018 (non-parametric instance discrimination), section 3.4.
"""

import dataclasses
import logging

import numpy as np

from dc_tf.distributed.collectives import ALONE
from dc_tf.errors import ConfigError
from dc_tf.evaluation import by_layer
from dc_tf.evaluation.features import Store, directions, extract_cells
from dc_tf.evaluation.metrics import accuracy, mean_class_accuracy
from dc_tf.progress import Progress

# It reports each instruction set that its wheel was not built for.
logging.getLogger("faiss.loader").setLevel(logging.WARNING)

_CHUNK = 4096  # rows at a time, so that memory does not grow with the test set


@dataclasses.dataclass(frozen=True)
class Protocol:
    """Settings.

    Attributes:
        neighbours: numbers of neighbours to report; `top1` is that of the largest.
        temperature: of the votes.
        cells: maps are averaged over cells x cells parts; 1 forgets where things are, which on
            small images costs the early layers much.
        batch_size: images at a time through the network.
        scratch: folder for features that do not fit memory; None for the system's own.
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
    """The task; see `tasks`."""
    return by_layer.run(evaluate, request, protocol)


def evaluate(subject, train, test, layers, protocol: Protocol, world=ALONE) -> dict:
    """Classifies a test split by a training split.

    Args:
        subject: models.Subject.
        train, test: splits.Split.
        layers: names of layers.
        world: Communicator of the workers that share the layers.

    Returns:
        {own layer: {"top1": largest number of neighbours, "mean_class": the same averaged over
        classes, "top1_k1": ..., "top1_k5": ..., ...}}, shares in [0, 1].
    """
    with Store(protocol.scratch) as store:
        features = extract_cells(subject, (train, test), layers, protocol, store, world)
        results = {}
        own, what = features[0], f"{subject.name}: k-NN"
        with Progress(len(own), what, "layers", world.rank == 0) as progress:
            for layer in own:
                predicted = classify(
                    *(arrays[layer] for arrays in features),
                    train.labels,
                    train.classes,
                    protocol.neighbours,
                    protocol.temperature,
                )
                results[layer] = _figures(predicted, test.labels)
                progress.update(1, top1=results[layer]["top1"])
    return results


def classify(train, test, train_labels, classes, neighbours=(20,), temperature=0.07) -> dict:
    """Predicts classes by weighted votes.

    Args:
        train: (n, d) features; a number of neighbours beyond n means n.
        test: (t, d) features.
        train_labels: (n,) int32 in [0, classes).

    Returns:
        {k: (t,) int64 predicted classes} for k of `neighbours`.
    """
    import faiss  # slow to import, and not needed by other tasks

    mean = np.mean(train, axis=0, dtype=np.float64).astype(np.float32)
    index = faiss.IndexFlatIP(train.shape[1])
    for start in range(0, len(train), _CHUNK):
        index.add(directions(train[start : start + _CHUNK], mean))
    most = min(max(neighbours), len(train))
    chunks = []
    for start in range(0, len(test), _CHUNK):
        cosines, rows = index.search(directions(test[start : start + _CHUNK], mean), most)
        votes = np.exp((cosines - cosines[:, :1]) / temperature)
        labels = train_labels[rows]
        chunks.append([_vote(votes[:, :k], labels[:, :k], classes) for k in neighbours])
    return {k: np.concatenate(parts) for k, parts in zip(neighbours, zip(*chunks))}


def _vote(votes, labels, classes):
    rows = np.arange(len(votes))[:, None]
    sums = np.bincount(
        (rows * classes + labels).ravel(), votes.ravel(), minlength=len(votes) * classes
    )
    return sums.reshape(-1, classes).argmax(1)


def _figures(predicted, labels):
    most = max(predicted)
    return {
        "top1": accuracy(predicted[most], labels),
        "mean_class": mean_class_accuracy(predicted[most], labels),
        **{f"top1_k{k}": accuracy(values, labels) for k, values in predicted.items()},
    }
