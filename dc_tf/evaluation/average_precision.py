"""Average precision: one number for how well scores put what is right before what is wrong.

    area(*curve(scores, hits))                       # area under the curve, as scikit-learn
    eleven_points(*curve(scores, hits))              # VOC 2007
    enveloped_area(*curve(scores, hits, positives))  # VOC 2010 and later
    average_precision([4, 0, 2], [0, 2], junk=[4])   # Oxford and Paris buildings

Equal scores are one threshold, so that the order of the rows does not matter.
"""

import numpy as np


def curve(scores, hits, positives=None) -> tuple[np.ndarray, np.ndarray]:
    """Recall and precision as the threshold falls, at every different score.

    Args:
        scores: (n,) finite numbers.
        hits: (n,) bool.
        positives: how many hits there could be; those that have no score, as an object that was
            not detected, count in this number alone. None: all have one.

    Returns:
        Two (t,) float64 arrays. Recall is nan where there are no positives.
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
    """Sum over the thresholds of (rise of the recall) * precision, without interpolation."""
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def enveloped_area(recall, precision) -> float:
    """The same with each precision replaced by the best one at its recall or a higher one."""
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return area(recall, best)


def eleven_points(recall, precision) -> float:
    """Mean over recalls 0, .1, .. 1 of the best precision at that recall or a higher one.

    A recall that is never reached counts as precision 0.
    """
    # A recall of 3/10 and the point 3/10 must compare as equal.
    reached = recall[:, None] >= np.arange(11) / 10 - 1e-9
    return float(np.where(reached, precision[:, None], 0.0).max(0, initial=0.0).mean())


def classes_of(logits, labels) -> dict:
    """Average precision of each class of a multi-label problem.

    Args:
        logits: (n, classes) scores.
        labels: (n, classes), 1 for present, 0 for absent, others are not counted.

    Returns:
        {"area", "eleven_points": (classes,) float64}, nan for a class that is never present.
    """
    metrics = []
    for scores, truth in zip(np.transpose(logits), np.transpose(labels)):
        counted = (truth == 0) | (truth == 1)
        if not np.any(truth == 1):
            metrics.append((np.nan, np.nan))
            continue
        found = curve(scores[counted], truth[counted] == 1)
        metrics.append((area(*found), eleven_points(*found)))
    areas, points = np.transpose(metrics)
    return {"area": areas, "eleven_points": points}


def average_precision(ranked, positives, junk=()) -> float:
    """Of a ranking: the area by trapezoids; junk is as if it were not there.

    Args:
        ranked: (n,) different row ids, best first.
        positives: row ids to be found; those not in `ranked` are never found.
        junk: row ids that count neither way, positives among them too.

    Returns:
        Value in [0, 1].

    Raises:
        ValueError: nothing is to be found.

    Reference: Philbin et al. 2007. Between two ranks precision is the mean of that at both; before
    the first it is 1.
    """
    ranked = np.asarray(ranked)
    positives = np.setdiff1d(positives, junk)
    if not len(positives):
        raise ValueError("a ranking without positives has no average precision.")
    counted = ranked[~np.isin(ranked, junk)]
    places = np.flatnonzero(np.isin(counted, positives)).astype(np.float64)
    found = np.arange(len(places))
    # With no image before it, precision is 1.
    before = np.where(places > 0, found / np.maximum(places, 1), 1.0)
    after = (found + 1) / (places + 1)
    return float(np.sum((before + after) / 2) / len(positives))
