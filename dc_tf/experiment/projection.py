"""The projection between the trunk and the heads of a stage."""

import dataclasses

from dc_tf.experiment.need import need, need_at_least
from dc_tf.hyperparams import Config


@dataclasses.dataclass
class Projection(Config):
    """What maps features to the vectors that are clustered and classified; `dc_tf.nn.projection`.

    Attributes:
        hidden: units of the hidden layer; 0 makes the projection one linear layer.
        dim: length of its output, which has L2 norm 1; 0 trains without a projection.
    """

    hidden: int = 0
    dim: int = 0


def check_projection(projection: Projection, place: str) -> None:
    """Refuses what cannot work; raises ConfigError.

    Args:
        projection: its settings.
        place: where they are, as in "stages[0].projection".
    """
    need_at_least(f"{place}.hidden", projection.hidden, 0)
    dim = projection.dim
    need(dim >= 0 and dim != 1, f"{place}.dim", dim, "use 0, or at least 2")
    without = projection.hidden and not dim
    need(not without, f"{place}.hidden", projection.hidden, f"set {place}.dim as well, as to 128")
