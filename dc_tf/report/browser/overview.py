"""Which clusters the overview lists, and in which order.

asked = Filter.read({"sort": "purest", "text": "dog"})
chosen(index, asked, sub_clusters=10, class_names=("cat", "dog"))     # (n,) cluster numbers
"""

import dataclasses
import re

import numpy as np

from dc_tf.curation.clusters.outliers import TINY

SORTS = {
    "largest": "Largest first",
    "smallest": "Smallest first",
    "purest": "Purest label first",
    "mixed": "Most mixed label first",
    "tight": "Smallest mean distance first",
    "loose": "Largest mean distance first",
    "number": "By number",
}
KINDS = {"": "All", "tiny": "Tiny", "single": "Of a single source"}
_TITLE = re.compile(r"(\d{1,9})(?:\.(\d{1,9}))?")


@dataclasses.dataclass(frozen=True)
class Filter:
    """What is asked of the overview.

    Attributes:
        text: number of a cluster, or part of a class name; "" for all.
        least: smallest size.
        parent: cluster of the first level, or None for all.
        sort: one of `SORTS`.
        kind: one of `KINDS`.
    """

    text: str = ""
    least: int = 1
    parent: int | None = None
    sort: str = "largest"
    kind: str = ""

    @classmethod
    def read(cls, values) -> "Filter":
        """From a mapping of texts; what cannot be read is left out."""
        least, parent = (whole(values.get(name, "")) for name in ("least", "parent"))
        sort, kind = values.get("sort", ""), values.get("kind", "")
        return cls(
            values.get("text", "").strip()[:100],
            max(1, least or 1),
            parent,
            sort if sort in SORTS else "largest",
            kind if kind in KINDS else "",
        )

    def query(self) -> dict:
        """What differs from the default, as texts for an address."""
        pairs = dataclasses.asdict(self).items()
        return {name: str(value) for name, value in pairs if value != getattr(Filter(), name)}


def whole(text: str) -> int | None:
    """The number that a text of digits is, below 10**15; None for other texts."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else None


def chosen(index, asked: Filter, sub_clusters: int, class_names, single=None) -> np.ndarray:
    """(n,) int64 numbers of the clusters that are asked for, in order; empty ones are left out.

    Args:
        index: ClusterIndex.
        asked: Filter.
        sub_clusters: of each cluster of the first level; 1 for one level.
        class_names: tuple of str, or None.
        single: (count,) bool, clusters of a single source; None where that is not known.
    """
    keep = index.sizes >= asked.least
    if asked.kind == "tiny":
        keep &= index.sizes < TINY
    if asked.kind == "single":
        keep &= False if single is None else single
    if asked.parent is not None:
        keep &= np.arange(index.count) // sub_clusters == asked.parent
    if asked.text:
        keep &= _named(index, asked.text, sub_clusters, class_names)
    numbers = np.flatnonzero(keep)
    keys = {
        "largest": -index.sizes,
        "smallest": index.sizes,
        "purest": -index.purity,
        "mixed": index.purity,
        "tight": index.spread,
        "loose": -index.spread,
        "number": np.arange(index.count),
    }
    # NaN comes last in either direction; of equal clusters the larger one first.
    return numbers[np.lexsort((-index.sizes[numbers], keys[asked.sort][numbers]))]


def _named(index, text, sub_clusters, class_names):
    """(count,) bool: clusters with this title or whose most frequent class has this in its name."""
    numbers = np.arange(index.count)
    keep = np.zeros(index.count, bool)
    title = _TITLE.fullmatch(text)
    if title and title[2] is None:
        keep |= numbers // sub_clusters == int(title[1])
    elif title and sub_clusters > 1:
        keep[int(title[1]) * sub_clusters + int(title[2]) :][:1] = int(title[2]) < sub_clusters
    if class_names:
        text = text.casefold()
        labels = [n for n, name in enumerate(class_names) if text in name.casefold()]
        keep |= np.isin(index.label, labels)
    return keep
