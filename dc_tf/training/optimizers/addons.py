"""Optimizers of tensorflow-addons, with the interface of those that Keras has now.

    check(settings)
    optimizer = make(Optimizer(name="LAMB", wrapper="MovingAverage"))
    optimizer.build(variables)
    optimizer.apply_gradients(zip(gradients, variables))
    optimizer.take_averages()

tensorflow-addons 0.23 is the last release, and TensorFlow 2.15 the last that it works with. Its
optimizers, and those that its wrappers take, are of the class that Keras calls legacy: without
`build`, and with slots in place of lists of variables.
"""

import inspect
import types
import warnings

import tensorflow as tf
from absl import logging

from dc_tf import keras
from dc_tf.errors import ConfigError

NAMES = ("LAMB", "LazyAdam", "NovoGrad", "Yogi")
# Arguments that legacy optimizers have beside those of their signature. A wrapper clips, not what
# it wraps.
_CLIPPING = ("clipnorm", "clipvalue", "global_clipnorm")
_NOT_OPTIONS = ("learning_rate", "optimizer", "num_updates", "name", "kwargs")
_INSTALL = (
    "'DC_TF_STACK=tf215 launch/test.sh' makes its environment, and 'pip install -c "
    "constraints-tf215.txt -e .[cpu,addons]' installs it in one of Python 3.11"
)


def needed(settings) -> bool:
    """Whether experiment.Optimizer asks for something of tensorflow-addons."""
    return settings.name in NAMES or bool(settings.wrapper)


def check(settings) -> None:
    """Checks names and options.

    Raises:
        ConfigError: tensorflow-addons is not installed; the optimizer cannot be wrapped; an option
            is unknown or has a value that cannot be.
    """
    make(settings)


def make(settings) -> "AddonsOptimizer":
    """Creates the optimizer; raises as `check`."""
    found = _addons(settings).optimizers
    options = settings.options.as_dict()
    if settings.name == "SGD":
        options = {"momentum": settings.momentum, "nesterov": settings.nesterov, **options}
    clipping = {}
    if settings.wrapper:
        clipping = {name: options.pop(name) for name in _CLIPPING if name in options}
    kind = _kinds(found).get(settings.name)
    if kind is None:
        raise ConfigError(
            f"optimizer.wrapper is {settings.wrapper}, which cannot be around {settings.name}; use "
            f"one of {', '.join(_kinds(found))}, or no wrapper."
        )
    optimizer = _new(kind, "options", options, learning_rate=settings.learning_rate)
    if settings.wrapper:
        options = {**settings.wrapper_options.as_dict(), **clipping}
        kind = getattr(found, settings.wrapper)
        optimizer = _new(kind, "wrapper_options", options, optimizer=optimizer)
        if settings.wrapper == "SWA":
            optimizer.average_op = _traced_for_each(kind.average_op.python_function, optimizer)
    return AddonsOptimizer(optimizer)


