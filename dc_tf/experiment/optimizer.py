"""The optimizer of a stage."""

import dataclasses

from dc_tf.experiment.need import need
from dc_tf.hyperparams import Config


@dataclasses.dataclass
class Optimizer(Config):
    """An optimizer of Keras, with coupled weight decay.

    Attributes:
        name: of its class in Keras, such as "SGD", "Adam", "AdamW" or "Adagrad".
        options: its further arguments by name, such as beta_1 or global_clipnorm. Keras'
            own weight_decay is one of these; it is decoupled from the gradient.
        learning_rate: of the first epoch.
        momentum, nesterov: of SGD.
        drops: epochs of the stage after which the learning rate is multiplied by `drop_factor`.
        weight_decay: added to the gradient of every trainable weight, times the weight.
        literal_head_scale: scale gradients of sub-class heads as Eq. 5 is written, i.e. 1/S of
            the default, which averages over the images of the head's own super-class.
    """

    name: str = "SGD"
    options: Config = dataclasses.field(default_factory=Config)
    learning_rate: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-5
    drops: tuple[int, ...] = ()
    drop_factor: float = 0.1
    literal_head_scale: bool = False


def check_optimizer_settings(optimizer: Optimizer, place: str) -> None:
    """Refuses what cannot work; raises ConfigError.

    Names and options of optimizers need Keras: see `training.optimizers.check_optimizer`.

    Args:
        optimizer: its settings.
        place: where they are, as in "stages[0].optimizer".
    """
    for setting, least, works in (
        ("learning_rate", 1e-30, "use a positive number"),
        ("drop_factor", 1e-30, "use a positive number"),
        ("weight_decay", 0, "use 0 or a positive number"),
    ):
        value = getattr(optimizer, setting)
        need(value >= least, f"{place}.{setting}", value, works)
    momentum = optimizer.momentum
    need(0 <= momentum < 1, f"{place}.momentum", momentum, "use [0, 1)")
