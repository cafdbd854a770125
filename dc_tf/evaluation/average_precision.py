"""Average precision: how well scores rank positives above negatives.

    area(*curve(scores, hits))                       # scikit-learn's average_precision_score
    eleven_points(*curve(scores, hits))              # VOC 2007
    enveloped_area(*curve(scores, hits, positives))  # VOC 2010 and later
    average_precision([4, 0, 2], [0, 2], junk=[4])   # Oxford and Paris buildings

Equal scores form one threshold, so the result does not depend on the order of the rows.
"""

import numpy as np


def curve(scores, hits, positives=None) -> tuple[np.ndarray, np.ndarray]:
    """Precision-recall curve: one point per distinct score, from the highest threshold down.

    Args:
        scores: (n,) finite numbers.
        hits: (n,) bool, whether a row is a positive.
        positives: total number of positives, including those without a score, such as objects that
            were not detected; None for the number of hits.

    Returns:
        Two (t,) float64 arrays, recall and precision. Recall is nan if there are no positives.
    """
    scores, hits = np.asarray(scores), np.asarray(hits, bool)
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.diff(scores[order], append=np.nan))  # of each run of equal scores
    found = np.cumsum(hits[order])[last]
    positives = int(hits.sum()) if positives is None else positives
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = found / np.float64(positives) if positives else np.full(len(found), np.nan)
    return recall, found / (last + 1.0)


def area(recall, precision) -> float:
    """Sum over the thresholds of (increase of recall) * precision, without interpolation."""
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def enveloped_area(recall, precision) -> float:
    """`area` with each precision replaced by the maximum precision at that recall or above."""
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return area(recall, best)


def eleven_points(recall, precision) -> float:
    """Mean over recalls 0, .1, .. 1 of the maximum precision at that recall or above.

    A recall that is never reached contributes a precision of 0.
    """
    # A recall of 3/10 and the point 3/10 must compare as equal.
    reached = recall[:, None] >= np.arange(11) / 10 - 1e-9
    return float(np.where(reached, precision[:, None], 0.0).max(0, initial=0.0).mean())


def classes_of(logits, labels) -> dict:
    """Average precision of each class of a multi-label problem.

    Args:
        logits: (n, classes) scores.
        labels: (n, classes), 1 for present, 0 for absent; other values are ignored.

    Returns:
        {"area", "eleven_points": (classes,) float64}; nan for a class without positives.
    """
    metrics = []
    for scores, targets in zip(np.transpose(logits), np.transpose(labels), strict=True):
        counted = (targets == 0) | (targets == 1)
        if not np.any(targets == 1):
            metrics.append((np.nan, np.nan))
            continue
        found = curve(scores[counted], targets[counted] == 1)
        metrics.append((area(*found), eleven_points(*found)))
    areas, points = np.transpose(metrics)
    return {"area": areas, "eleven_points": points}


def average_precision(ranked, positives, junk=()) -> float:
    """Average precision of a ranking by the trapezoidal rule; junk rows are removed first.

    Args:
        ranked: (n,) distinct row ids, best first.
        positives: row ids of the positives; those missing from `ranked` count as not retrieved.
        junk: row ids to ignore, even if they are also in `positives`.

    Returns:
        Value in [0, 1].

    Raises:
        ValueError: there are no positives.

    Reference: Philbin et al. 2007. Between two ranks precision is the mean of the two precisions;
    before the first rank it is 1.
    """
    ranked = np.asarray(ranked)
    positives = np.setdiff1d(positives, junk)
    if not len(positives):
        raise ValueError("a ranking without positives has no average precision.")
    counted = ranked[~np.isin(ranked, junk)]
    places = np.flatnonzero(np.isin(counted, positives)).astype(np.float64)
    found = np.arange(len(places))
    # Before the first rank, precision is 1.
    before = np.where(places > 0, found / np.maximum(places, 1), 1.0)
    after = (found + 1) / (places + 1)
    return float(np.sum((before + after) / 2) / len(positives))
