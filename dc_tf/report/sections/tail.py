"""Sizes of clusters and their long tail.

tail = Tail(clustering, sizes, described, columns)
tail.histogram, tail.ranked, tail.parents
"""

import dataclasses

import numpy as np

from dc_tf.clustering.statistics import count_statistics, size_histogram
from dc_tf.curation.clusters.outliers import TINY
from dc_tf.report.charts import Series, bar_chart, line_chart
from dc_tf.report.sections.clusters import single_source

_PARENTS = 100  # first-level clusters in the table
_LISTED = 30  # clusters of a single user, and tiny ones, that are listed


@dataclasses.dataclass(frozen=True)
class Parent:
    """A first-level cluster.

    Attributes:
        title: its number.
        size: rows.
        filled: sub-clusters with a row.
        evenness: entropy of a row's sub-cluster over that of equal ones, 0 to 1.
        largest: share of its largest sub-cluster.
    """

    title: str
    size: int
    filled: int
    evenness: float
    largest: float


class Tail:
    """What is shown of the sizes.

    Attributes:
        histogram, ranked: charts, or None.
        parents: list of Parent, the least even first; [] for one level.
        statistics: {name: text}.
        tiny: some clusters of very few images.
        single: clusters whose images all are of one user.
    """

    def __init__(self, clustering, sizes, described, columns):
        counts = size_histogram(sizes)
        names = ["0", "1", *(f"{1 << n}–{(2 << n) - 1}" for n in range(1, len(counts)))]
        self.histogram = bar_chart(
            "Clusters by size", names[: len(counts)], counts, "images in a cluster", "clusters"
        )
        filled = np.sort(sizes[sizes > 0])[::-1]
        place = 100 * np.arange(1, len(filled) + 1) / max(1, len(filled))
        self.ranked = line_chart(
            "Sizes, largest first",
            [Series("size", place, filled.astype(float))],
            "share of clusters, %",
            unit="images",
            log=True,
        )
        self.parents = _parents(clustering, sizes)
        self.statistics = _statistics(sizes, filled)
        self.tiny = [one for one in described if one.size < TINY][:_LISTED]
        self.single = single_source(described, columns)[:_LISTED]


def _statistics(sizes, filled):
    rows = int(filled.sum())
    tiny = filled[filled < TINY]
    tenth = filled[: max(1, len(filled) // 10)]
    statistics = count_statistics(sizes)
    return {
        "clusters with images": f"{len(filled):,} of {len(sizes):,}",
        "median size": f"{np.median(filled):,.0f}",
        "largest": f"{filled[0]:,} images, {100 * filled[0] / rows:.1f} % of all",
        "in the largest tenth": f"{100 * tenth.sum() / rows:.0f} % of the images",
        f"with fewer than {TINY} images": f"{len(tiny):,}, {100 * tiny.sum() / rows:.1f} % of "
        "the images",
        "imbalance factor": f"{statistics['imbalance_factor']:.2f} (1: all of the same size)",
    }


def _parents(clustering, sizes):
    if clustering.sub_clusters == 1 or clustering.clusters == 1:
        return []
    made = []
    for number, own in enumerate(sizes.reshape(clustering.clusters, clustering.sub_clusters)):
        total = int(own.sum())
        if total:
            statistics = count_statistics(own)
            evenness = statistics["entropy"] / np.log(clustering.sub_clusters)
            filled = int(np.count_nonzero(own))
            made.append(Parent(str(number), total, filled, evenness, statistics["largest_share"]))
    return sorted(made, key=lambda one: one.evenness)[:_PARENTS]
