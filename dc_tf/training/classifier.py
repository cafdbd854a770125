"""A linear head in training: its weights, its optimizer and the workers that hold it."""

import numpy as np
import tensorflow as tf

from dc_tf.distributed.collectives import all_sum_packed
from dc_tf.nn.heads import LinearHead
from dc_tf.training.optimizers import decayed, make_optimizer


class Classifier(tf.Module):
    """A linear head whose weights are equal on the workers of a group.

    Args:
        stage: experiment.Stage.
        features: input dimension.
        classes: number of logits.
        comm: `Communicator` of the workers that hold this head.
        gradient_scale: multiplies the gradient of the loss over the global batch.

    Attributes:
        head: LinearHead.
        optimizer: keras optimizer of its weights.
        holders: number of workers that hold this head.
    """

    def __init__(self, stage, features, classes, comm, gradient_scale=1.0):
        super().__init__()
        self.head = LinearHead(features, classes, stage.head_initializer)
        self.optimizer = make_optimizer(stage.optimizer)
        self.optimizer.build(self.weights)
        self.holders = comm.size
        self._comm = comm
        self._gradient_scale = gradient_scale
        self._settings = stage.optimizer
        self._reset_optimizer = _resetting(self.optimizer)

    @property
    def weights(self) -> list[tf.Variable]:
        return [self.head.kernel, self.head.bias]

    def reset(self, seed: int) -> None:
        """Draws new weights from `seed` and resets the optimizer, except its learning rate."""
        self.head.reset(np.random.default_rng(seed))
        self._reset_optimizer()

    def sum_gradients(self, gradients) -> list[tf.Tensor]:
        """The scaled gradients, summed over the workers that hold this head."""
        return [self._gradient_scale * g for g in all_sum_packed(gradients, self._comm)]

    def apply(self, gradients) -> None:
        """Takes one optimizer step with the gradients that `sum_gradients` returned."""
        gradients = decayed(gradients, self.weights, self._settings)
        self.optimizer.apply_gradients(zip(gradients, self.weights))


def _resetting(optimizer):
    """A function that restores an optimizer's initial state, except its learning rate.

    A function, since tf.Module would save a list of variables in every checkpoint.
    """
    fresh = [(variable, _constant(variable)) for variable in _state(optimizer)]

    def reset():
        for variable, value in fresh:
            variable.assign(tf.fill(variable.shape, value))

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
