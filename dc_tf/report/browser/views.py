"""What templates show of clusters, images and pages of lists.

cards(site, [12, 7]), tiles(site, [4, 1], notes=["0.1", "0.2"]), Pager.of(...)
"""

import dataclasses
import math
import urllib.parse

import numpy as np

from dc_tf.data.storage.metadata import text
from dc_tf.report.browser.pictures import Record
from dc_tf.report.browser.site import Site

CARD_IMAGES = 9
_TOP = 8  # classes of a cluster that are shown
_COUNTED = 100_000  # members whose labels are counted


@dataclasses.dataclass(frozen=True)
class Card:
    """A cluster in a list.

    Attributes:
        number: of the cluster.
        title, size: as shown.
        label, purity: most frequent class and its share in percent; "" and None without labels.
        spread: mean distance, or None.
        rows: some of its rows, the nearest to the centroid first.
    """

    number: int
    title: str
    size: int
    label: str
    purity: float | None
    spread: float | None
    rows: list


@dataclasses.dataclass(frozen=True)
class Tile:
    """An image in a list, with a short note such as its distance."""

    record: Record
    note: str


@dataclasses.dataclass(frozen=True)
class Pager:
    """A page of a list, with the addresses of those beside it.

    Attributes:
        first, last, count: numbers of the first and the last item from 1, and of all.
        previous, next: addresses, or None.
    """

    first: int
    last: int
    count: int
    previous: str | None
    next: str | None

    @classmethod
    def of(cls, count: int, page: int, size: int, address) -> "Pager":
        """Page `page`, from 1, or the last one; `address` is a function of a page."""
        last_page = max(1, math.ceil(count / size))
        page = min(max(1, page), last_page)
        return cls(
            (page - 1) * size + 1 if count else 0,
            min(page * size, count),
            count,
            address(page - 1) if page > 1 else None,
            address(page + 1) if page < last_page else None,
        )

    @property
    def part(self) -> slice:
        """The items of the page."""
        return slice(max(0, self.first - 1), self.last)


def address(path: str, **values) -> str:
    """A path with the values that are not empty as its query."""
    query = {name: value for name, value in values.items() if value not in (None, "")}
    return f"{path}?{urllib.parse.urlencode(query)}" if query else path


def cards(site: Site, numbers) -> list[Card]:
    """A Card for each cluster number."""
    return [card(site, int(number)) for number in numbers]


def card(site: Site, number: int, images=CARD_IMAGES) -> Card:
    """The Card of a cluster."""
    index = site.index
    return Card(
        number,
        site.clustering.title(number),
        int(index.sizes[number]),
        site.label_name(number),
        _known(100 * index.purity[number]),
        _known(index.spread[number]),
        index.members(number)[:images].tolist(),
    )


def tiles(site: Site, rows, notes=None) -> list[Tile]:
    """A Tile for each row; notes: a list of str, or None."""
    records = site.pictures.records(rows)
    notes = [""] * len(records) if notes is None else notes
    return [Tile(record, note) for record, note in zip(records, notes, strict=True)]


def top_labels(site: Site, cluster: int) -> list[tuple[str, int, float]]:
    """(name, images, percent of those with a label) of the most frequent classes of a cluster."""
    rows = site.index.members(cluster)[:_COUNTED]
    labels = site.dataset.locate(rows)[1][:, 2]
    labels, times = np.unique(labels[labels >= 0], return_counts=True)
    order = np.argsort(-times, kind="stable")[:_TOP]
    total = times.sum()
    return [
        (site.pictures.name_of(int(label)), int(count), 100 * count / total)
        for label, count in zip(labels[order], times[order], strict=True)
    ]


def distance_notes(site: Site, rows) -> list[str]:
    """The distance of each row to its centroid as a text; "" where it is not known."""
    if site.index.distance is None:
        return [""] * len(rows)
    return [f"{distance:.3g}" for distance in site.index.distance[rows]]


def position(site: Site, cluster: int, row: int) -> tuple[int, int | None, int | None]:
    """(position of a row in its cluster, the row before it, the row after it)."""
    members = site.index.members(cluster)
    (place,) = np.flatnonzero(members == row)
    before = int(members[place - 1]) if place else None
    after = int(members[place + 1]) if place + 1 < len(members) else None
    return int(place), before, after


def value_text(value) -> str:
    """A value of metadata, or several, for people."""
    values = value if isinstance(value, list) else [value]
    return text(", ".join(f"{v:.6g}" if isinstance(v, float) else str(v) for v in values), 2000)


def _known(number):
    return None if np.isnan(number) else float(number)
