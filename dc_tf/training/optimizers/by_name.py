"""Optimizers by name, with the paper's weight decay: Keras' own, LARS and those of addons.

optimizer = make_optimizer(Optimizer(name="Adam", learning_rate=1e-3, options={"beta_2": 0.98}))
gradients = decayed(gradients, variables, settings)
"""

import functools
import inspect

from dc_tf import keras
from dc_tf.errors import ConfigError
from dc_tf.training.optimizers import addons
from dc_tf.training.optimizers.sgd import LARS, FusedSGD, is_kernel

# Arguments of optimizers that are not options.
_NOT_OPTIONS = ("learning_rate", "decay_of", "kwargs")


def make_optimizer(settings) -> keras.optimizers.Optimizer | addons.AddonsOptimizer:
    """Creates the optimizer that `experiment.Optimizer` describes.

    Raises:
        ConfigError: as in `check_optimizer`.
    """
    if addons.needed(settings):
        return addons.make(settings)
    check_optimizer(settings)
    options = _options(settings)
    if settings.name == "LARS":
        decay_of_variable = functools.partial(decay_of, settings)
        return LARS(settings.learning_rate, decay_of=decay_of_variable, **options)
    kind = FusedSGD if settings.name == "SGD" else _known()[settings.name]
    return kind(settings.learning_rate, **options)


def check_optimizer(settings) -> None:
    """Checks name and options of an optimizer.

    Raises:
        ConfigError: there is no such optimizer or option, and names those there are; or it is of
            tensorflow-addons, which is not installed.
    """
    known = _known()
    if settings.name not in (*known, *addons.NAMES):
        raise ConfigError(
            f"optimizer.name is {settings.name!r}; use one of {', '.join(known)}, or with "
            f"tensorflow-addons {', '.join(addons.NAMES)}."
        )
    if addons.needed(settings):
        addons.check(settings)
        return
    parameters = inspect.signature(known[settings.name]).parameters
    accepted = [
        name
        for name, parameter in parameters.items()
        if name not in _NOT_OPTIONS and parameter.kind != parameter.VAR_KEYWORD
    ]
    unknown = sorted(_options(settings).keys() - set(accepted))
    if unknown:
        raise ConfigError(
            f"optimizer.options has {', '.join(unknown)}; {settings.name} takes "
            f"{', '.join(accepted)}."
        )


def decayed(gradients, variables, settings) -> list:
    """Coupled weight decay: adds the gradient of an L2 penalty to each gradient.

    Args:
        gradients: list of tensors.
        variables: list of the weights that they belong to.
        settings: experiment.Optimizer.

    Returns:
        list of tensors; the gradients themselves for LARS, which adds the decay itself.
    """
    if settings.name == "LARS":
        return gradients
    return [
        _decayed(g, v, decay_of(settings, v)) for g, v in zip(gradients, variables, strict=True)
    ]


def _decayed(gradient, variable, decay):
    return gradient + decay * variable if decay else gradient


def decay_of(settings, variable) -> float:
    """The weight decay of a variable, as `decay_filter` has it."""
    kept = settings.decay_filter == "all" or is_kernel(variable)
    return settings.weight_decay if kept else 0.0


def _options(settings) -> dict:
    options = settings.options.as_dict()
    if settings.name in ("SGD", "LARS"):
        return {"momentum": settings.momentum, "nesterov": settings.nesterov, **options}
    return options


def _known() -> dict:
    """{name: class} of LARS and the optimizers of Keras that have a learning rate."""
    base = keras.optimizers.Optimizer
    of_keras = {
        name: value
        for name, value in vars(keras.optimizers).items()
        if inspect.isclass(value)
        and issubclass(value, base)
        and "learning_rate" in inspect.signature(value).parameters
    }
    return dict(sorted((of_keras | {"LARS": LARS}).items()))
