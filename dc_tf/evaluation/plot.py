"""Accuracy by layer as a picture, an untrained network and the paper's curves beside it.

plot(result, "layers.png", paper="imagenet")
"""

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dc_tf.evaluation.paper import LINEAR_TOP1, linear_top1

_DOTS_PER_INCH = 120


def plot(result: dict, path: str, paper: str | None = None):
    """Draws top-1 of every layer.

    Args:
        result: of `by_layer.measure`.
        path: of the picture; its ending says the format (png, pdf, svg).
        paper: a key of paper.LINEAR_TOP1 whose curves are drawn as well.
    """
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(
        xlabel="layer", ylabel="top-1, percent", title=f"{result['test_rows']} test images"
    )
    own = {layer: figures["top1"] for layer, figures in result["layers"].items()}
    curves = {"this model": own}
    if result["random_init"]:
        untrained = result["random_init"].items()
        curves["random init"] = {layer: figures["top1"] for layer, figures in untrained}
    for name, curve in curves.items():
        axes.plot(list(curve), [100 * share for share in curve.values()], marker="o", label=name)
    for method in LINEAR_TOP1[paper] if paper else ():
        curve = {layer: top1 for layer, top1 in linear_top1(paper, method).items() if layer in own}
        label = f"paper, {paper}: {method}"
        axes.plot(list(curve), [100 * share for share in curve.values()], "--", label=label)
    axes.set_ylim(bottom=0)
    axes.tick_params("x", rotation=45)
    axes.legend()
    figure.savefig(path, dpi=_DOTS_PER_INCH)
