"""Figures by layer that were measured of a model, kept beside it for whoever needs a layer.

    remember("/models/mine", result)                     # of `dc_tf evaluate`, by layer
    found = recommend("/models/mine", weights)
    found.layer, found.reason            # "conv7", "best k-NN top1 of 15 layers (60.2 %)"

`evaluations.json` lies in the folder of the SavedModel or of the run; nothing of the model itself
changes. It names the weights that were measured, so that those of another stage, or of a run that
was trained further, are not taken for them. A folder that cannot be written is left as it is.
"""

import dataclasses
import json
import os

import tensorflow as tf
from absl import logging

from dc_tf.data.storage import files
from dc_tf.evaluation.comparison import best

EVALUATIONS = "evaluations.json"
# The first that was measured decides: embeddings are compared, as in k-NN, more than classified.
_TASKS = {"knn": "k-NN", "linear_probe": "linear probe", "low_shot": "few labels"}
_KEPT = 20  # results of a model, the newest
_NOT_WRITABLE = (OSError, tf.errors.OpError)


@dataclasses.dataclass(frozen=True)
class Recommended:
    """The layer that measured best.

    Attributes:
        layer: its name.
        reason: by which figure, a clause for people.
        figures: {layer: share in [0, 1]} of the layers that were measured.
        cells: parts, each way, that maps were averaged over; None where that is not how.
    """

    layer: str
    reason: str
    figures: dict
    cells: int | None = None


def remember(model: str, result: dict) -> str | None:
    """Keeps what a task has found by layer; results of other weights or settings stay.

    Args:
        model: path of a SavedModel or of a run.
        result: of the command.

    Returns:
        Path of the file; None where it could not be written.
    """
    entry = _entry(result)
    path = _path(model)
    kept = [one for one in _read(path) if _key(one) != _key(entry)]
    for one in _read(path):
        if _key(one) == _key(entry):  # other layers may have been measured in another call
            entry["layers"] = one["layers"] | entry["layers"]
    try:
        _write(path, [*kept, entry][-_KEPT:])
    except _NOT_WRITABLE as error:
        logging.info("%s is not written, so `embed` will not know the best layer: %s", path, error)
        return None
    return path


def recommend(model: str, weights: str) -> Recommended | None:
    """The best layer by the newest result of the first task that was measured; None without.

    Args:
        model: path of a SavedModel or of a run.
        weights: digest of the network's weights.
    """
    entries = [one for one in _read(_path(model)) if one["weights"] == weights]
    for task, name in _TASKS.items():
        for entry in reversed(entries):
            if entry["task"] == task and len(entry["layers"]) > 1:
                return _recommended(entry, name)
    return None


def _recommended(entry, name):
    figures = entry["layers"]
    layer = best(figures)
    reason = (
        f"best {name} {entry['figure']} of {len(figures)} layers ({100 * figures[layer]:.1f} %)"
    )
    return Recommended(layer, reason, figures, entry["protocol"].get("cells"))


def _entry(result):
    figure = result["figure"]
    return {
        "task": result["task"],
        "figure": figure,
        "weights": result["opened"]["weights"],
        "test": result["opened"].get("test", result["train"]),
        "test_rows": result["test_rows"],
        "protocol": {k: v for k, v in result["protocol"].items() if k != "scratch"},
        "layers": {layer: values[figure] for layer, values in result["layers"].items()},
    }


def _key(entry):
    names = ("task", "weights", "test", "protocol")
    return json.dumps([entry[name] for name in names], sort_keys=True)


def _path(model):
    return os.path.join(os.path.expanduser(model), EVALUATIONS)


def _read(path) -> list:
    """The entries of a file; none where it is missing or is not what `remember` writes."""
    try:
        with tf.io.gfile.GFile(path) as file:
            entries = json.load(file)
        for entry in entries:
            _key(entry), entry["figure"], {**entry["layers"]}
        return entries
    except tf.errors.NotFoundError:
        return []
    except (*_NOT_WRITABLE, ValueError, KeyError, TypeError) as error:
        logging.warning("%s cannot be used: %r", path, error)
        return []


def _write(path, entries):
    data = (json.dumps(entries, indent=1) + "\n").encode()
    files.write_file(path, lambda file: file.write(data), concurrent=True)
