"""Results of `dc_tf evaluate` that lie in the folder of a run, or are named.

found = find("/runs/mine", ["knn.json"])
found.by_layer[0].chart, found.pictures
"""

import base64
import dataclasses
import json
import os

import numpy as np

from dc_tf.errors import ConfigError
from dc_tf.evaluation.remembered import EVALUATIONS
from dc_tf.report.charts import Series, line_chart

_TITLES = {
    "knn": "k-NN",
    "linear_probe": "Linear probe",
    "low_shot": "Few labels",
    "finetune": "Fine-tuning",
    "retrieval": "Retrieval",
    "rotation": "Rotation",
    "voc07_classification": "VOC07 classification",
    "voc07_detection": "VOC07 detection",
}
_STATISTICS = {"top1": "top-1", "map": "mean average precision"}
_IN_SECTION_OF_THEIR_OWN = ("nmi",)
_PICTURES = (".png", ".svg")
_MOST_BYTES = 50_000_000  # of a JSON file that is looked at
_PICTURE_BYTES, _MOST_PICTURES = 1_000_000, 8


@dataclasses.dataclass(frozen=True)
class ByLayer:
    """A measure of each layer.

    Attributes:
        title: for people.
        rows: list of (layer, percent, percent of an untrained network or None, is the best).
        below: layers that are worse than those of an untrained network; None if none was compared.
        chart: of both, or None.
        about: what it was measured on.
    """

    title: str
    rows: list
    below: list | None
    chart: object
    about: str


@dataclasses.dataclass(frozen=True)
class Plain:
    """A result without layers: its title, its numbers, and what to be warned of or None."""

    title: str
    metrics: dict
    advice: str | None


@dataclasses.dataclass(frozen=True)
class Found:
    """What was found.

    Attributes:
        by_layer: list of ByLayer.
        plain: list of Plain.
        pictures: list of (name, data URI).
    """

    by_layer: list
    plain: list
    pictures: list


def find(folder: str | None, named=()) -> Found:
    """Reads what there is.

    Args:
        folder: of a run, or None.
        named: paths of further JSON results.

    Raises:
        ConfigError: a named file cannot be read as a result.
    """
    results = [_named(path) for path in named]
    results += [found for path in _files(folder, ".json") if (found := _result(path))]
    by_layer, plain, seen = [], [], set()
    for result in [*results, *_remembered(folder)]:
        if result["task"] in _IN_SECTION_OF_THEIR_OWN:
            continue
        if not isinstance(result.get("layers"), dict):
            plain.append(Plain(_title(result), _numbers(result), _advice(result)))
            continue
        made = _by_layer(result)
        key = made.title, tuple(layer for layer, *_ in made.rows)
        if made.rows and key not in seen:
            by_layer.append(made)
        seen.add(key)
    return Found(by_layer, plain, _pictures(folder))


def _by_layer(result):
    metric = result["metric"]
    own = {layer: _metric(values, metric) for layer, values in result["layers"].items()}
    twin = _mapping(result.get("random_init"))
    twin = {layer: _metric(values, metric) for layer, values in twin.items() if layer in own}
    best = max(own, key=own.get, default=None)
    rows = [
        (layer, 100 * share, 100 * twin[layer] if layer in twin else None, layer == best)
        for layer, share in own.items()
    ]
    title = f"{_title(result)}, {_STATISTICS.get(metric, metric)}"
    chart, names = None, [*own]
    if len(own) > 1:
        place = np.arange(len(names), dtype=float)
        series = [Series("trained", place, np.array([100 * own[name] for name in names]))]
        if twin:
            values = np.array([100 * twin.get(name, np.nan) for name in names])
            series.append(Series("untrained", place, values, dashed=True))
        chart = line_chart(title, series, "", unit="%", zero=True, names=names)
    images = result.get("test_rows")
    about = f"{images:,} test images" if isinstance(images, int) else ""
    below = result.get("below_random_init")
    compared = bool(twin) and isinstance(below, list)
    below = [layer for layer in below if layer in own] if compared else None
    return ByLayer(title, rows, below, chart, about)


def _mapping(value):
    return value if isinstance(value, dict) else {}


def _metric(values, metric):
    found = values.get(metric) if isinstance(values, dict) else values
    return float(found) if isinstance(found, int | float) else 0.0


def _title(result):
    return _TITLES.get(result["task"], str(result["task"]))


def _numbers(result):
    """The single numbers of a result that are not settings."""
    return {
        name: value
        for name, value in result.items()
        if isinstance(value, float) and name not in ("seconds", "estimated_s")
    }


def _advice(result):
    """The sentence of a result that is below that of an untrained network, else None."""
    found = result.get("advice")
    return found if isinstance(found, str) and found else None


def _remembered(folder):
    """Entries of `evaluations.json`, the newest first."""
    path = folder and os.path.join(folder, EVALUATIONS)
    entries = _json(path) if path and os.path.isfile(path) else None
    return list(filter(_is_result, reversed(entries))) if isinstance(entries, list) else []


def _result(path):
    found = _json(path)
    return found if _is_result(found) else None


def _named(path):
    found = _result(path) if os.path.isfile(path) else None
    if found is None:
        raise ConfigError(
            f"--evaluations={path} is not a JSON result of `dc_tf evaluate`; give its --output."
        )
    return found


def _is_result(found):
    if not isinstance(found, dict) or not isinstance(found.get("task"), str):
        return False
    return not isinstance(found.get("layers"), dict) or isinstance(found.get("metric"), str)


def _json(path):
    try:
        if os.path.getsize(path) > _MOST_BYTES:
            return None
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError, RecursionError):
        return None  # a file of something else


def _files(folder, *endings):
    names = sorted(os.listdir(folder)) if folder else []
    return [os.path.join(folder, name) for name in names if name.endswith(endings)]


def _pictures(folder):
    """Plots in the folder as data URIs."""
    found = []
    for path in _files(folder, *_PICTURES)[:_MOST_PICTURES]:
        if os.path.getsize(path) <= _PICTURE_BYTES:
            kind = "svg+xml" if path.endswith(".svg") else "png"
            with open(path, "rb") as file:
                text = base64.b64encode(file.read()).decode()
            found.append((os.path.basename(path), f"data:image/{kind};base64,{text}"))
    return found
