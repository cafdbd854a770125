"""Average precision of a ranking as the Oxford and Paris buildings benchmarks define it.

average_precision(ranked=[4, 0, 2], positives=[0, 2], junk=[4])      # 1.0
"""

import numpy as np


def average_precision(ranked, positives, junk=()) -> float:
    """Area under the precision-recall curve, by trapezoids; junk is as if it were not there.

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
