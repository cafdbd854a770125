"""Ground truth of ROxford5k and RParis6k: easy, medium and hard.

    ground_truth = read_revisited("/data/roxford5k")

The folder holds, at any depth, the images and one `gnd_*.pkl`, or a `gnd_*.json` of the same
content: a mapping with `imlist` (names of the database images), `qimlist` (names of the query
images) and `gnd`, which has for each query a mapping with `bbx` (left, top, right, bottom) and
`easy`, `hard`, `junk` (row ids).

Reference: Radenovic et al. 2018. The positives are the easy images (easy), the hard ones (hard), or
both (medium). Easy and hard images that are not positives are ignored like junk.
"""

import json

import numpy as np
import tensorflow as tf

from dc_tf.errors import ConfigError, DataError
from dc_tf.evaluation.retrieval.ground_truth import (
    Answer,
    GroundTruth,
    ImageNames,
    Query,
    checked_box,
    files_in,
)
from dc_tf.evaluation.retrieval.safe_pickle import load_plain

# {metric: (sets of positives, sets to ignore in addition to `junk`)}
METRICS = {
    "easy": (("easy",), ("hard",)),
    "hard": (("hard",), ("easy",)),
    "medium": (("easy", "hard"), ()),
}


def ground_truth_files(folder: str) -> list[str]:
    """Paths of the files under a folder that may hold such a ground truth."""
    names = [(path, path.rpartition("/")[2]) for path in files_in(folder)]
    return [p for p, name in names if name.startswith("gnd_") and name.endswith((".pkl", ".json"))]


def read_revisited(folder: str) -> GroundTruth:
    """The benchmark.

    Raises:
        ConfigError: the folder has no ground truth, or several.
        DataError: the ground truth is malformed, or it names an image that is missing.
    """
    paths = ground_truth_files(folder)
    if len(paths) != 1:
        raise ConfigError(
            f"{folder!r} has {len(paths)} files 'gnd_*.pkl' or 'gnd_*.json'; keep exactly one."
        )
    values = _read(paths[0])
    names = ImageNames(folder)
    try:
        database = [names.path(str(name), paths[0]) for name in values["imlist"]]
        entries = list(zip(values["qimlist"], values["gnd"], strict=True))
        queries = [_query(names, *entry, len(database), paths[0]) for entry in entries]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{paths[0]} is not a ground truth with imlist, qimlist and gnd ({error!r}); use the "
            "file of ROxford5k or RParis6k, or write these three names."
        ) from error
    if not any(query.answers for query in queries):
        raise DataError(f"{paths[0]} has no query with a positive; use another ground truth.")
    return GroundTruth("revisited", database, queries, tuple(METRICS))


def _query(names, name, entry, size, source):
    rows = {kind: _rows(entry[kind], size, source) for kind in ("easy", "hard", "junk")}
    answers = {}
    for metric, (wanted, ignored) in METRICS.items():
        positives = np.concatenate([rows[kind] for kind in wanted])
        if len(positives):
            junk = np.concatenate([rows[kind] for kind in ("junk", *ignored)])
            answers[metric] = Answer(positives, junk)
    path = names.path(str(name), source)
    return Query(path, checked_box(entry["bbx"], source), None, answers)


def _rows(values, size, source):
    rows = np.asarray(list(values), np.int64)
    if rows.ndim != 1 or (rows.size and not 0 <= rows.min() <= rows.max() < size):
        raise DataError(f"{source} has the row ids {rows.tolist()[:9]}; imlist has {size}.")
    return rows


def _read(path):
    with tf.io.gfile.GFile(path, "rb") as f:
        data = f.read()
    if path.endswith(".pkl"):
        return load_plain(data, path)
    try:
        return json.loads(data)
    except ValueError as error:
        raise DataError(
            f"{path} is not JSON ({error}); write it with json.dump, or use a .pkl file."
        ) from error
