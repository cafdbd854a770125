"""Plots accuracy by layer, with an untrained network and, on the paper's data, the paper's curves.

plot(result, "layers.png")
"""

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dc_tf.evaluation.paper import linear_results

_DOTS_PER_INCH = 120
_TITLES = {"top1": "top-1", "map": "mean average precision"}


def plot(result: dict, path: str) -> None:
    """Plots, for every layer, the metric that layers are compared by.

    Args:
        result: the dict of `by_layer.run`.
        path: file to write; its extension selects the format (png, pdf, svg).
    """
    name, paper = result["metric"], result["paper_dataset"]
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(
        xlabel="layer",
        ylabel=f"{_TITLES.get(name, name)}, percent",
        title=f"{result['test_rows']} test images",
    )
    own = {layer: metrics[name] for layer, metrics in result["layers"].items()}
    curves = {"this model": own}
    if result["random_init"]:
        untrained = result["random_init"].items()
        curves["random init"] = {layer: metrics[name] for layer, metrics in untrained}
    for label, curve in curves.items():
        axes.plot(list(curve), [100 * share for share in curve.values()], marker="o", label=label)
    for method, shares in linear_results(paper).items():
        curve = {layer: share for layer, share in shares.items() if layer in own}
        label = f"paper, {paper}: {method}"
        axes.plot(list(curve), [100 * share for share in curve.values()], "--.", label=label)
    axes.set_ylim(bottom=0)
    axes.tick_params("x", rotation=45)
    axes.legend()
    figure.savefig(path, dpi=_DOTS_PER_INCH)
