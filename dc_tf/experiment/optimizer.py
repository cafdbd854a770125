"""The optimizer of a stage."""

import dataclasses

from dc_tf.experiment.need import need, need_choice
from dc_tf.hyperparams import Config

SCHEDULES = ("step", "cosine")
DECAY_FILTERS = ("all", "kernels")
AVERAGING = ("MovingAverage", "SWA")
WRAPPERS = (*AVERAGING, "Lookahead")


@dataclasses.dataclass
class Optimizer(Config):
    """An optimizer with coupled weight decay.

    Attributes:
        name: of its class in Keras, such as "SGD", "Adam", "AdamW" or "Adagrad"; or "LARS" (You et
            al. 2017), for large batches, this package's own on both stacks.
            Of tensorflow-addons, where that is installed: "LAMB", "LazyAdam", "NovoGrad", "Yogi".
        options: its further arguments by name, such as beta_1 or global_clipnorm, or
            trust_coefficient of LARS. Keras' own weight_decay is one of these; it is decoupled
            from the gradient.
        wrapper: a class of tensorflow-addons around it, or "": "Lookahead" (Zhang et al. 2019), or
            "MovingAverage" or "SWA" (Izmailov et al. 2018), which average the weights of the
            network; it takes the averages at the end of the stage.
        wrapper_options: arguments of the wrapper by name, such as average_decay.
        learning_rate: after the warm-up, before it falls.
        momentum, nesterov: of SGD and LARS.
        schedule: "step" multiplies the learning rate by `drop_factor` at each of `drops`; "cosine"
            lowers it in every step, to `final_learning_rate` at the end of the stage.
        drops: epochs of the stage after which the learning rate is multiplied by `drop_factor`.
        warmup_epochs: epochs of the stage, 0.5 for half of the first one, in which the learning
            rate grows from step to step.
        final_learning_rate: of "cosine".
        weight_decay: added to the gradient of every trainable weight, times the weight.
        decay_filter: weights that `weight_decay` is for: "all", or "kernels" of convolutions and
            linear layers, not biases, nor scale and shift of batch norm.
        literal_head_scale: scale gradients of sub-class heads as Eq. 5 is written, i.e. 1/S of
            the default, which averages over the images of the head's own super-class.
    """

    name: str = "SGD"
    options: Config = dataclasses.field(default_factory=Config)
    wrapper: str = ""
    wrapper_options: Config = dataclasses.field(default_factory=Config)
    learning_rate: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-5
    decay_filter: str = "all"
    schedule: str = "step"
    drops: tuple[int, ...] = ()
    drop_factor: float = 0.1
    warmup_epochs: float = 0.0
    final_learning_rate: float = 0.0
    literal_head_scale: bool = False

    @property
    def of_heads(self) -> "Optimizer":
        """The optimizer of heads, whose averages nothing would read."""
        if self.wrapper not in AVERAGING:
            return self
        return dataclasses.replace(self, wrapper="", wrapper_options=Config())


def check_optimizer_settings(optimizer: Optimizer, place: str, epochs: int) -> None:
    """Refuses what cannot work; raises ConfigError.

    Names and options of optimizers need Keras: see `optimizers.by_name.check_optimizer`.

    Args:
        optimizer: its settings.
        place: where they are, as in "stages[0].optimizer".
        epochs: of its stage.
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
    need_choice(f"{place}.decay_filter", optimizer.decay_filter, DECAY_FILTERS)
    if optimizer.wrapper:
        need_choice(f"{place}.wrapper", optimizer.wrapper, WRAPPERS)
    options = optimizer.wrapper_options.as_dict()
    works = "use them with optimizer.wrapper only"
    need(optimizer.wrapper or not options, f"{place}.wrapper_options", options, works)
    _check_schedule(optimizer, place, epochs)


def _check_schedule(optimizer, place, epochs):
    need_choice(f"{place}.schedule", optimizer.schedule, SCHEDULES)
    warmup = optimizer.warmup_epochs
    works = f"use 0, or a positive number below the {epochs} epochs of the stage"
    need(0 <= warmup < epochs, f"{place}.warmup_epochs", warmup, works)
    cosine = optimizer.schedule == "cosine"
    drops, works = list(optimizer.drops), "leave it out with schedule=cosine"
    need(not (cosine and drops), f"{place}.drops", drops, works)
    last, most = optimizer.final_learning_rate, optimizer.learning_rate
    name = f"{place}.final_learning_rate"
    need(cosine or last == 0, name, last, "use it with schedule=cosine only")
    need(0 <= last <= most, name, last, f"use 0 to the learning_rate, {most}")
