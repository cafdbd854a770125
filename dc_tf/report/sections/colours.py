"""Colours of clusters: Figures 6 and 7.

    colours = Colours(flat, read.colours)
    colours.sorted_deviations(), colours.of(12)

The colour of an image is the mean of its pixels. A cluster's deviation is the root of its images'
mean squared distance to the cluster's mean colour, in units of a channel of 0 to 255; clusters by
colour alone have small ones.
"""

import numpy as np

from dc_tf.report.charts import Series, line_chart

LEAST = 5  # fewest images of a cluster whose colours are shown
_UNIFORM = 24  # clusters that are shown by their colour


class Colours:
    """Mean colour and deviation of clusters.

    Args:
        flat: (n,) cluster of each row.
        colours: (n, 3) mean colour of each row's image, NaN where unknown.
    """

    def __init__(self, flat, colours):
        seen = np.isfinite(colours).all(1)
        self.clusters, inverse, counts = np.unique(
            flat[seen], return_inverse=True, return_counts=True
        )
        colours = colours[seen].astype(np.float64)
        size = len(self.clusters)
        sums = np.stack([np.bincount(inverse, colours[:, c], size) for c in range(3)], 1)
        self.means = sums / counts[:, None]
        squares = np.square(colours - self.means[inverse]).sum(1)
        self.deviations = np.sqrt(np.bincount(inverse, squares, size) / counts)
        self._places = {
            cluster: place
            for place, (cluster, count) in enumerate(
                zip(self.clusters.tolist(), counts.tolist(), strict=True)
            )
            if count >= LEAST
        }

    def of(self, cluster: int) -> tuple:
        """(mean colour (3,), deviation) of a cluster; (None, None) with too few images."""
        place = self._places.get(cluster)
        if place is None:
            return None, None
        return tuple(self.means[place].tolist()), float(self.deviations[place])

    def sorted_deviations(self) -> np.ndarray:
        """(c,) deviations of the clusters with enough images, ascending."""
        return np.sort(self.deviations[list(self._places.values())])


def hex_of(colour) -> str:
    """ "#rrggbb" of a (3,) colour in 0 to 255."""
    return "#" + "".join(f"{round(min(max(value, 0), 255)):02x}" for value in colour)


def hue_order(colour) -> float:
    """A number that sorts colours: greys by lightness first, then the others by hue."""
    red, green, blue = colour
    largest, least = max(colour), min(colour)
    if largest - least < 20:
        return largest / 256 - 1
    spread = largest - least
    if largest == red:
        return (green - blue) / spread % 6
    return (blue - red) / spread + 2 if largest == green else (red - green) / spread + 4


class Section:
    """What is shown of the colours.

    Attributes:
        chart: sorted deviations of each clustering, or None.
        compared: number of clusterings in it.
        uniform: list of (Cluster, "#rrggbb"), the least deviation first.

    Args:
        found: list of (name, Colours).
        described: list of clusters.Cluster.
    """

    def __init__(self, found, described):
        deviations = [(name, one.sorted_deviations()) for name, one in found]
        deviations = [(name, values) for name, values in deviations if len(values)]
        self.compared = len(deviations)
        self.chart = line_chart(
            "Deviation from a cluster's mean colour",
            [Series(name, _shares(values), values) for name, values in deviations],
            "share of clusters, %",
            zero=True,
        )
        coloured = sorted((one for one in described if one.colour), key=lambda one: one.deviation)
        self.uniform = [(one, hex_of(one.colour)) for one in coloured[:_UNIFORM]]


def _shares(values):
    return 100 * np.arange(1, len(values) + 1) / len(values)
