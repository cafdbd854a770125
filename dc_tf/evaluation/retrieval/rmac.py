"""R-MAC: describes an image by the sum of a feature map's maxima over a grid of regions.

    regions = grid(48, 64)                        # (n, 3): top, left, side
    vectors = maxima(maps, regions)               # (48, 64, 512) -> (n, 512), L2-normalised
    vector = aggregate(whitening.apply(vectors))  # (512,)

Reference: Tolias, Sicre, Jegou 2016, sections 4.1 and 4.2.
"""

import numpy as np


def grid(height: int, width: int, levels=3, overlap=0.4) -> np.ndarray:
    """Evenly spaced square regions of a map at several scales.

    At level 1 the side of a region is the shorter side of the map. The number of regions along the
    longer side is the one whose overlap of neighbours is nearest to `overlap` (at least two; one in
    a square map). At level l the side is 2 / (l + 1) times that of level 1, and each direction has
    l - 1 more regions.

    Args:
        height, width: size of the map in its pixels.
        levels: number of scales.
        overlap: overlap of neighbours as a share of a region's area.

    Returns:
        (n, 3) int: top, left and side of each.
    """
    short, long = sorted((height, width))
    more = _regions_along(short, long, overlap) - 1
    regions = []
    for level in range(1, levels + 1):
        side = max(1, 2 * short // (level + 1))
        rows = _starts(height, side, level + (more if height > width else 0))
        columns = _starts(width, side, level + (more if width > height else 0))
        regions += [(top, left, side) for top in rows for left in columns]
    return np.array(regions)


def maxima(maps, regions) -> np.ndarray:
    """(n, c) float32: the maximum of each channel over each region, L2-normalised.

    Args:
        maps: (h, w, c) float32.
        regions: (n, 3), see `grid`.
    """
    vectors = np.stack([maps[y : y + side, x : x + side].max((0, 1)) for y, x, side in regions])
    return normalized(vectors)


def aggregate(vectors) -> np.ndarray:
    """(d,) float32 sum of (n, d) vectors, L2-normalised."""
    return normalized(vectors.sum(0, keepdims=True))[0]


def normalized(vectors) -> np.ndarray:
    """(n, d) float32 rows of length 1; a zero row stays zero."""
    vectors = np.asarray(vectors, np.float32)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(length, np.finfo(np.float32).tiny)


def _regions_along(short, long, overlap):
    """Number of regions of side `short` along `long`."""
    if short == long:
        return 1
    counts = np.arange(2, 3 + 2 * long // short)
    found = 1 - (long - short) / ((counts - 1) * short)
    return int(counts[np.argmin(np.abs(found - overlap))])


def _starts(length, side, count):
    """`count` evenly spaced starts from 0 to length - side, rounded down."""
    if count == 1:
        return [0]
    return [i * (length - side) // (count - 1) for i in range(count)]
