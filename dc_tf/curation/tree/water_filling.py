"""Divides a number of rows over branches evenly, as far as each branch has rows.

    even_shares([1, 4, 100], 9, np.random.default_rng(0))       # [1, 4, 4]

Like water poured into vessels of one width: the smallest are full first, all others stand equally
high. Whole numbers leave a remainder, which goes one by one to branches drawn at random.
"""

import numpy as np


def even_shares(sizes, target, rng) -> np.ndarray:
    """The share of each branch.

    Args:
        sizes: (n,) int64 rows that each branch has.
        target: rows to take together; more than there are takes all.
        rng: np.random.Generator, draws who gets the remainder.

    Returns:
        (n,) int64 of sum `min(target, sum(sizes))`. Two shares differ by at most 1, unless the
        smaller one is the whole branch.
    """
    sizes = np.asarray(sizes, np.int64)
    target = min(int(target), int(sizes.sum()))
    level = _level(sizes, target)
    shares = np.minimum(sizes, level)
    remainder = target - int(shares.sum())
    shares[rng.permutation(np.flatnonzero(sizes > level))[:remainder]] += 1
    return shares


def _level(sizes, target):
    """The largest whole number that, as a bound of each share, takes no more than the target."""
    ordered = np.sort(sizes)
    full = np.concatenate([[0], np.cumsum(ordered)])
    # Bounded by the size of the i-th smallest branch, this much is taken.
    taken = full[:-1] + ordered * np.arange(len(ordered), 0, -1)
    above = int(np.searchsorted(taken, target, side="right"))  # branches that are exhausted
    if above == len(ordered):
        return int(ordered[-1]) if len(ordered) else 0
    return (target - int(full[above])) // (len(ordered) - above)
