"""How a tree of clusters is made: settings that are checked without TensorFlow.

options = HierarchyOptions(clusters=(1000, 100, 10))
options = HierarchyOptions(default_clusters(rows=100_000))
"""

import dataclasses
import itertools

from dc_tf.errors import ConfigError
from dc_tf.kmeans_options import COMMAND_OPTIONS, choice, whole

_MAX_LEVELS = 4


@dataclasses.dataclass(frozen=True)
class HierarchyOptions:
    """How a tree of clusters is made.

    Attributes:
        clusters: number of clusters of each level, from the lowest on, descending.
        rounds: how often a level's clustering is repeated on a sample.
        sample: rows that the sample has of each cluster; None: half the average size of a cluster.
        iterations: of each k-means.
        seed: of everything that is drawn.
        precision: of the products, as of `KMeansOptions`.

    Raises:
        ConfigError: for values that cannot work.
    """

    clusters: tuple[int, ...]
    rounds: int = 10
    sample: int | None = None
    iterations: int = COMMAND_OPTIONS.iterations
    seed: int = 0
    precision: str = COMMAND_OPTIONS.precision

    def __post_init__(self):
        whole("rounds", self.rounds, 0)
        whole("iterations", self.iterations, 1)
        choice("precision", self.precision)
        if self.sample is not None:
            whole("sample", self.sample, 1)
        for clusters in self.clusters:
            whole("clusters", clusters, 1)
        descends = all(a > b for a, b in itertools.pairwise(self.clusters))
        if not self.clusters or not descends:
            raise ConfigError(
                f"the levels have {', '.join(map(str, self.clusters)) or 'no'} clusters; give "
                "descending numbers, such as 1000,100,10."
            )


def default_clusters(rows) -> tuple[int, ...]:
    """Clusters of each level: a hundredth of the rows, then a tenth of the level below, each time.

    At most 4 levels, and no level of fewer than 5 clusters but the lowest.
    """
    found = [max(1, rows // 100)]
    while len(found) < _MAX_LEVELS and found[-1] // 10 >= 5:
        found.append(found[-1] // 10)
    return tuple(found)
