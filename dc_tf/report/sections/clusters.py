"""What each looked-at cluster holds, and which clusters are worth looking at: Figure 5.

    found = describe(clustering, sizes, sample, read)       # [Cluster], one a looked-at cluster
    groups = select(found, columns)                         # {"The largest": [Cluster], ...}

The purity of a cluster for a column is the share of its images with a value that have the most
frequent one. It needs some images to mean anything.
"""

import dataclasses

import numpy as np

from dc_tf.curation.clusters.outliers import TINY, source_column
from dc_tf.evaluation.clusters.nmi import PLACE

_LEAST = TINY  # fewest images with a value that have a purity
_IN_GROUP = 6  # clusters of a group
_COLUMNS = 8  # columns with a group of their own
# Least share of a place, and how much more than of the user, to be pure for place alone.
_OF_PLACE, _MORE = 0.4, 0.2


@dataclasses.dataclass(frozen=True)
class Dominant:
    """The most frequent value of a cluster in a column.

    Attributes:
        column, value: str.
        share: of the cluster's images with a value in that column.
        known: how many these are.
    """

    column: str
    value: str
    share: float
    known: int


@dataclasses.dataclass(frozen=True)
class Cluster:
    """What is known of a cluster.

    Attributes:
        number: of both levels.
        title: for people.
        size: rows.
        dominant: {column: Dominant}.
        spread: mean distance of its rows to the centroid; None where distances are not known.
        unevenness: standard deviation of these distances over their mean, or None.
        colour: (3,) mean of its images' mean colours in 0 to 255, or None.
        deviation: standard deviation of these colours around their mean, or None.
    """

    number: int
    title: str
    size: int
    dominant: dict
    spread: float | None
    unevenness: float | None
    colour: tuple | None
    deviation: float | None

    @property
    def purity(self) -> float:
        """The largest share of a value in any column; 0 without one."""
        return max((one.share for one in self.dominant.values()), default=0.0)


def describe(clustering, sizes, sample, read, distances, colours) -> list[Cluster]:
    """A Cluster for each cluster of the sample, in the order of their numbers.

    Args:
        clustering: clusters.open.Clustering.
        sizes: (count,) rows of each cluster.
        sample: sample.Sample.
        read: columns.Found of its rows.
        distances: `outliers.distance_statistics` of the clustering, or None.
        colours: `colours.Colours` of the clustering's clusters in these rows.
    """
    flat = clustering.flat(sample.rows)
    dominants = [_dominants(flat, column) for column in read.columns.values()]
    made = []
    for number in sample.clusters.tolist():
        of = [found[number] for found in dominants if number in found]
        spread, unevenness = None, None
        if distances is not None:
            spread, deviation = distances[number]
            unevenness = deviation / spread if spread else 0.0
        colour, deviation = colours.of(number)
        made.append(
            Cluster(
                number,
                clustering.title(number),
                int(sizes[number]),
                {one.column: one for one in of},
                spread,
                unevenness,
                colour,
                deviation,
            )
        )
    return made


@dataclasses.dataclass(frozen=True)
class Pick:
    """A cluster of a group, and why it is in it."""

    cluster: Cluster
    why: str


def select(clusters: list[Cluster], columns) -> dict[str, list[Pick]]:
    """Groups of clusters to look at, each with its most telling clusters first.

    Args:
        clusters: of `describe`.
        columns: names of the columns, in order.
    """
    sized = [one for one in clusters if one.size >= _LEAST]
    groups = {}
    for name in list(columns)[:_COLUMNS]:
        held = [one for one in sized if name in one.dominant]
        groups[f"Purest for {name}"] = _top(
            held,
            lambda one, name=name: one.dominant[name].share,
            lambda one, name=name: _held(one, name),
        )
    user = source_column(columns)
    held = [one for one in sized if PLACE in one.dominant and user in one.dominant]
    groups[f"Pure for place, not for {user}"] = _top(
        [
            one
            for one in held
            if one.dominant[PLACE].share >= _OF_PLACE and _contrast(one, user) >= _MORE
        ],
        lambda one: _contrast(one, user),
        lambda one: f"{_held(one, PLACE)}; {user} {_percent(one.dominant[user].share)}",
    )
    groups["Largest"] = _top(clusters, lambda one: one.size, _size)
    groups["Smallest"] = _top(clusters, lambda one: -one.size, _size)
    groups["Least even"] = _top(
        [one for one in sized if one.unevenness is not None],
        lambda one: one.unevenness,
        lambda one: f"distances vary by {_percent(one.unevenness)}",
    )
    groups["Uniform in colour"] = _top(
        [one for one in sized if one.deviation is not None],
        lambda one: -one.deviation,
        lambda one: f"deviation {one.deviation:.0f} of 255",
    )
    return {name: members for name, members in groups.items() if members}


def single_source(clusters: list[Cluster], columns) -> list[Cluster]:
    """Clusters whose images all are of one user, the largest first."""
    user = source_column(columns)
    own = [one for one in clusters if user in one.dominant and one.dominant[user].share == 1]
    return sorted(own, key=lambda one: -one.size)


def _dominants(flat, column):
    """{cluster: Dominant} of a column, for clusters with enough images that have a value."""
    members = flat[column.images]
    pairs, times = np.unique(np.stack([members, column.codes], 1), axis=0, return_counts=True)
    known = _known(flat, column.images)
    order = np.lexsort([-times, pairs[:, 0]])
    clusters, first = np.unique(pairs[order, 0], return_index=True)
    found = {}
    for cluster, (_, code), count in zip(
        clusters.tolist(), pairs[order][first].tolist(), times[order][first].tolist(), strict=True
    ):
        if known[cluster] >= _LEAST:
            share = count / known[cluster]
            found[cluster] = Dominant(column.name, column.texts[code], share, known[cluster])
    return found


def _known(flat, images):
    """{cluster: number of its images among `images`, counted once}."""
    clusters, counts = np.unique(flat[np.unique(images)], return_counts=True)
    return dict(zip(clusters.tolist(), counts.tolist(), strict=True))


def _top(clusters, key, why):
    """The clusters with the largest keys."""
    ranked = sorted(clusters, key=lambda one: (-key(one), -one.size, one.number))
    return [Pick(one, why(one)) for one in ranked[:_IN_GROUP]]


def _contrast(one, user):
    """How much purer a cluster is for place than for user."""
    return one.dominant[PLACE].share - one.dominant[user].share


def _held(one, column):
    return f"{one.dominant[column].value} {_percent(one.dominant[column].share)}"


def _size(one):
    return f"{one.size:,} images"


def _percent(share):
    return f"{100 * share:.0f} %"
