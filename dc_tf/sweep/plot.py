"""The plot of a sweep: one panel per evaluation, one line per variant, bars for the deviation.

    draw(sweep, found, "plot.svg")                 # found: of results.collect

Points of other axes than the horizontal one are lines of their own. A variant that does not vary
over the horizontal axis is a level line. The paper's curves, whose data differ, are dashed.
"""

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dc_tf.sweep.file_checks import LAYER, VARIANT
from dc_tf.sweep.tables import label_of

# Equal results give equal files.
_FIXED = {"svg.hashsalt": "dc_tf", "svg.fonttype": "none"}


def draw(sweep, found: dict, path: str) -> None:
    """Draws the result of a sweep; a sweep without results is drawn without lines."""
    names = list(dict.fromkeys(name for row in found["rows"] for name in row["metrics"]))
    count = max(1, len(names))
    with matplotlib.rc_context(_FIXED):
        figure = Figure(figsize=(2 + 4.5 * count, 4.5), layout="constrained")
        FigureCanvasAgg(figure)
        figure.suptitle(found["title"])
        panels = figure.subplots(1, count, squeeze=False)[0]
        for name, axes in zip(names, panels):
            _panel(axes, sweep, found, name)
        figure.savefig(path, format="svg", metadata={"Date": None})


def _panel(axes, sweep, found, name):
    x = horizontal(sweep)
    layer = _layer(sweep, found["rows"], name)
    lines = curves(found["rows"], name, x, layer)
    labels = [label for curve in lines.values() for label in curve if label is not None]
    places = _places(list(dict.fromkeys(labels)), found["rows"], x)
    for label, curve in lines.items():
        _draw_curve(axes, label, curve, places)
    if found["paper"] and x in (LAYER, VARIANT, *_labelled(sweep)):
        for method, curve in found["paper"]["curves"].items():
            points = {label: percent for label, percent in curve.items() if label in places}
            if points:
                at = [places[label] for label in points]
                axes.plot(at, list(points.values()), "--.", alpha=0.6, label=f"paper: {method}")
    _describe(axes, sweep, name, x, layer, places)


def horizontal(sweep) -> str:
    """What is on the horizontal axis: the name of an axis, "variant" or "layer"."""
    return sweep.plot.x or (sweep.axes[0].name if sweep.axes else LAYER)


def _labelled(sweep):
    return [axis.name for axis in sweep.axes]


def _layer(sweep, rows, name):
    """The layer that is shown where the horizontal axis has something else."""
    layers = dict.fromkeys(layer for row in rows for layer in row["metrics"].get(name, {}))
    return sweep.plot.layer if sweep.plot.layer in layers else list(layers)[-1]


def curves(rows, name, x, layer) -> dict:
    """{label of a line: {label on the horizontal axis: value}}; None as label: at every place.

    Args:
        rows: of results.collect.
        name: of the evaluation.
        x: as of `horizontal`.
        layer: that is shown if x is not "layer".
    """
    found: dict[str, dict] = {}
    for row in rows:
        metrics = row["metrics"].get(name, {})
        if x == LAYER:
            found[label_of(row)] = metrics
        elif layer in metrics:
            axes = {axis: label for axis, label in row["axes"].items() if axis != x}
            variant = "" if x == VARIANT else row["variant"]
            line = label_of({"variant": variant, "axes": axes})
            at = row["variant"] if x == VARIANT else row["axes"].get(x)
            found.setdefault(line, {})[at] = metrics[layer]
    return found


def _places(labels, rows, x) -> dict:
    """{label: place}: numbers where all labels are numbers, else their order.

    A fraction of the data set stands at its number of images.
    """
    images = {row["axes"].get(x): row["images"] for row in rows}
    if x not in (LAYER, VARIANT) and len({images.get(label) for label in labels}) > 1:
        return {label: images[label] for label in labels}
    try:
        return {label: float(label) for label in labels}
    except ValueError:
        return {label: place for place, label in enumerate(labels)}


def _draw_curve(axes, label, curve, places):
    values = dict.fromkeys(places, curve[None]) if None in curve else curve
    at = [places[label] for label in values]
    means = [value["mean"] for value in values.values()]
    bars = [value["deviation"] or 0.0 for value in values.values()]
    style = "--" if None in curve else "o-"
    axes.errorbar(at, means, yerr=bars, fmt=style, capsize=3, label=label)


def _describe(axes, sweep, name, x, layer, places):
    shown = "" if x == LAYER or not layer else f", {layer}"
    axes.set(title=f"{name}{shown}", ylabel="percent", xlabel=x)
    if sweep.plot.log and all(place > 0 for place in places.values()):
        axes.set_xscale("log")
    turned = 45 if len(places) > 6 or any(len(label) > 9 for label in places) else 0
    axes.set_xticks(list(places.values()), list(places), rotation=turned)
    axes.minorticks_off()
    axes.legend(fontsize="small")
