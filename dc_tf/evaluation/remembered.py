"""Keeps the metrics by layer of a model beside it, and recommends a layer from them.

    remember("/models/mine", result)                     # a result by layer of `dc_tf evaluate`
    found = recommend("/models/mine", weights)
    found.layer, found.reason            # "conv7", "best k-NN top1 of 15 layers (60.2 %)"

The file `evaluations.json` is in the folder of the SavedModel or of the run; the model itself does
not change. Each entry has a digest of the measured weights, so results do not apply to another
stage, or to a run that was trained further. A read-only folder is left unchanged.
"""

import dataclasses
import json
import os

from absl import logging

from dc_tf.data.storage import files
from dc_tf.evaluation.comparison import best, layers_below

EVALUATIONS = "evaluations.json"
# In order of preference: k-NN first, since embeddings are mostly used for comparison.
_TASKS = {"knn": "k-NN", "linear_probe": "linear probe", "low_shot": "few labels"}
_KEPT = 20  # newest results per model


@dataclasses.dataclass(frozen=True)
class Recommended:
    """The layer with the best metric.

    Attributes:
        layer: name of the layer.
        reason: the metric it is best by, as a clause for messages.
        metrics: {layer: share in [0, 1]} of the measured layers.
        cells: maps were averaged over `cells` x `cells` cells; None for other pooling.
    """

    layer: str
    reason: str
    metrics: dict
    cells: int | None = None


def remember(model: str, result: dict) -> str | None:
    """Saves a task's metrics by layer, with those of the untrained network where it was measured.

    Results of other weights or settings are kept.

    Args:
        model: path of a SavedModel or of a run.
        result: the JSON result of the evaluation.

    Returns:
        Path of the file; None if it could not be written.
    """
    entry = _entry(result)
    path = _path(model)
    kept = [one for one in _read(path) if _key(one) != _key(entry)]
    for one in _read(path):
        if _key(one) == _key(entry):  # keep what only the earlier call measured
            for name in ("layers", "random_init"):
                entry[name] = one.get(name, {}) | entry[name]
    own, untrained = entry["layers"], entry["random_init"]
    entry["below_random_init"] = layers_below(own, untrained, entry["test_rows"])
    try:
        _write(path, [*kept, entry][-_KEPT:])
    except OSError as error:
        logging.info("%s cannot be written; `embed` will not find the best layer: %s", path, error)
        return None
    return path


def recommend(model: str, weights: str) -> Recommended | None:
    """The best layer by the newest result of the preferred task; None if nothing was measured.

    Args:
        model: path of a SavedModel or of a run.
        weights: `weights_digest` of the network.
    """
    entries = [one for one in _read(_path(model)) if one["weights"] == weights]
    for task, name in _TASKS.items():
        for entry in reversed(entries):
            if entry["task"] == task and len(entry["layers"]) > 1:
                return _recommended(entry, name)
    return None


def _recommended(entry, name):
    metrics = entry["layers"]
    layer = best(metrics)
    reason = (
        f"best {name} {entry['metric']} of {len(metrics)} layers ({100 * metrics[layer]:.1f} %)"
    )
    return Recommended(layer, reason, metrics, entry["protocol"].get("cells"))


def _entry(result):
    metric = result["metric"]

    def shares(layers):
        return {layer: values[metric] for layer, values in layers.items()}

    return {
        "task": result["task"],
        "metric": metric,
        "weights": result["opened"]["weights"],
        "test": result["opened"].get("test", result["train"]),
        "test_rows": result["test_rows"],
        "protocol": {k: v for k, v in result["protocol"].items() if k != "scratch"},
        "layers": shares(result["layers"]),
        "random_init": shares(result["random_init"] or {}),
    }


def _key(entry):
    names = ("task", "weights", "test", "protocol")
    return json.dumps([entry[name] for name in names], sort_keys=True)


def _path(model):
    return os.path.join(os.path.expanduser(model), EVALUATIONS)


def _read(path) -> list:
    """The entries of a file; [] if it is missing or not in the format of `remember`."""
    try:
        with files.opened(path) as file:
            entries = json.load(file)
        for entry in entries:
            _key(entry), entry["metric"], {**entry["layers"]}, {**entry.get("random_init", {})}
        return entries
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        logging.warning("%s is corrupt and is ignored: %r", path, error)
        return []


def _write(path, entries):
    data = (json.dumps(entries, indent=1) + "\n").encode()
    files.write_file(path, lambda file: file.write(data), concurrent=True)
