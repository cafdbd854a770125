"""What `dc_tf curate` is asked for, and what of it is refused before anything is opened.

request = CurateRequest(data="DATA", features="FEATURES", target=10_000, output="BALANCED")
request.check()
"""

import dataclasses

from dc_tf.curation.selection.conditions import Condition
from dc_tf.curation.tree.options import HierarchyOptions, default_clusters
from dc_tf.data.storage.materialize import FORMATS
from dc_tf.errors import ConfigError

CHOICES = ("random", "nearest")
_SHARES = ("drop_outliers", "drop_sparsest", "drop_rarest")
_COUNTS = ("target", "max_per_cluster")


@dataclasses.dataclass(frozen=True, eq=False)
class CurateRequest:
    """What to choose, from what, and where to.

    Attributes:
        data: folder of the data set; None with `run` takes the run's.
        output: folder of the view; None for a dry run, or with `materialize` alone.
        target: rows of the balanced subset.
        max_per_cluster: the most rows of a cluster.
        drop_outliers, drop_sparsest, drop_rarest: shares of the rows, in [0, 1).
        where: conditions, see `conditions.Condition`.
        rows, drop_rows: `.npy` or text file of row ids, or an array of them.
        choice: which rows of a cluster are taken, "random" or "nearest" to its centroid.
        run, features, layer, column: as of `features.open.open_features`.
        clusters: output folder of `dc_tf kmeans`, or a run: its last round.
        levels: clusters of each level of the tree; None: by the number of rows.
        rounds, sample, iterations, seed, precision: as of `HierarchyOptions`.
        normalize: scale every row of the features to length 1.
        tree: folder of the tree of clusters; None: OUTPUT.tree.
        dry_run: write neither view nor copy.
        materialize: folder for a copy of the chosen images.
        format: of that copy, "shards", "webdataset" or "folder".
        overwrite: replace what is in `output` and `materialize`.
        timeout_s: seconds that one of several workers may be silent; 0: for ever.
    """

    data: object = None
    output: str | None = None
    target: int | None = None
    max_per_cluster: int | None = None
    drop_outliers: float = 0.0
    drop_sparsest: float = 0.0
    drop_rarest: float = 0.0
    where: tuple[str, ...] = ()
    rows: object = None
    drop_rows: object = None
    choice: str = "random"
    run: str | None = None
    features: object = None
    layer: str | None = None
    column: str | None = None
    clusters: str | None = None
    levels: tuple[int, ...] | None = None
    rounds: int = HierarchyOptions.rounds
    sample: int | None = None
    iterations: int = HierarchyOptions.iterations
    seed: int = 0
    precision: str = HierarchyOptions.precision
    normalize: bool = True
    tree: str | None = None
    dry_run: bool = False
    materialize: str | None = None
    format: str = "shards"
    overwrite: bool = False
    timeout_s: float = 600.0

    @property
    def has_features(self) -> bool:
        return self.features is not None or self.run is not None

    @property
    def by_cluster(self) -> list[str]:
        """Names of the rules that were asked for and need clusters."""
        return [name for name in (*_SHARES, *_COUNTS) if getattr(self, name)]

    def conditions(self) -> list[Condition]:
        """Those of `where`.

        Raises:
            ConfigError: a text that means none.
        """
        return [Condition.parse(text) for text in self.where]

    def hierarchy(self, rows) -> HierarchyOptions:
        """How the tree over so many rows is made.

        Raises:
            ConfigError: a setting out of its range.
        """
        return HierarchyOptions(
            clusters=tuple(self.levels) if self.levels else default_clusters(rows),
            rounds=self.rounds,
            sample=self.sample,
            iterations=self.iterations,
            seed=self.seed,
            precision=self.precision,
        )

    def check(self) -> None:
        """Refuses what cannot work whatever the data.

        Raises:
            ConfigError: says what would work.
        """
        self._check_values()
        self.conditions()
        self.hierarchy(rows=1)
        self._check_sources()
        if self.output is None and self.materialize is None and not self.dry_run:
            raise ConfigError("give --output=VIEW for the result, or --dry_run.")

    def _check_values(self):
        for name in _SHARES:
            share = getattr(self, name)
            if not 0 <= share < 1:
                raise ConfigError(
                    f"--{name}={share}; use a share of the rows, at least 0, below 1."
                )
        for name in _COUNTS:
            count = getattr(self, name)
            if count is not None and count < 1:
                raise ConfigError(f"--{name}={count}; use a positive number.")
        for name, known in (("choice", CHOICES), ("format", FORMATS)):
            value = getattr(self, name)
            if value not in known:
                raise ConfigError(f"--{name}={value}; use {' or '.join(known)}.")

    def _check_sources(self):
        if self.data is None and self.run is None:
            raise ConfigError("give --data=DATA.")
        by_row = self.where or self.rows is not None or self.drop_rows is not None
        if not self.by_cluster and not by_row and self.materialize is None:
            raise ConfigError("no rule was given; give --target=N, for example.")
        if self.by_cluster and not self.has_features and self.clusters is None:
            raise ConfigError(
                f"--{self.by_cluster[0]} needs clusters; give --features=FEATURES, --run=RUN or "
                "--clusters=CLUSTERS."
            )
        if self.clusters is not None and self.levels is not None:
            raise ConfigError("--levels is for clusters that are made here, not for --clusters.")
        far = [name for name in ("drop_outliers", "drop_sparsest") if getattr(self, name)]
        far += ["choice=nearest"] if self.choice == "nearest" else []
        if far and not self.has_features:
            raise ConfigError(
                f"--{far[0]} needs distances to centroids; give --features=FEATURES or --run=RUN, "
                "also with --clusters."
            )
