"""What a sweep has measured: the metrics of each cell, mean and deviation over seeds.

    found = collect(sweep, cells, folder, failures={})
    found["rows"][0]["metrics"]["knn"]["conv13"]["mean"]        # percent

A metric is that by which the task of `dc_tf evaluate` compares networks, in percent: top-1, mean
average precision, the accuracy of rotations, or the normalised mutual information of the last
clustering with each column.
"""

import collections
import dataclasses
import statistics

from dc_tf.errors import DataError
from dc_tf.sweep.jobs import job_name, kept_result
from dc_tf.sweep.published import published

_SCALARS = ("map", "top1", "rotation_accuracy")


def metrics_of(result: dict, untrained: bool) -> dict[str, float]:
    """{layer or column: percent} of a result of `dc_tf evaluate`; "" if it is of the whole network.

    Args:
        result: JSON of the evaluation.
        untrained: take those of the untrained network.

    Raises:
        DataError: the task measures no untrained network.
    """
    if "layers" in result:
        layers = result["random_init"] if untrained else result["layers"]
        return {layer: _percent(values[result["metric"]]) for layer, values in layers.items()}
    if "clusterings" in result and not untrained:
        return _last_nmi(result["clusterings"])
    for name in _SCALARS:
        own = f"random_init_{name}" if untrained else name
        if own in result:
            return {"": _percent(result[own])}
        if untrained and name in (result.get("random_init") or {}):
            return {"": _percent(result["random_init"][name])}
    raise DataError(f"the task {result['task']} has no result for an untrained network.")


def below_untrained(result: dict) -> list[str] | None:
    """The layers that end below those of the untrained network.

    Args:
        result: JSON of `dc_tf evaluate`.

    Returns:
        Names of layers; [""] if the whole network does; None if no untrained one was measured.
    """
    if not result.get("random_init"):
        return None
    if "layers" in result:
        return result["below_random_init"]
    return [""] if result.get("advice") else []


def _percent(share):
    return round(100 * share, 10)


def _last_nmi(lines):
    last = lines[-1]
    place = last["stage"], last["round"], last["level"]
    return {
        line["column"]: _percent(line["nmi"])
        for line in lines
        if (line["stage"], line["round"], line["level"]) == place
    }


def collect(sweep, cells, folder, failures: dict) -> dict:
    """The result of the sweep, JSON-ready.

    Args:
        sweep, cells, folder: as of `cells.expand`.
        failures: {name of a job: reason}.

    Returns:
        dict of `title`, `cells` (each with `metrics`, {evaluation: {layer: percent}}, of those that
        are there, and `below_random_init`, {evaluation: layers, [] of an untrained network itself,
        or None if that was not measured}), `rows` (variants and points, over seeds; `deviation` is
        that of a sample, None for one seed; `below_random_init` is the number of seeds below, None
        if there is none but not all were compared), `paper` (with `source` and `curves`, or None),
        `failed` and `done`.
    """
    evaluated = [cell for cell in cells if cell.evaluated]
    found = [_cell(sweep, cell, folder, failures) for cell in evaluated]
    paper = dataclasses.asdict(published(sweep.paper)) if sweep.paper else None
    done = sum(len(one["metrics"]) == len(sweep.evaluations) for one in found)
    return {
        "title": sweep.title,
        "cells": found,
        "rows": rows_of(found),
        "paper": paper,
        "failed": failures,
        "done": f"{done} of {len(found)} cells",
    }


def _cell(sweep, cell, folder, failures) -> dict:
    metrics, below = {}, {}
    for evaluation in sweep.evaluations:
        if job_name(cell.run.name, evaluation.name) in failures:
            continue  # what is there was made with other settings
        result = kept_result(folder.evaluation(cell.run.name, evaluation.name))
        if result is not None and (result.get("random_init") or not cell.untrained):
            metrics[evaluation.name] = metrics_of(result, cell.untrained)
            below[evaluation.name] = [] if cell.untrained else below_untrained(result)
    return {
        "name": cell.name,
        "variant": cell.variant,
        "axes": cell.labels,
        "seed": cell.seed,
        "images": cell.run.rows,
        "run": folder.run(cell.run.name),
        "metrics": metrics,
        "below_random_init": below,
    }


def rows_of(found: list[dict]) -> list[dict]:
    """Cells of `collect` over their seeds: its `rows`."""
    groups: dict[tuple, list] = {}
    for cell in found:
        groups.setdefault((cell["variant"], *cell["axes"].items()), []).append(cell)
    return [
        {
            "variant": cells[0]["variant"],
            "axes": cells[0]["axes"],
            "images": cells[0]["images"],
            "metrics": _over_seeds(cells),
        }
        for cells in groups.values()
    ]


def _over_seeds(cells) -> dict:
    """{evaluation: {layer: mean, deviation and numbers of seeds}} from the cells of each seed."""
    values: dict[str, dict[str, list]] = {}
    below, unknown = collections.Counter(), set()
    for cell in cells:
        for name, layers in cell["metrics"].items():
            for layer, percent in layers.items():
                values.setdefault(name, {}).setdefault(layer, []).append(percent)
        for name, layers in cell["below_random_init"].items():
            below.update((name, layer) for layer in layers or ())
            unknown |= {name} if layers is None else set()
    return {
        name: {
            layer: spread(percents)
            | {"below_random_init": below[name, layer] or (None if name in unknown else 0)}
            for layer, percents in layers.items()
        }
        for name, layers in values.items()
    }


def spread(values) -> dict:
    """Mean, sample standard deviation (None for one value) and number of some values."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.mean(values), "deviation": deviation, "seeds": len(values)}
