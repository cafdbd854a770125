"""Ground truth of Oxford5k and Paris6k, read from their text files.

    ground_truth = read_oxford("/data/oxford5k")

The folder holds, at any depth, the images and for each query `NAME_query.txt` (the image's name and
a box: left, top, right, bottom), `NAME_good.txt` and `NAME_ok.txt` (names of the positives) and
`NAME_junk.txt` (names of images to ignore). Oxford's query files prefix names with `oxc1_`.

Reference: Philbin et al. 2007 and 2008.
"""

import os

import numpy as np
import tensorflow as tf

from dc_tf.errors import DataError
from dc_tf.evaluation.retrieval.ground_truth import (
    Answer,
    GroundTruth,
    ImageNames,
    Query,
    checked_box,
    files_in,
)

QUERY = "_query.txt"
_PREFIX = "oxc1_"


def query_files(folder: str) -> list[str]:
    """Paths of the query files under a folder."""
    return [path for path in files_in(folder) if path.endswith(QUERY)]


def read_oxford(folder: str) -> GroundTruth:
    """The benchmark; every image under the folder is in the database.

    Raises:
        DataError: a file is missing or malformed, or it names an image that is missing.
    """
    names = ImageNames(folder)
    rows = {name: row for row, name in enumerate(names.all())}
    database = [names.path(name, folder) for name in rows]

    def rows_of(path):
        listed = [line.strip().removeprefix(_PREFIX) for line in _lines(path)]
        missing = [name for name in listed if name not in rows]
        if missing:
            names.path(missing[0], path)
        return np.array([rows[name] for name in listed], np.int64)

    queries = []
    for path in query_files(folder):
        words = " ".join(_lines(path)).split()
        name = words[0].removeprefix(_PREFIX) if words else ""
        box = checked_box(words[1:], path)
        stem = path.removesuffix(QUERY)
        good, ok, junk = (rows_of(f"{stem}_{kind}.txt") for kind in ("good", "ok", "junk"))
        positives = np.union1d(good, ok)
        if not len(positives):
            raise DataError(f"{stem}_good.txt and {stem}_ok.txt name no image; a query needs one.")
        answers = {"map": Answer(positives, np.setdiff1d(junk, positives))}
        queries.append(Query(names.path(name, path), box, None, answers))
    return GroundTruth("classic", database, queries, ("map",))


def _lines(path):
    try:
        with tf.io.gfile.GFile(path) as f:
            return [line for line in f.read().splitlines() if line.strip()]
    except (tf.errors.OpError, UnicodeDecodeError) as error:
        raise DataError(
            f"the ground truth {os.path.basename(path)!r} cannot be read in "
            f"{os.path.dirname(path)!r} ({error}); unpack all its files there again."
        ) from error
