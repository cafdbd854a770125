"""The tables of `peers.py`: cost, best layer and last convolution of each row, and its distance.

    print(text_of(cells, Budget(images=30_000), {"swav": "conv13"}, "deepercluster2_small"))

A distance is a difference of means in points, and in pooled deviations: the square root of the
mean variance over the seeds of both rows, weighted by their degrees of freedom. It is that of
single runs, not of means, so two deviations are more than chance gives with three seeds each.
"""

import math

from peer_rows import UNTRAINED

from dc_tf.sweep.results import rows_of, spread
from dc_tf.sweep.tables import markdown, tables

_COSTS = dict(zip(UNTRAINED, ("views trained on", "forward only", "training seconds"), strict=True))
_LEAST_SEEDS = 2


def text_of(cells, budget, last_maps: dict, against: str) -> str:
    """Markdown: a summary with the cost of each row, distances, then accuracy by layer.

    Args:
        cells: of `peer_rows.measured`, at least one.
        budget: Budget of all.
        last_maps: {name of a row: name of its last convolution}.
        against: name of the row that the others are compared with; without it, or with fewer than
            two seeds of it, there are no distances.
    """
    rows = rows_of(cells)
    found = {"title": f"Budget: {budget}", "rows": rows, "paper": None, "failed": {}}
    title, _, by_layer = tables(found).partition("\n\n")
    parts = [title, _summary(cells, rows, last_maps), *_distances(rows, last_maps, against)]
    return "\n\n".join([*parts, by_layer])


def distance(own: dict, other: dict) -> tuple[float, float | None] | None:
    """How far a mean is from another one.

    Args:
        own, other: of `dc_tf.sweep.results.spread`.

    Returns:
        The difference in points and in pooled deviations, None where all seeds are equal; None if
        either has one seed.
    """
    if min(own["seeds"], other["seeds"]) < _LEAST_SEEDS:
        return None
    points = own["mean"] - other["mean"]
    free = [one["seeds"] - 1 for one in (own, other)]
    squares = [n * one["deviation"] ** 2 for n, one in zip(free, (own, other), strict=True)]
    pooled = math.sqrt(sum(squares) / sum(free))
    return points, points / pooled if pooled else None


def _summary(cells, rows, last_maps) -> str:
    """The best layer and the last convolution of each evaluation, and what training has used."""
    lines = []
    for row in rows:
        own = [cell["cost"] for cell in cells if cell["variant"] == row["variant"]]
        used = [f"{spread([cost[name] for cost in own])['mean']:,.0f}" for name in _COSTS]
        values = _values(row, last_maps).values()
        lines.append([row["variant"], *(_text(*value) for value in values), *used])
    return markdown(["", *_values(rows[0], last_maps), *_COSTS.values()], lines)


def _distances(rows, last_maps, against) -> list[str]:
    """A table of the rows of two or more seeds, if the reference is one of them."""
    reference = [row for row in rows if row["variant"] == against]
    if not reference:
        return []
    theirs, lines = _values(reference[0], last_maps), []
    for row in rows:
        own = _values(row, last_maps)
        found = [distance(own[name][1], theirs[name][1]) for name in theirs]
        if row["variant"] != against and None not in found:
            lines.append([row["variant"], *(_distance(*one) for one in found)])
    if not lines:
        return []
    title = f"Minus {against}: points of the means (and pooled deviations of the seeds):"
    return [title, markdown(["", *theirs], lines)]


def _values(row, last_maps) -> dict:
    """{heading: (layer, its mean and deviation)} of the best layers and the last convolutions."""
    found = {}
    for task, layers in row["metrics"].items():
        best = max(layers, key=lambda layer: layers[layer]["mean"])
        for name, layer in (("best layer", best), ("last conv.", last_maps[row["variant"]])):
            found[f"{task}, {name}"] = layer, layers[layer]
    return found


def _text(layer, value) -> str:
    """Mean, deviation and name of a layer."""
    deviation = "" if value["deviation"] is None else f" ± {value['deviation']:.1f}"
    return f"{value['mean']:.1f}{deviation} ({layer})"


def _distance(points, deviations) -> str:
    return f"{points:+.1f} ({'-' if deviations is None else f'{deviations:+.1f}'})"
