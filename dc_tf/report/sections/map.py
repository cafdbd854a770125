"""A map of the clusters: their centroids in two dimensions, never all rows.

    places, method = project(centroids)          # (k, 2) in 0 to 1, "PCA"

Principal components, and where `umap-learn` is installed UMAP of the first 50 of them.
"""

import dataclasses
import importlib.util
import math

import numpy as np

from dc_tf.report.sections.clusters import Cluster
from dc_tf.report.sections.colours import hex_of

MOST = 2000  # clusters on the map
WIDTH, HEIGHT, _EDGE = 900, 560, 24
_RADII = 4.0, 22.0
_NEIGHBOURS, _COMPONENTS = 15, 50  # of UMAP
_COLOURS = 7  # values of a column with a colour of their own


@dataclasses.dataclass(frozen=True)
class Dot:
    """A cluster on the map.

    Attributes:
        cluster: Cluster.
        x, y, radius: in pixels of the drawing.
        fill: "#rrggbb", its mean colour, or None.
        classes: number of the colour of its most frequent value, for each column of the map.
    """

    cluster: Cluster
    x: float
    y: float
    radius: float
    fill: str | None
    classes: list


@dataclasses.dataclass(frozen=True)
class Map:
    """What the template draws.

    Attributes:
        method: "PCA" or "UMAP".
        dots: list of Dot, the largest first, so that small ones lie above.
        legends: {column: texts of the colours, the last for the others}.
        left_out: number of clusters that are not on the map.
    """

    method: str
    dots: list
    legends: dict
    left_out: int


def make(clusters: list[Cluster], centroids_of, columns) -> Map | None:
    """The map of some clusters; None with fewer than three, or without centroids.

    Args:
        clusters: of `clusters.describe`.
        centroids_of: function of (n,) cluster numbers to their (n, d) centroids, or None.
        columns: names of the columns to colour by.
    """
    shown = sorted(clusters, key=lambda one: -one.size)[:MOST]
    if len(shown) < 3:
        return None
    centroids = centroids_of(np.array([one.number for one in shown]))
    if centroids is None:
        return None
    places, method = project(centroids)
    legends = {column: _legend(shown, column) for column in columns}
    largest = math.sqrt(shown[0].size)
    dots = [
        Dot(
            cluster=one,
            x=round(_EDGE + float(x) * (WIDTH - 2 * _EDGE), 1),
            y=round(_EDGE + float(y) * (HEIGHT - 2 * _EDGE), 1),
            radius=round(_RADII[0] + (_RADII[1] - _RADII[0]) * math.sqrt(one.size) / largest, 1),
            fill=None if one.colour is None else hex_of(one.colour),
            classes=[_class(one, column, texts) for column, texts in legends.items()],
        )
        for one, (x, y) in zip(shown, places, strict=True)
    ]
    legends = {column: [*texts, "other or unknown"] for column, texts in legends.items()}
    return Map(method, dots, legends, len(clusters) - len(shown))


def project(points) -> tuple[np.ndarray, str]:
    """(k, 2) places in 0 to 1, and the method, of (k, d) points."""
    components = principal(points, min(_COMPONENTS, len(points) - 1))
    method = "PCA"
    if importlib.util.find_spec("umap") and len(points) > _NEIGHBOURS:
        import umap  # takes seconds

        reducer = umap.UMAP(n_neighbors=_NEIGHBOURS, random_state=0, n_jobs=1)
        components, method = reducer.fit_transform(components), "UMAP"
    places = np.zeros((len(points), 2))
    places[:, : components.shape[1]] = components[:, :2]
    places -= places.min(0)
    return places / np.maximum(places.max(0), 1e-12), method


def principal(points, count) -> np.ndarray:
    """(k, count) first principal components of (k, d) points."""
    left, strengths, _ = np.linalg.svd(points - points.mean(0), full_matrices=False)
    return left[:, :count] * strengths[:count]


def _legend(clusters, column):
    """The values that are the most frequent one of most images' clusters."""
    sizes = {}
    for one in clusters:
        if column in one.dominant:
            value = one.dominant[column].value
            sizes[value] = sizes.get(value, 0) + one.size
    return sorted(sizes, key=lambda value: -sizes[value])[:_COLOURS]


def _class(one, column, texts):
    value = one.dominant[column].value if column in one.dominant else None
    return texts.index(value) if value in texts else _COLOURS
