"""Keras' optimizers by name, with the paper's weight decay.

optimizer = make_optimizer(Optimizer(name="Adam", learning_rate=1e-3, options={"beta_2": 0.98}))
"""

import inspect

import tensorflow as tf

from dc_tf import keras
from dc_tf.errors import ConfigError


def make_optimizer(settings) -> keras.optimizers.Optimizer:
    """Creates the optimizer that `experiment.Optimizer` describes.

    Raises:
        ConfigError: as in `check_optimizer`.
    """
    check_optimizer(settings)
    kind = _FusedSGD if settings.name == "SGD" else _known()[settings.name]
    return kind(settings.learning_rate, **_options(settings))


def check_optimizer(settings) -> None:
    """Checks name and options of an optimizer.

    Raises:
        ConfigError: Keras has no such optimizer or option; names those it has.
    """
    known = _known()
    if settings.name not in known:
        raise ConfigError(f"optimizer.name is {settings.name!r}; use one of {', '.join(known)}.")
    parameters = inspect.signature(known[settings.name]).parameters
    accepted = [
        name
        for name, parameter in parameters.items()
        if name not in ("learning_rate", "kwargs") and parameter.kind != parameter.VAR_KEYWORD
    ]
    unknown = sorted(_options(settings).keys() - set(accepted))
    if unknown:
        raise ConfigError(
            f"optimizer.options has {', '.join(unknown)}; {settings.name} takes "
            f"{', '.join(accepted)}."
        )


def decayed(gradients, variables, weight_decay) -> list:
    """Coupled weight decay: adds the gradient of an L2 penalty to each gradient."""
    return [g + weight_decay * v for g, v in zip(gradients, variables)]


class _FusedSGD(keras.optimizers.SGD):
    """Keras' SGD; with momentum, weight and momentum are updated in one pass over memory."""

    def update_step(self, gradient, variable) -> None:
        if not self.momentum or isinstance(gradient, tf.IndexedSlices):
            super().update_step(gradient, variable)
            return
        momentum = self.momentums[self._index_dict[self._var_key(variable)]]
        tf.raw_ops.ResourceApplyKerasMomentum(
            var=variable.handle,
            accum=momentum.handle,
            lr=tf.cast(self.learning_rate, variable.dtype),
            grad=gradient,
            momentum=tf.cast(self.momentum, variable.dtype),
            use_nesterov=self.nesterov,
        )


def _options(settings) -> dict:
    options = settings.options.as_dict()
    if settings.name == "SGD":
        return {"momentum": settings.momentum, "nesterov": settings.nesterov, **options}
    return options


def _known() -> dict:
    """{name: class} of the optimizers of Keras that have a learning rate."""
    base = keras.optimizers.Optimizer
    return {
        name: value
        for name, value in sorted(vars(keras.optimizers).items())
        if inspect.isclass(value)
        and issubclass(value, base)
        and "learning_rate" in inspect.signature(value).parameters
    }
