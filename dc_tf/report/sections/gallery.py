"""The clusters whose images are shown, with their contact sheets, and the map of all looked at.

    gallery = Gallery(clustering, described, groups, statistics, sheets=120)
    gallery.cards[0].nearest, gallery.map

A contact sheet has 9 members at random and the 9 nearest to the centroid. Clusters of the groups
come first, then the largest of the others.
"""

import dataclasses
import functools

import numpy as np

from dc_tf.curation.clusters.outliers import farthest
from dc_tf.report import sample
from dc_tf.report.centroids import centroids_of
from dc_tf.report.sections import map as map_lib
from dc_tf.report.sections.clusters import Cluster
from dc_tf.report.sections.colours import hex_of, hue_order
from dc_tf.report.thumbnails import Thumbnails

SHEET = 9
_SIDE, _MAP_SIDE = 84, 56  # pixels
_OUTLIERS = 36
_MAP_COLUMNS = 6


@dataclasses.dataclass(frozen=True)
class Card:
    """A cluster with its pictures.

    Attributes:
        cluster: Cluster.
        nearest, random: lists of Picture; `nearest` is empty where distances are not known.
        groups: names of the groups that it is in.
        fill: "#rrggbb", its mean colour, or None.
        hue: number to sort by colour; 99 without one.
    """

    cluster: Cluster
    nearest: list
    random: list
    groups: list
    fill: str | None
    hue: float

    def words(self) -> str:
        """What a text filter looks in."""
        pictures = [picture.text for picture in (*self.nearest, *self.random)]
        values = [f"{one.column} {one.value}" for one in self.cluster.dominant.values()]
        return " ".join([f"cluster {self.cluster.title}", *values, *pictures]).lower()


class Gallery:
    """What is shown of single clusters.

    Attributes:
        cards: list of Card.
        groups: {name: list of clusters.Pick}.
        map: map.Map, or None without centroids.
        map_pictures: {cluster number: Picture}, of clusters on the map that have no card.
        farthest: list of (Picture, Cluster title, deviations), or None where distances are not
            known.
        outliers: how many images are outliers, by the rule of clusters.outliers; None as well.
        looked_at: number of clusters that were looked at.

    Args:
        clustering: clusters.open.Clustering.
        described: list of Cluster.
        groups: of `clusters.select`.
        statistics: of `outliers.distance_statistics`, or None.
        sizes: (count,) rows of each cluster.
        sheets: number of cards.
    """

    def __init__(self, clustering, described, groups, statistics, sizes, sheets):
        self.looked_at = len(described)
        self.groups = groups
        chosen = _chosen(described, groups, sheets)
        self.map = self._map(clustering, described)
        dots = [dot.cluster for dot in self.map.dots] if self.map else []
        self._load(clustering, chosen, dots, statistics, sizes)

    def can_drop(self) -> bool:
        """Whether there are pictures that `drop` could leave out."""
        return bool(self.cards or self.map_pictures)

    def drop(self, share: float) -> int:
        """Leaves out the last cards, at least one, then pictures of the map; returns how many."""
        keep = max(0, min(len(self.cards) - 1, int(len(self.cards) * (1 - share))))
        gone = self.cards[keep:]
        del self.cards[keep:]
        if not gone:
            self.map_pictures = {}
        return len(gone)

    def shown_groups(self) -> dict[str, list[tuple[Card, str]]]:
        """{group: (card, why it is in the group) of the clusters that have a card}."""
        cards = {card.cluster.number: card for card in self.cards}
        groups = {
            name: [
                (cards[pick.cluster.number], pick.why)
                for pick in picks
                if pick.cluster.number in cards
            ]
            for name, picks in self.groups.items()
        }
        return {name: members for name, members in groups.items() if members}

    def carded(self) -> set[int]:
        """Numbers of the clusters that have a card."""
        return {card.cluster.number for card in self.cards}

    def _load(self, clustering, chosen, dots, statistics, sizes):
        random = _members(clustering, chosen, sample.at_random(1))
        nearest = {}
        if clustering.distance is not None:
            nearest = _members(clustering, chosen, sample.by_distance)
        pictures = Thumbnails(clustering.dataset, _SIDE)
        far, self.outliers = [], None
        if statistics is not None:
            far, self.outliers = farthest(clustering, statistics, sizes, _OUTLIERS)
        rows = [row for row, _, _ in far]
        for members in (random, nearest):
            rows += [row for own in members.values() for row in own.tolist()]
        pictures.load(rows)
        self.cards = [
            self._card(
                one,
                [pictures[row] for row in nearest.get(one.number, ())],
                [pictures[row] for row in random.get(one.number, ())],
            )
            for one in chosen
        ]
        self.farthest = statistics is not None and [
            (pictures[row], clustering.title(cluster), beyond) for row, cluster, beyond in far
        ]
        self.map_pictures = _map_pictures(clustering, dots, {one.number for one in chosen})

    def _card(self, one, nearest, random):
        groups = [
            name
            for name, picks in self.groups.items()
            if any(pick.cluster.number == one.number for pick in picks)
        ]
        fill, hue = None, 99.0
        if one.colour is not None:
            fill, hue = hex_of(one.colour), hue_order(one.colour)
        return Card(one, nearest, random, groups, fill, hue)

    def _map(self, clustering, described):
        columns = {name: None for one in described for name in one.dominant}
        columns = sorted(columns, key=lambda name: (name != "label", name))[:_MAP_COLUMNS]
        return map_lib.make(described, functools.partial(centroids_of, clustering), columns)


def _chosen(described, groups, sheets):
    """The clusters with a card: those of groups in turn, then the largest."""
    ranked = {}
    for place in range(max(map(len, groups.values()), default=0)):
        for picks in groups.values():
            if place < len(picks):
                ranked.setdefault(picks[place].cluster.number, picks[place].cluster)
    for one in sorted(described, key=lambda one: -one.size):
        ranked.setdefault(one.number, one)
    return list(ranked.values())[:sheets]


def _members(clustering, chosen, keys):
    numbers = np.array([one.number for one in chosen], np.int64)
    return sample.least_of_each(clustering, numbers, SHEET, keys)


def _map_pictures(clustering, dots, with_card):
    """A picture of each dot that has no card: its nearest member, or one at random."""
    others = [one for one in dots if one.number not in with_card]
    if not others:
        return {}
    keys = sample.at_random(1) if clustering.distance is None else sample.by_distance
    numbers = np.array([one.number for one in others], np.int64)
    firsts = sample.least_of_each(clustering, numbers, 1, keys)
    pictures = Thumbnails(clustering.dataset, _MAP_SIDE)
    pictures.load([int(rows[0]) for rows in firsts.values()], "thumbnails of the map")
    return {number: pictures[rows[0]] for number, rows in firsts.items()}
