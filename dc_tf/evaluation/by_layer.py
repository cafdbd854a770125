"""Measures a model layer by layer, an untrained network of the same shape beside it.

    result, text = run(knn.evaluate, request, knn.Protocol())

What measures is a function `evaluate(subject, train, test, layers, protocol, world)` to
`{layer: {figure: value}}` of this worker's share of the layers. The first figure, `top1` or
`map`, a share in [0, 1], is the one that layers are compared by.
"""

from dc_tf.distributed.collectives import ALONE, broadcast_json
from dc_tf.evaluation.features import parse_layers
from dc_tf.evaluation.models import random_init
from dc_tf.evaluation.paper import linear_figures


def run(evaluate, request, protocol, open_splits=None) -> tuple[dict, str]:
    """What a task's own `run` does when it measures layer by layer.

    Args:
        open_splits: function of the request to both splits; None for data sets of one label.
    """
    layers = parse_layers(request.layers)
    train, test = open_splits(request) if open_splits else request.splits()
    subject = request.subject()
    baseline, seed, world = request.random_init, request.seed, request.world
    result = measure(evaluate, subject, train, test, layers, protocol, baseline, seed, world)
    return result, table(request.task, result, getattr(protocol, "paper", None))


def measure(
    evaluate, subject, train, test, layers, protocol, baseline=True, seed=0, world=ALONE
) -> dict:
    """Runs a task on a model and, if asked for, on random weights.

    Args:
        evaluate: function, see above.
        subject: models.Subject.
        train, test: splits.Split.
        layers: names of layers.
        protocol: the task's.
        baseline: whether to measure an untrained network as well.
        seed: of the untrained network.
        world: Communicator of the workers that share the work; all return the same.

    Returns:
        JSON-able dict: `layers` by name with the task's figures, `random_init` the same (or
        None); `best_layer`, and under its own name the first figure of that layer, such as `top1`;
        `random_init_best_layer` and `random_init_top1` likewise; sizes of both sets.
    """

    def measured(network):
        own = evaluate(network, train, test, layers, protocol, world)
        found = {}
        for root in range(world.size):
            found |= broadcast_json(own, world, root)
        return {layer: found[layer] for layer in layers}

    own = measured(subject)
    untrained = measured(random_init(subject, seed)) if baseline else None
    name = first_figure(own)
    result = {"layers": own, "random_init": untrained, "best_layer": _best(own)}
    result[name] = own[result["best_layer"]][name]
    result["random_init_best_layer"] = _best(untrained) if untrained else None
    result[f"random_init_{name}"] = (
        untrained[result["random_init_best_layer"]][name] if untrained else None
    )
    return {
        **result,
        "network": {**subject.trunk.settings, "compute_dtype": subject.compute_dtype},
        "short_side": subject.short_side,
        "classes": train.classes,
        "train_rows": len(train.rows),
        "test_rows": len(test.rows),
    }


def table(task_name: str, result: dict, paper=None) -> str:
    """Percentages by layer; those of `paper`, one of LINEAR_DATA, beside them."""
    own, untrained = result["layers"], result["random_init"]
    figures = [f for f in next(iter(own.values())) if f.startswith(("top", "mean", "map"))]
    columns = {f: {layer: own[layer][f] for layer in own} for f in figures}
    if untrained:
        name = first_figure(own)
        columns["random init"] = {layer: untrained[layer][name] for layer in own}
    notes = [f"{task_name}, percent of {result['test_rows']} test images"]
    for method, figures in linear_figures(paper).items() if paper else ():
        columns[f"paper:{method}"] = {**dict.fromkeys(own), **figures}
    if paper:
        notes.append(f"paper: its figures on {paper}, perhaps another data set than this")
    return "\n".join([*notes, _format(columns, list(own))])


def first_figure(figures: dict) -> str:
    """The name of the figure, of `{layer: {figure: value}}`, that layers are compared by."""
    return next(iter(next(iter(figures.values()))))


def _best(figures):
    name = first_figure(figures)
    return max(figures, key=lambda layer: figures[layer][name])


def _format(columns, layers):
    widths = {name: max(len(name), 6) for name in columns}
    head = "layer   " + "  ".join(f"{name:>{width}}" for name, width in widths.items())
    lines = [
        f"{layer:8}" + "  ".join(f"{_percent(columns[n][layer]):>{w}}" for n, w in widths.items())
        for layer in layers
    ]
    return "\n".join([head, *lines])


def _percent(share):
    return "-" if share is None else f"{100 * share:.2f}"
