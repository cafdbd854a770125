"""The file that each row of features was made of: from the data set, or from beside the features.

sources_of(features, [7, 0])          # ["dogs/rex.jpg", "cats/tom.jpg"]
beside(features, [0, 7])              # yields ["cats/tom.jpg", "dogs/rex.jpg"]
"""

import itertools
import json
from collections.abc import Iterator

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
    ascending = np.unique(rows)
    known = dict(zip(ascending.tolist(), beside(features, ascending), strict=True))
    return [known[row] for row in rows.tolist()]


def beside(features: Features, rows) -> Iterator[str | None]:
    """Yields the source of each row as the files beside the features name it, None without them.

    Args:
        features: Features.
        rows: iterable of ascending row ids, each once; row i has line i of all files together.

    Raises:
        DataError: a file of sources cannot be read.
    """
    paths = list(map(sources_file, features.files))
    lines = itertools.chain.from_iterable(map(_lines, paths)) if all(paths) else iter(())
    following = 0
    for row in rows:
        line = next(itertools.islice(lines, int(row) - following, None), None)
        following = int(row) + 1
        yield line and json.loads(line)["source"]


def _lines(path):
    try:
        with open(path, "rb") as file:
            yield from file
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror}; restore it, or run `dc_tf embed` again."
        ) from error
