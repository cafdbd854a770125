"""The exchange of the weights that all workers hold: which of their gradients travel how, and when.

exchange = exchange_of_shared(
    weights, dense_layers(trunk, projection), convolutions(trunk), {"fc6"}, world, "float32"
)
"""

from dc_tf.distributed.collectives import Communicator
from dc_tf.planning.exchange import leaves_early
from dc_tf.training.gradients.exchange import Exchange


def dense_layers(trunk, projection) -> dict:
    """{name as of `planning.exchange`: dense layer} of trunk and projection, which may be None."""
    layers = {name: trunk.parts()[name] for name in trunk.dense_layers}
    if projection:
        layers |= {f"projection {name}": part for name, part in projection.parts().items()}
    return layers


def convolutions(trunk) -> list:
    """The `nn.conv.Conv2D` of the trunk, from the first to the last."""
    return [part.conv for part in trunk.parts().values() if hasattr(part, "conv")]


def exchange_of_shared(
    weights, dense: dict, convs, factored, world: Communicator, dtype: str
) -> Exchange:
    """The Exchange of the shared weights.

    Args:
        weights: list of tf.Variable, in the order of their gradients.
        dense: dense layers, as of `dense_layers`.
        convs: convolutions whose gradients may leave while the backward pass runs; none where that
            pass is traced into a loop or compiled.
        factored: names of the dense layers whose gradients travel as factors.
        world: of all workers.
        dtype: on the wire.
    """
    as_factors = [layer for name, layer in dense.items() if name in factored]
    early = [layer for name, layer in dense.items() if name not in factored and _is_early(layer)]
    return Exchange(weights, as_factors, world, dtype, early, list(filter(_is_early, convs)))


def _is_early(layer) -> bool:
    return leaves_early(layer.kernel.shape.num_elements())
