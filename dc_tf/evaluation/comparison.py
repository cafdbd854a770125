"""Compares a network's metrics by layer with those of an untrained network of the same shape.

    found = compare({"conv7": 0.60, "fc7": 0.41}, {"conv7": 0.50, "fc7": 0.46}, images=267)
    found["below_random_init"]       # ["fc7"]
    found["advice"]                  # "fc7 ends below ...: lower the learning rate, ..."

The JSON result of a task contains all the inputs, so the comparison can be repeated from it.
"""

import math


def compare(own: dict, untrained: dict | None, images: int) -> dict:
    """Finds the best layer, and the layers that are worse than in an untrained network.

    Args:
        own: {layer: share in [0, 1]}, at least one layer.
        untrained: the same for the untrained network; None if it was not measured.
        images: number of test images behind each share.

    Returns:
        JSON-serialisable dict: `best_layer`; `random_init_best_layer` (None without an untrained
        network); `below_random_init`, the layers, in the order of `own`, with a share below that
        of the untrained network by more than the standard error, or None if nothing was compared;
        `advice`, a sentence on those layers and one on the others with a lower share, or None if
        no share is lower.
    """
    top, untrained = best(own), untrained or {}
    found = layers_below(own, untrained, images)
    below = found or []
    lower = [n for n in own if n not in below and n in untrained and own[n] < untrained[n]]
    sentences = [_advice(own, untrained, below, top)] if below else []
    sentences += [_within(own, untrained, lower, images)] if lower else []
    return {
        "best_layer": top,
        "random_init_best_layer": best(untrained) if untrained else None,
        "below_random_init": found,
        "advice": " ".join(sentences) or None,
    }


def best(metrics: dict) -> str:
    """The layer with the highest metric; the first one on a tie."""
    return max(metrics, key=metrics.get)


def layers_below(own: dict, untrained: dict, images: int) -> list[str] | None:
    """The layers, in the order of `own`, that `is_below` finds among those that both have.

    None if they have no layer in common, so that nothing was compared.
    """
    both = [layer for layer in own if layer in untrained]
    if not both:
        return None
    return [layer for layer in both if is_below(own[layer], untrained[layer], images)]


def is_below(own: float, untrained: float, images: int) -> bool:
    """Whether a share is lower by more than one standard error of the difference."""
    variance = own * (1 - own) + untrained * (1 - untrained)
    return untrained - own > math.sqrt(max(variance, 0.0) / images)


def advice(what: str, own: float, untrained: float | None, images: int) -> str | None:
    """A sentence if the network's single metric is below that of an untrained one, else None."""
    if untrained is None or not is_below(own, untrained, images):
        return None
    return (
        f"{what} ends below an untrained network ({100 * own:.1f} % against "
        f"{100 * untrained:.1f} %): pre-train "
        "at a lower learning rate, longer, or on more images."
    )


def _ends_below(own, untrained, layers):
    shares = ", ".join(
        f"{layer} ({100 * own[layer]:.1f} % against {100 * untrained[layer]:.1f} %)"
        for layer in layers
    )
    return f"{shares} {'ends' if len(layers) == 1 else 'end'} below an untrained network"


def _within(own, untrained, lower, images):
    return f"{_ends_below(own, untrained, lower)}, but within the error of {images:,} images."


def _advice(own, untrained, below, top):
    text = f"{_ends_below(own, untrained, below)}: "
    if top in below:
        return text + "train at a lower learning rate, longer, or on more images."
    text += "train at a lower learning rate or longer, or take "
    return f"{text}{top}, the best layer here ({100 * own[top]:.1f} %)."
