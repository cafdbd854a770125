"""Classification metrics."""

import numpy as np


def accuracy(predicted, labels) -> float:
    """Share of (n,) predictions that equal the labels."""
    return float(np.mean(np.asarray(predicted) == np.asarray(labels)))


def mean_class_accuracy(predicted, labels) -> float:
    """Accuracy within each class of `labels`, averaged over classes with equal weights."""
    hit = np.asarray(predicted) == np.asarray(labels)
    return float(np.mean([hit[labels == label].mean() for label in np.unique(labels)]))


def classes_above(scores, labels) -> np.ndarray:
    """(n,) int64: how many of a row's (n, classes) scores are strictly above its label's."""
    scores, labels = np.asarray(scores), np.asarray(labels)
    own = scores[np.arange(len(labels)), labels]
    return (scores > own[:, None]).sum(1)