class AddonsOptimizer(tf.Module):
    """A legacy optimizer, perhaps with a wrapper of tensorflow-addons around it.

    Checkpoints have all that it keeps of the variables, if these are in the same checkpoint.
    """

    def __init__(self, optimizer):
        """Takes an optimizer of class `tf.keras.optimizers.legacy.Optimizer`."""
        super().__init__(name="addons_optimizer")
        self._optimizer = optimizer
        # A function, since tf.Module would save a list of variables in every checkpoint.
        self._trained = lambda: ()
        self._strategy = None

    @property
    def learning_rate(self) -> tf.Variable:
        """() float32, after `build`."""
        return self._optimizer.learning_rate

    @property
    def variables(self) -> list[tf.Variable]:
        """The number of steps, the learning rate and the slots, after `build`."""
        return [*self._optimizer.weights, self.learning_rate]

    @property
    def averages(self) -> bool:
        """Whether it keeps averages of the variables."""
        return hasattr(self._optimizer, "assign_average_vars")

    @property
    def slow_weights(self) -> list[tuple[tf.Variable, tf.Variable]]:
        """(slot, variable) where a slot begins with the value of the variable: of Lookahead."""
        if "slow" not in self._optimizer.get_slot_names():
            return []
        return [(self._optimizer.get_slot(v, "slow"), v) for v in self._trained()]

    def build(self, variables) -> None:
        """Creates what is kept of `variables`, in the scope of their strategy."""
        variables = list(variables)
        self._trained = lambda: variables
        self._strategy = tf.distribute.get_strategy()
        inner = getattr(self._optimizer, "_optimizer", None)
        if inner is not None:
            inner._iterations = self._optimizer.iterations  # as its apply_gradients does
        self._optimizer._create_all_weights(variables)

    def apply_gradients(self, grads_and_vars, skip_gradients_aggregation=True) -> None:
        """Takes a step with gradients that are summed already."""
        gradients, variables = zip(*grads_and_vars, strict=True)

        def apply(gradients):
            pairs = zip(gradients, variables, strict=True)
            self._optimizer.apply_gradients(pairs, experimental_aggregate_gradients=False)

        self._strategy.run(apply, args=(gradients,))

    def take_averages(self) -> None:
        """Gives the variables their averages, which stay as they are."""
        first = getattr(self._optimizer, "_hyper", {}).get("start_averaging", -1)
        if int(self._optimizer.iterations.numpy()) <= first:
            logging.warning(
                "SWA starts after %d steps, and the stage has had %d; the weights are not averaged",
                first,
                self._optimizer.iterations.numpy(),
            )
            return
        with self._strategy.scope():
            for variable in self._trained():
                variable.assign(self._optimizer.get_slot(variable, "average").read_value())


def _traced_for_each(average_op, optimizer):
    """The method of SWA that averages a variable, traced for each variable by itself.

    tensorflow-addons traces it once for all variables of a shape, with the average of the first one
    in the trace where a strategy mirrors it: that would get the weights of all, the others none.
    """

    def average(*arguments):
        @tf.function
        def traced():
            return average_op(optimizer, *arguments)

        return traced()

    return average


def _addons(settings) -> types.ModuleType:
    """The package; raises ConfigError where it is missing."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it says at each import that it is the last release
            import tensorflow_addons
    except ImportError as error:
        setting, name = "name", settings.name
        if settings.wrapper:
            setting, name = "wrapper", settings.wrapper
        raise ConfigError(
            f"optimizer.{setting} is {name!r}, of tensorflow-addons, which is not installed and "
            f"works with TensorFlow 2.15 only, not with {tf.__version__}. {_INSTALL}. Or use an "
            "optimizer of Keras, such as AdamW or Lion, or LARS, without a wrapper."
        ) from error
    return tensorflow_addons


def _kinds(optimizers) -> dict:
    """{name: class} of what a wrapper can be around."""
    legacy = keras.optimizers.legacy
    own = {
        name: value
        for name, value in vars(legacy).items()
        if inspect.isclass(value) and value is not legacy.Optimizer
    }
    return dict(sorted((own | {name: getattr(optimizers, name) for name in NAMES}).items()))


def _new(kind, setting, options, **arguments):
    """An object of a class with checked options."""
    parameters = inspect.signature(kind).parameters
    accepted = [name for name in parameters if name not in _NOT_OPTIONS] + list(_CLIPPING)
    unknown = sorted(options.keys() - set(accepted))
    if unknown:
        raise ConfigError(
            f"optimizer.{setting} has {', '.join(unknown)}; {kind.__name__} takes "
            f"{', '.join(accepted)}."
        )
    for name, value in options.items():
        numeric = name in _CLIPPING or isinstance(parameters[name].default, (int, float))
        if numeric and not isinstance(value, (int, float)):
            raise ConfigError(f"optimizer.{setting}.{name} is {value!r}; use a number.")
    try:
        return kind(**arguments, **options)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"optimizer.{setting} does not fit {kind.__name__}: {error}; change it, or leave it "
            "out for the defaults."
        ) from error
