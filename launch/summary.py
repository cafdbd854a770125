"""Results of a quickstart by layer, compared with an untrained network, as plain text."""

import json
import pathlib

# Measured of VGG-16; of other networks all are.
LAYERS = ("conv2", "conv4", "conv7", "conv10", "conv13", "fc7")
# Always shown beside the best layer: the last ones, such as conv13 and fc7, or block4_2 and pool.
_ALWAYS = 2
_CHANCE = "25.0 % (chance)"
_NAMES = {"knn": "k-NN", "linear": "linear probe"}


def measured_layers(export) -> str:
    """The value of --layer for an exported model."""
    about = pathlib.Path(export) / "dc_tf.json"
    outputs = json.loads(about.read_text())["outputs"] if about.exists() else LAYERS
    return ",".join(LAYERS) if set(LAYERS) <= set(outputs) else "all"


def metrics(trained, knn, linear) -> dict:
    """The metrics of the result, flat.

    Args:
        trained: result of `dc_tf train`.
        knn, linear: results of `dc_tf evaluate`; None without an evaluation.

    Returns:
        dict: `rotation_accuracy`; for both measures of the best layer `X_top1`, `X_layer`, the
        untrained network's `random_init_X_top1` and `random_init_X_layer`, and `X_layers`: top-1
        by layer as [trained, random init]; `below_random_init`: {measure: layers}, as
        `dc_tf evaluate` found them; None where no untrained network was measured.
    """
    found = {"rotation_accuracy": trained.get("rotation_accuracy")}
    for name, result in (("knn", knn), ("linear", linear)):
        result = result or {}
        found |= {
            f"{name}_top1": result.get("top1"),
            f"{name}_layer": result.get("best_layer"),
            f"random_init_{name}_top1": result.get("random_init_top1"),
            f"random_init_{name}_layer": result.get("random_init_best_layer"),
            f"{name}_layers": _by_layer(result),
        }
    found["below_random_init"] = {
        name: (result or {}).get("below_random_init")
        for name, result in (("knn", knn), ("linear", linear))
    }
    return found


def text(result, knn, linear) -> str:
    """A table of `metrics`, and sentences on layers that are worse than before training."""
    epochs = ", ".join(f"{name} {count}" for name, count in result["epochs"].items())
    rows = [("", "trained", "random init")]
    rows.append(("rotation accuracy", _percent(result["rotation_accuracy"]), _CHANCE))
    for name, of in (("knn", knn), ("linear", linear)):
        if of is not None:
            rows += _rows(name, result)
    width = 2 + max(len(name) for name, _, _ in rows)
    lines = [f"{name:{width}}{own:<18}{twin}".rstrip() for name, own, twin in rows]
    return "\n".join(
        [*lines, f"epochs: {epochs}", *_advice(result), *_within(result, knn or linear)]
    )


def _rows(name, result):
    title = f"{_NAMES[name]} top-1"
    yield f"{title}, best layer", *(_best(name, result, of) for of in ("", "random_init_"))
    for layer, shares in list(result[f"{name}_layers"].items())[-_ALWAYS:]:
        yield f"  {layer}", *map(_percent, shares)


def _best(name, result, prefix):
    share = result[f"{prefix}{name}_top1"]
    if share is None:
        return "not measured"
    return f"{_percent(share)} ({result[f'{prefix}{name}_layer']})"


def _advice(result):
    below = _lower(result, beyond_error=True)
    if not below:
        return
    best = result["linear_layer"] if result["linear_top1"] is not None else result["knn_layer"]
    shortened = result["epochs"] != result["configured_epochs"]
    longer = "a larger --minutes" if shortened else "more epochs by --params_override"
    text = f"Worse than before training: {', '.join(below)}. "
    if _best_is_below(result):
        text += "The training was too short; train longer"
    else:
        text += f"Use layer {best}, the best here, or train longer"
    yield f"{text}: {longer}, with another --workdir."


def _within(result, measured):
    lower = _lower(result, beyond_error=False)
    if lower:
        error = f"within the error of {measured['test_rows']:,} test images"
        yield f"Lower than before training, but {error}: {', '.join(lower)}."


def _lower(result, beyond_error):
    """Names and shares of the layers below their untrained twins, by measure."""
    below = {name: result["below_random_init"][name] or () for name in _NAMES}
    return [
        f"{layer} in {_NAMES[name]} ({_percent(own)} against {_percent(twin)})"
        for name in _NAMES
        for layer, (own, twin) in result[f"{name}_layers"].items()
        if own < twin and (layer in below[name]) == beyond_error
    ]


def _best_is_below(result):
    """Whether the best layer of the untrained network is better by any measure."""
    pairs = [(result[f"{name}_top1"], result[f"random_init_{name}_top1"]) for name in _NAMES]
    return any(None not in pair and pair[0] < pair[1] for pair in pairs)


def _by_layer(result):
    untrained = result.get("random_init") or {}
    return {
        layer: [own["top1"], untrained[layer]["top1"]]
        for layer, own in (result.get("layers") or {}).items()
        if layer in untrained
    }


def _percent(share):
    return "-" if share is None else f"{100 * share:.1f} %"
