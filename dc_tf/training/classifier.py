"""A linear head in training: its weights, its optimizer and the workers that hold it."""

import numpy as np
import tensorflow as tf

from dc_tf.distributed.collectives import all_sum_packed
from dc_tf.nn.heads import LinearHead
from dc_tf.training.optimizers import decayed, make_optimizer


class Classifier(tf.Module):
    """What the workers of a group keep equal among them.

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
        self._weight_decay = stage.optimizer.weight_decay
        self._reset_optimizer = _resetting(self.optimizer)

    @property
    def weights(self) -> list[tf.Variable]:
        return [self.head.kernel, self.head.bias]

    def reset(self, seed: int):
        """New weights from `seed`, and an optimizer that has seen nothing; its rate stays."""
        self.head.reset(np.random.default_rng(seed))
        self._reset_optimizer()

    def sum_gradients(self, gradients) -> list[tf.Tensor]:
        """The scaled gradients, summed over the workers that hold this head."""
        return [self._gradient_scale * g for g in all_sum_packed(gradients, self._comm)]

    def apply(self, gradients):
        """One step of the optimizer along what `sum_gradients` returned."""
        gradients = decayed(gradients, self.weights, self._weight_decay)
        self.optimizer.apply_gradients(zip(gradients, self.weights))


def _resetting(optimizer):
    """A function that makes a new optimizer new again, but for its rate.

    A function, since a list of variables would become a part of every checkpoint.
    """
    fresh = [(variable, _constant(variable)) for variable in _state(optimizer)]

    def reset():
        for variable, value in fresh:
            variable.assign(tf.fill(variable.shape, value))

    return reset


def _state(optimizer) -> list[tf.Variable]:
    """All variables but the learning rate; Nadam has one that it does not list."""
    listed = [*optimizer.variables, *vars(optimizer).values()]
    found = {id(v): v for v in listed if isinstance(v, tf.Variable)}
    del found[id(optimizer.learning_rate)]
    return list(found.values())


def _constant(variable):
    """The one number that a new optimizer fills a variable with."""
    least, most = tf.reduce_min(variable), tf.reduce_max(variable)
    if least != most:
        raise ValueError(f"{variable.name} does not begin with equal numbers.")
    return least
