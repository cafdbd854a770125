"""Sizes of clusters: statistics, histograms, and warnings for collapsed ones."""

import numpy as np


def count_statistics(counts) -> dict:
    """Statistics of how evenly rows are spread over clusters.

    Args:
        counts: (k,) rows of each cluster.

    Returns:
        `rows`; `largest_share` of them in one cluster; `empty` clusters; `entropy` of a row's
        cluster in nats, log(k) when all are equal; `imbalance_factor`, k * sum(share ** 2): 1 when
        all are equal, k when one has all; `sizes`, see `size_histogram`.
    """
    rows = int(np.sum(counts))
    shares = np.asarray(counts, np.float64) / max(1, rows)
    filled = shares[shares > 0]
    return {
        "rows": rows,
        "largest_share": float(shares.max()),
        "empty": int(np.count_nonzero(shares == 0)),
        "entropy": max(0.0, float(-np.sum(filled * np.log(filled)))),
        "imbalance_factor": float(len(shares) * np.sum(shares**2)),
        "sizes": size_histogram(counts),
    }


def size_histogram(counts) -> list[int]:
    """How many clusters are how large, by powers of two.

    Args:
        counts: (k,) rows of each cluster.

    Returns:
        number of clusters that have no row, 1 row, 2 to 3, 4 to 7, 8 to 15, ... up to the largest.
    """
    # frexp gives the number of binary digits: 0 for 0, 1 for 1, 2 for 2 and 3, ...
    return np.bincount(np.frexp(np.asarray(counts, np.float64))[1]).tolist()


def collapse_warnings(counts) -> list[str]:
    """Warnings about clusters at two levels that carry little information, a sentence each.

    Args:
        counts: (clusters, sub_clusters) rows of each sub-cluster; sub_clusters may be 1.
    """
    counts = np.asarray(counts)
    totals = counts.sum(axis=1)
    rows, filled = int(totals.sum()), np.flatnonzero(totals)
    if not rows:
        return []
    warnings = []
    if _holds_most(totals):
        warnings.append(
            f"cluster {totals.argmax()} holds {_percent(totals.max(), rows)} of all rows: the "
            "features hardly tell the images apart. If it grows from round to round, training "
            "collapses; lower the learning rate or start from a pre-trained trunk."
        )
    crowded = [i for i in filled if _holds_most(counts[i])]
    if crowded:
        share = max(counts[i].max() / totals[i] for i in crowded)
        warnings.append(
            f"in {len(crowded)} of {len(filled)} clusters one sub-cluster holds most rows, up to "
            f"{_percent(share, 1)}: such sub-clusters carry little information. Look "
            "for images that are nearly alike, or lower sub_clusters."
        )
    empty = int(np.count_nonzero(counts[filled] == 0))
    if 2 * empty > counts[filled].size:
        warnings.append(
            f"{empty} of {counts[filled].size} sub-clusters are empty: there are fewer different "
            f"rows than sub-clusters ({rows} rows in all). Lower sub_clusters, or use more images."
        )
    return warnings


def size_warnings(counts) -> list[str]:
    """Warnings about clusters that carry little information, a sentence each.

    Args:
        counts: (k,) rows of each cluster.
    """
    counts = np.asarray(counts)
    rows, empty = int(counts.sum()), int(np.count_nonzero(counts == 0))
    warnings = []
    if rows and _holds_most(counts):
        warnings.append(
            f"cluster {counts.argmax()} holds {_percent(counts.max(), rows)} of all rows, so the "
            "clusters carry little information. Look for rows that are equal or nearly so, or "
            "scale rows of very different lengths to the same one."
        )
    if rows and 2 * empty > len(counts):
        warnings.append(
            f"{empty} of {len(counts)} clusters are empty: there are fewer rows that differ in "
            "float32 than clusters. Ask for fewer."
        )
    return warnings


def _holds_most(counts) -> bool:
    """Whether the largest is more than half of the way from an even share to everything."""
    return len(counts) > 1 and 2 * counts.max() > (1 + 1 / len(counts)) * counts.sum()


def _percent(part, whole):
    return f"{100 * part / whole:.0f}%"


def nmi(a, b) -> float:
    """Normalised mutual information of two labellings (N,), in [0, 1], 1 for the same partition.

    Normalised by the mean of the two entropies; 1 where both have no more than one label.
    """
    entropy_of_a, entropy_of_b, of_both = (_entropy(counts) for counts in _counts(a, b))
    mean = (entropy_of_a + entropy_of_b) / 2
    return float(np.clip(2 - of_both / mean, 0, 1)) if mean else 1.0


def adjusted_rand(a, b) -> float:
    """Adjusted Rand index of two labellings (N,): 1 for the same partition, 0 by chance.

    Reference: Hubert and Arabie 1985.
    """
    squares = [sum(count * count for count in counts.tolist()) for counts in _counts(a, b)]
    apart_in_b, apart_in_a = squares[0] - squares[2], squares[1] - squares[2]
    if apart_in_a == apart_in_b == 0:
        return 1.0
    # Numbers of ordered pairs of rows, as Python's integers: their products exceed 64 bits.
    together = squares[2] - len(a)
    apart = len(a) ** 2 - squares[0] - squares[1] + squares[2]
    by_chance = (together + apart_in_b) * (apart_in_b + apart)
    by_chance += (together + apart_in_a) * (apart_in_a + apart)
    return 2 * (together * apart - apart_in_a * apart_in_b) / by_chance


def _counts(a, b):
    """How often each label of `a`, each of `b`, and each pair of them occurs."""
    _, a, counts_of_a = np.unique(a, return_inverse=True, return_counts=True)
    _, b, counts_of_b = np.unique(b, return_inverse=True, return_counts=True)
    pairs = a.astype(np.int64) * len(counts_of_b) + b
    return counts_of_a, counts_of_b, np.unique(pairs, return_counts=True)[1]


def _entropy(counts):
    shares = counts / max(1, counts.sum())
    return -float(np.sum(shares * np.log(shares)))
