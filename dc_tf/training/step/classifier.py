"""A linear head in training: its weights, its optimizer and the workers that hold it."""

import numpy as np
import tensorflow as tf

from dc_tf.nn.heads import LinearHead
from dc_tf.planning.exchange import leaves_early, updated_in_blocks
from dc_tf.training.gradients.exchange import Exchange
from dc_tf.training.gradients.factors import Factors
from dc_tf.training.optimizers.by_name import decay_of, decayed, make_optimizer


class Classifier(tf.Module):
    """A linear head whose weights are equal on the workers of a group.

    Args:
        stage: experiment.Stage.
        features: input dimension.
        classes: number of logits.
        comm: `Communicator` of the workers that hold this head.
        gradient_scale: multiplies the gradient of the loss over the global batch.
        as_factors: whether the holders exchange the factors of the kernel's gradient, or the only
            holder takes them.
        dtype: of numbers on the wire, as of `Exchange`.

    Attributes:
        head: LinearHead.
        optimizer: optimizer of its weights, without averages of them.
        exchange: Exchange of its gradients with the other holders.
    """

    def __init__(
        self,
        stage,
        features,
        classes,
        comm,
        gradient_scale=1.0,
        as_factors=False,
        dtype="float32",
    ):
        super().__init__()
        self.head = LinearHead(features, classes, stage.head_initializer)
        settings = stage.optimizer.of_heads
        self.optimizer = make_optimizer(settings)
        self.optimizer.build(self.weights)
        layers = [self.head] if as_factors else []
        early = [] if as_factors or not leaves_early(features * classes) else [self.head]
        self.exchange = Exchange(self.weights, layers, comm, dtype, early)
        in_blocks = updated_in_blocks(features * classes, settings)
        self._in_blocks = bool(self.exchange.factored_weights) and in_blocks
        self._gradient_scale = gradient_scale
        self._settings = settings
        self._reset_optimizer = _resetting(self.optimizer)

    @property
    def weights(self) -> list[tf.Variable]:
        return [self.head.kernel, self.head.bias]

    def reset(self, seed: int) -> None:
        """Draws new weights from `seed` and resets the optimizer, except its learning rate."""
        self.head.reset(np.random.default_rng(seed))
        self._reset_optimizer()

    def sum_gradients(self, local, scale=1.0) -> list[tf.Tensor] | Factors:
        """The gradients of the head, summed over the workers that hold it.

        Args:
            local: exchange.Local, of the gradients of this worker's images.
            scale: of the loss, by which gradients are divided.

        Returns:
            Those of the weights, or in place of large ones their factors.
        """
        if self._in_blocks:
            (factors,) = self.exchange.gather(local)
            return factors.scaled(self._gradient_scale / scale)
        gradients, _ = self.exchange.all_sum(local, scale)
        return [self._gradient_scale * g for g in gradients]

    def apply(self, gradients) -> None:
        """Takes one optimizer step with the gradients that `sum_gradients` returned."""
        if isinstance(gradients, Factors):
            self._apply_factors(gradients)
            return
        gradients = decayed(gradients, self.weights, self._settings)
        self.optimizer.apply_gradients(zip(gradients, self.weights, strict=True))

    def _apply_factors(self, factors):
        kernel, bias = self.weights
        decay = decay_of(self._settings, kernel)
        self.optimizer.apply_product(factors.inputs, factors.slopes, kernel, decay)
        of_bias = decayed([factors.bias_gradient()], [bias], self._settings)
        self.optimizer.apply_gradients(zip(of_bias, [bias], strict=True))


def _resetting(optimizer):
    """A function that restores an optimizer's initial state, except its learning rate.

    Weights have their new values then.

    A function, since tf.Module would save a list of variables in every checkpoint.
    """
    fresh = [(variable, _constant(variable)) for variable in _state(optimizer)]

    def reset():
        for variable, value in fresh:
            variable.assign(tf.fill(variable.shape, value))
        for slow, weight in getattr(optimizer, "slow_weights", ()):
            slow.assign(weight)

    return reset


def _state(optimizer) -> list[tf.Variable]:
    """All variables except the learning rate; Nadam has one that `variables` lacks."""
    listed = [*optimizer.variables, *vars(optimizer).values()]
    found = {id(v): v for v in listed if isinstance(v, tf.Variable)}
    del found[id(optimizer.learning_rate)]
    return list(found.values())


def _constant(variable):
    """The value that a new optimizer fills a variable with."""
    least, most = tf.reduce_min(variable), tf.reduce_max(variable)
    if least != most:
        raise ValueError(f"{variable.name} is not initialised with a single value.")
    return least
