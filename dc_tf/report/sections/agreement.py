"""Agreement of clusters with labels and metadata over the rounds: Figure 4.

    agreement = Agreement(rows, {"label": labels, "camera": cameras})
    agreement.add(clustering, "round 0", tick="0")
    agreement.found, agreement.chart()

An image with several values of a column has its rarest one, and a place is a cell of one degree, as
in `dc_tf evaluate --task=nmi`. Figures are over the evenly spread rows that the report reads.
"""

import dataclasses

import numpy as np

from dc_tf.clustering.statistics import nmi
from dc_tf.report.charts import Series, line_chart

_COLUMNS = 8  # of the table and the chart: as many as there are colours
_LEAST = 20  # images with a value, for an NMI


@dataclasses.dataclass(frozen=True)
class Row:
    """Metrics of one clustering.

    Attributes:
        name: of the clustering.
        tick: its round, in short; None for what is there to compare with.
        clusters: number of clusters.
        nmi: {column: float}.
        previous: NMI with the round before, or None.
    """

    name: str
    tick: str | None
    clusters: int
    nmi: dict
    previous: float | None


class Agreement:
    """Compares clusterings with the columns of one sample.

    Args:
        rows: (n,) row ids, evenly spread.
        columns: {name: (n,) integers}, -1 for none.
    """

    def __init__(self, rows, columns):
        self.rows = rows
        self.found = []
        known = {name: int(np.count_nonzero(values >= 0)) for name, values in columns.items()}
        names = sorted(columns, key=lambda name: (name != "label", -known[name]))
        self.columns = {n: columns[n] for n in names[:_COLUMNS] if known[n] >= _LEAST}
        self._before = None

    def add(self, clustering, name, tick=None) -> None:
        """Adds a clustering, with `tick` as the next round."""
        labels = clustering.flat(self.rows)
        statistics = {}
        for column, values in self.columns.items():
            known = values >= 0
            statistics[column] = nmi(labels[known], values[known])
        previous = None
        if tick is not None:
            same_stage = self._before is not None and self._before[0] == clustering.stage
            previous = nmi(labels, self._before[1]) if same_stage else None
            self._before = clustering.stage, labels
        self.found.append(Row(name, tick, clustering.count, statistics, previous))

    def chart(self) -> str | None:
        """The statistics of the rounds; None with fewer than two rounds."""
        rounds = [row for row in self.found if row.tick is not None]
        if len(rounds) < 2:
            return None
        x = np.arange(len(rounds))
        series = [Series(c, x, np.array([row.nmi[c] for row in rounds])) for c in self.columns]
        previous = [np.nan if row.previous is None else row.previous for row in rounds]
        series.append(Series("previous round", x, np.array(previous), dashed=True))
        names = [row.tick for row in rounds]
        return line_chart(
            "Normalised mutual information of clusters with",
            series,
            "round",
            zero=True,
            names=names,
        )
