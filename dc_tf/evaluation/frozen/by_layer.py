"""Measures a model and an untrained network of the same shape layer by layer.

    result, text = run(knn.evaluate, request, knn.Protocol(), knn.work)

A task provides a function `evaluate(frozen, train, test, layers, protocol, world)`, which returns
`{layer: {metric: value}}` for this worker's share of the layers. Layers are compared by the first
metric, `top1` or `map`, a share in [0, 1].
"""

from dc_tf.distributed.collectives import ALONE, broadcast_json
from dc_tf.evaluation.comparison import compare
from dc_tf.evaluation.frozen.features import parse_layers
from dc_tf.evaluation.frozen.given_features import open_given
from dc_tf.evaluation.models import network_class, random_init
from dc_tf.evaluation.paper import linear_results


def run(
    evaluate, request, protocol, work, open_splits=None, paper_data=lambda *_: ""
) -> tuple[dict, str]:
    """Implements `run` of a task that measures layer by layer.

    Args:
        evaluate: function, see above.
        request: tasks.Request, of a network or of features.
        protocol: the task's Protocol.
        work: function of (frozen, train, test, layers, protocol) that returns cost.Work for one
            network.
        open_splits: function of (request, protocol) that returns both splits; None for data sets
            with one label per image.
        paper_data: function of (protocol, train, test) that returns the name in paper.LINEAR_DATA
            of the data, or "".

    Returns:
        The JSON-serialisable dict of `measure` with `paper_dataset`, and a table to print.
    """
    if request.features is not None:
        frozen, train, test = open_given(request)
        layers = frozen.trunk.layer_names
    else:
        if request.other is None:
            layers = parse_layers(request.layers, network_class(request.model).layer_names)
        train, test = open_splits(request, protocol) if open_splits else request.splits()
        frozen = request.frozen_model()
        layers = frozen.trunk.layer_names if request.other is not None else layers
    baseline, seed, world = request.random_init and frozen.is_ours, request.seed, request.world
    request.announce(lambda: work(frozen, train, test, layers, protocol), 1 + baseline)
    result = measure(evaluate, frozen, train, test, layers, protocol, baseline, seed, world)
    # The paper's results are by layer, of its own network.
    of_paper = frozen.trunk.kind == "vgg16"
    result["paper_dataset"] = paper_data(protocol, train, test) if of_paper else ""
    return result, table(request.task, result)


def measure(
    evaluate, frozen, train, test, layers, protocol, baseline=True, seed=0, world=ALONE
) -> dict:
    """Runs a task on a model and, if `baseline`, on an untrained network.

    Args:
        evaluate: function, see above.
        frozen: models.FrozenModel.
        train, test: splits.Split.
        layers: names of layers.
        protocol: the task's Protocol.
        baseline: whether to also measure an untrained network.
        seed: seed of the untrained network.
        world: Communicator of the workers that share the work; all get the same result.

    Returns:
        JSON-serialisable dict: `layers`, the task's metrics by layer; `random_init`, the same for
        the untrained network, or None; `metric`, the name of the one that layers are compared
        by; the keys of `comparison.compare`; that metric of `best_layer` under its own name, such
        as `top1`, and of `random_init_best_layer` as `random_init_top1`; sizes of both sets.
    """

    def measured(network):
        own = evaluate(network, train, test, layers, protocol, world)
        found = {}
        for root in range(world.size):
            found |= broadcast_json(own, world, root)
        return {layer: found[layer] for layer in layers}

    own = measured(frozen)
    untrained = measured(random_init(frozen, seed)) if baseline else None
    name = first_metric(own)
    shares = _shares(untrained, name) if untrained else None
    found = compare(_shares(own, name), shares, len(test.rows))
    return {
        "layers": own,
        "random_init": untrained,
        "metric": name,
        **found,
        name: own[found["best_layer"]][name],
        f"random_init_{name}": shares[found["random_init_best_layer"]] if untrained else None,
        "network": frozen.network,
        "short_side": frozen.short_side,
        "classes": train.classes,
        "train_rows": len(train.rows),
        "test_rows": len(test.rows),
    }


def table(task_name: str, result: dict) -> str:
    """Percentages by layer, with the paper's on its data, followed by the best layer and advice."""
    own, untrained, name = result["layers"], result["random_init"], result["metric"]
    metrics = [m for m in next(iter(own.values())) if m.startswith(("top", "mean", "map"))]
    columns = {m: {layer: own[layer][m] for layer in own} for m in metrics}
    if untrained:
        columns["random init"] = _shares(untrained, name)
    notes = [f"{task_name}, percent of {result['test_rows']} test images"]
    paper = result["paper_dataset"]
    for method, metrics in linear_results(paper).items():
        columns[f"paper:{method}"] = {**dict.fromkeys(own), **metrics}
    if paper:
        notes.append(f"paper: on {paper}")
    return "\n".join([*notes, _format(columns, list(own)), *_lines(result)])


def first_metric(metrics: dict) -> str:
    """The name of the first metric in `{layer: {metric: value}}`; layers are compared by it."""
    return next(iter(next(iter(metrics.values()))))


def _shares(metrics, name):
    return {layer: values[name] for layer, values in metrics.items()}


def _lines(result):
    """Sentences below the table."""
    name = result["metric"]
    line = f"best layer by {name}: {result['best_layer']}, {_percent(result[name])}"
    if result["random_init"]:
        layer, share = result["random_init_best_layer"], result[f"random_init_{name}"]
        line += f"; of random init {layer}, {_percent(share)}"
    else:
        line += "; random init: not measured"
    return [line, *([result["advice"]] if result["advice"] else [])]


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
