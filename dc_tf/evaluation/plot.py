"""Accuracy by layer as a picture, an untrained network and the paper's curves beside it.

plot(result, "layers.png", paper="imagenet")
"""

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dc_tf.evaluation.by_layer import first_figure
from dc_tf.evaluation.paper import linear_figures

_DOTS_PER_INCH = 120
_TITLES = {"top1": "top-1", "map": "mean average precision"}


def plot(result: dict, path: str, paper: str | None = None):
    """Draws the figure of every layer that layers are compared by.

    Args:
        result: of `by_layer.measure`.
        path: of the picture; its ending says the format (png, pdf, svg).
        paper: one of paper.LINEAR_DATA whose curves are drawn as well.
    """
    name = first_figure(result["layers"])
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(
        xlabel="layer",
        ylabel=f"{_TITLES.get(name, name)}, percent",
        title=f"{result['test_rows']} test images",
    )
    own = {layer: figures[name] for layer, figures in result["layers"].items()}
    curves = {"this model": own}
    if result["random_init"]:
        untrained = result["random_init"].items()
        curves["random init"] = {layer: figures[name] for layer, figures in untrained}
    for label, curve in curves.items():
        axes.plot(list(curve), [100 * share for share in curve.values()], marker="o", label=label)
    for method, shares in linear_figures(paper).items() if paper else ():
        curve = {layer: share for layer, share in shares.items() if layer in own}
        label = f"paper, {paper}: {method}"
        axes.plot(list(curve), [100 * share for share in curve.values()], "--.", label=label)
    axes.set_ylim(bottom=0)
    axes.tick_params("x", rotation=45)
    axes.legend()
    figure.savefig(path, dpi=_DOTS_PER_INCH)
