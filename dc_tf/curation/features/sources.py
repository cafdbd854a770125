"""The file that each row of features was made of: from the data set, or from beside the features.

sources_of(features, [7, 0])          # ["dogs/rex.jpg", "cats/tom.jpg"]
"""

import itertools
import json

import numpy as np

from dc_tf.clustering.store.feature_files import Features, sources_file
from dc_tf.data.storage import row_sources
from dc_tf.errors import DataError


def sources_of(features: Features, rows) -> list[str | None]:
    """The source of each row; None where it is not known.

    Args:
        features: Features; without a data set, only those of `dc_tf embed` have sources.
        rows: (n,) row ids, in any order.

    Raises:
        DataError: a shard or a file of sources cannot be read.
    """
    rows = np.asarray(rows, np.int64)
    if features.dataset is not None:
        return row_sources.sources_of(features.dataset, rows)
    paths = list(map(sources_file, features.files))
    if not all(paths):
        return [None] * len(rows)
    known = _found(paths, np.unique(rows).tolist())
    return [known.get(row) for row in rows.tolist()]


def _found(paths, wanted) -> dict[int, str | None]:
    """{row: source} of some rows, ascending; row i has line i of all files together."""
    known, lines, following = {}, itertools.chain.from_iterable(map(_lines, paths)), 0
    for row in wanted:
        line = next(itertools.islice(lines, row - following, None), None)
        known[row], following = line and json.loads(line)["source"], row + 1
    return known


def _lines(path):
    try:
        with open(path, "rb") as file:
            yield from file
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror}; restore it, or run `dc_tf embed` again."
        ) from error
