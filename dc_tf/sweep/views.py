"""Random views of a data set, which the runs of an axis of fractions are trained on.

random_rows(rows=1000, count=250, seed=0)          # those of 500 rows contain these
"""

import numpy as np

from dc_tf.data.storage.manifest import Dataset
from dc_tf.data.storage.view import write_view
from dc_tf.seeds import derive


def random_rows(rows: int, count: int, seed: int) -> np.ndarray:
    """(count,) int64 row ids in ascending order; of one seed, more rows contain fewer."""
    order = np.random.default_rng(derive("sweep view", seed)).permutation(rows)
    return np.sort(order[:count])


def write_view_of(run, data: str) -> None:
    """Writes the view that a run is trained on, unless it has all rows.

    Args:
        run: cells.Run.
        data: path of the data set that the view is of.
    """
    if run.experiment.data.path == data:
        return
    dataset = Dataset.open(data)
    seed = run.experiment.seed
    origin = {"made_by": "dc_tf sweep", "fraction": run.fraction, "seed": seed}
    rows = random_rows(dataset.rows, run.rows, seed)
    write_view(dataset, rows, run.experiment.data.path, origin, overwrite=True)
