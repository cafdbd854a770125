"""The plot of a sweep: one panel per evaluation, one line per variant, bars for the deviation.

    draw(sweep, found, "plot.svg")                 # found: of results.collect

Points of other axes than the horizontal one are lines of their own. A variant that does not vary
over the horizontal axis is a level line. The paper's curves, whose data differ, are dashed.
"""

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dc_tf.sweep.file_checks import LAYER, VARIANT
from dc_tf.sweep.tables import UNNAMED, label_of

# Equal results give equal files.
_FIXED = {"svg.hashsalt": "dc_tf", "svg.fonttype": "none"}


def draw(sweep, found: dict, path: str) -> None:
    """Draws the result of a sweep; a sweep without results is drawn without lines."""
    names = list(dict.fromkeys(name for row in found["rows"] for name in row["metrics"]))
    count = max(1, len(names))
    with matplotlib.rc_context(_FIXED):
        figure = Figure(figsize=(3.5 + 4.5 * count, 4.5), layout="constrained")
        FigureCanvasAgg(figure)
        figure.suptitle(found["title"])
        panels = figure.subplots(1, count, squeeze=False)[0]
        for name, axes in zip(names, panels, strict=False):  # one panel without results
            _panel(axes, sweep, found, name)
        handles, labels = panels[0].get_legend_handles_labels()
        if labels:
            figure.legend(handles, labels, loc="outside right upper", fontsize="small")
        figure.savefig(path, format="svg", metadata={"Date": None})


def _panel(axes, sweep, found, name):
    rows, x = found["rows"], horizontal(sweep)
    layer = _layer(sweep, rows, name)
    lines = curves(rows, name, x, layer)
    labels = dict.fromkeys(at for curve in lines.values() for at in curve if at is not None)
    images = _images(labels, rows, x)
    places = images or _places(labels)
    for label, curve in lines.items():
        _draw_curve(axes, "this sweep" if label == UNNAMED else label, curve, places)
    for method, curve in (found["paper"] or {"curves": {}})["curves"].items():
        points = {places[label]: percent for label, percent in curve.items() if label in places}
        if points:
            axes.plot([*points], [*points.values()], "--.", alpha=0.6, label=f"paper: {method}")
    axes.set(title=f"{name}, {layer}" if x != LAYER and layer else name, ylabel="percent")
    texts = {label: f"{count:,}" for label, count in images.items()} or {at: at for at in labels}
    _draw_axis(axes, x, {texts[label]: place for label, place in places.items()}, sweep.plot.log)


def horizontal(sweep) -> str:
    """What is on the horizontal axis: the name of an axis, "variant" or "layer"."""
    return sweep.plot.x or (sweep.axes[0].name if sweep.axes else LAYER)


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


def _images(labels, rows, x) -> dict:
    """{label: number of images} where points differ in it, as fractions do; else {}."""
    images = {row["axes"].get(x): row["images"] for row in rows}
    found = {label: images[label] for label in labels if label in images}
    return found if x not in (LAYER, VARIANT) and len({*found.values()}) > 1 else {}


def _places(labels) -> dict:
    """{label: place}: numbers where all labels are numbers, else their order."""
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


def _draw_axis(axes, x, places, log):
    """The horizontal axis, with ticks at {text: place}."""
    axes.set_xlabel(x)
    if log and all(place > 0 for place in places.values()):
        axes.set_xscale("log")
    turned = 45 if len(places) > 6 or any(len(text) > 9 for text in places) else 0
    axes.set_xticks([*places.values()], [*places], rotation=turned)
    axes.minorticks_off()
