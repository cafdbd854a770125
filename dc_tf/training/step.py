"""One optimisation step of a stage, written for one replica.

    learner = Learner(cluster, plan, trunk, stage, seed=0, stage_index=1)
    learner.start_round(0)
    sums = learner.step(batch, step_seed)

The trunk is mirrored by the strategy. The super-class head V is held by every worker, a sub-class
head W_s by the workers that serve super-class s. Gradients are summed over those who hold the
weights. A run on one worker and on sixteen gives the same weights.
"""

import numpy as np
import tensorflow as tf

from dc_tf import keras
from dc_tf.distributed.collectives import all_sum_packed
from dc_tf.nn.heads import LinearHead
from dc_tf.nn.losses import cross_entropy, hierarchical_loss
from dc_tf.nn.vgg16 import dropout_mask
from dc_tf.seeds import derive

# What `step` returns, per worker and summed over its images.
SUMS = ("images", "loss", "super_loss", "sub_loss", "super_hits", "rotation_hits", "sub_hits")


class Learner:
    """The weights of a stage that this worker holds, and the step that changes them.

    Attributes:
        plan: BatchPlan, how the batch is made up.
        trunk: VGG16, mirrored.
        trunk_optimizer: of the trunk; its momentum lasts as long as the stage.
        super_head: Classifier, V.
        sub_heads: {super-class: Classifier}, the W_s that this worker serves; empty without.
    """

    def __init__(self, cluster, plan, trunk, stage, seed=0, stage_index=0, dropout=True):
        """Creates heads and optimizers; call `start_round` before the first step.

        Args:
            cluster: Cluster.
            plan: BatchPlan of the stage.
            trunk: VGG16 with its weights, made in the strategy's scope.
            stage: experiment.Stage.
            seed: of the experiment.
            stage_index: place of the stage in the experiment.
            dropout: whether to drop half of fc6.
        """
        self._cluster = cluster
        self.plan = plan
        self._settings = stage.optimizer
        self._seed = (seed, stage_index)
        self._dropout = dropout
        self.trunk = trunk
        self._fc = trunk.settings["fc"]
        with cluster.strategy.scope():
            self.trunk_optimizer = _optimizer(stage.optimizer)
            self.trunk_optimizer.build(trunk.trainable_variables)
        topology = plan.topology
        sharers = cluster.group(topology.sharers(cluster.rank))
        served = topology.served(cluster.rank) if stage.sub_clusters else ()
        self.super_head = Classifier(stage, self._fc, topology.super_classes, cluster.world)
        self.sub_heads = {
            s: Classifier(stage, self._fc, stage.sub_clusters, sharers) for s in served
        }

    def start_round(self, round_index: int):
        """New labels: draws V and every W_s anew, forgets their momentum, keeps the trunk's.

        V keeps its meaning, and so its weights, where its classes are rotations only.
        """
        if round_index == 0 or self.plan.clusters > 1:
            self.super_head.reset(derive("super head", *self._seed, round_index))
        for super_class, head in self.sub_heads.items():
            head.reset(derive("sub head", *self._seed, round_index, super_class))

    @property
    def saves_heads(self) -> bool:
        """Whether this worker is the one that saves the sub-class heads it holds."""
        return self.plan.topology.position(self._cluster.rank) == 0

    def set_learning_rate(self, rate: float):
        for optimizer in self.optimizers():
            optimizer.learning_rate.assign(rate)

    def optimizers(self) -> list:
        heads = [self.super_head, *self.sub_heads.values()]
        return [self.trunk_optimizer, *(head.optimizer for head in heads)]

    @tf.function
    def step(self, batch, step_seed):
        """Changes the weights by one step of gradient descent on the global batch.

        Args:
            batch: this worker's part, in the order of `Sampler.epoch`: image (b, r, r, 3) float32,
                super_id (b,) int32, sub_id (b,) int32.
            step_seed: int32 scalar of the dropout, equal on all workers.

        Returns:
            (len(SUMS),) float32: sums over this worker's images, in the order of SUMS.
        """
        heads = [self.super_head, *self.sub_heads.values()]
        sums, head_gradients = self._cluster.strategy.run(
            self._replica_step, args=(batch, step_seed)
        )
        for head, gradients in zip(heads, head_gradients):
            head.apply(gradients, self._settings.weight_decay)
        return sums

    def _replica_step(self, batch, step_seed):
        """Forward and backward of one replica; applies the trunk's gradient."""
        heads = [self.super_head, *self.sub_heads.values()]
        weights = [self.trunk.trainable_variables, *(head.weights for head in heads)]
        with tf.GradientTape() as tape:
            per_image, sums = self._forward(batch, step_seed)
            # The mean over the global batch: workers add up their shares.
            loss = tf.reduce_sum(per_image) / self.plan.batch_size
        trunk_gradients, *head_gradients = tape.gradient(loss, weights)
        self._apply_to_trunk(trunk_gradients)
        scales = [1.0] + [self._sub_head_scale()] * len(self.sub_heads)
        summed = [
            head.sum_gradients(gradients, scale)
            for head, gradients, scale in zip(heads, head_gradients, scales)
        ]
        return sums, summed

    def _forward(self, batch, step_seed):
        features = self.trunk(
            batch["image"], training=True, dropout_mask=self._dropout_mask(step_seed)
        )["fc7"]
        features = tf.nn.relu(features)
        super_logits = self.super_head.head(features)
        sub_logits = self._sub_logits(features)
        loss = hierarchical_loss(super_logits, sub_logits, batch["super_id"], batch["sub_id"])
        return loss, self._sums(batch, loss, super_logits, sub_logits)

    def _sub_logits(self, features):
        """(b, k): each image through the head of its own super-class, or None without heads."""
        if not self.sub_heads:
            return None
        parts = tf.split(features, len(self.sub_heads))
        return tf.concat([h.head(x) for h, x in zip(self.sub_heads.values(), parts)], 0)

    def _sub_head_scale(self) -> float:
        """W_s is averaged over the images of its own super-class, 1/S of the batch."""
        if self._settings.literal_head_scale:
            return 1.0
        return float(self.plan.topology.super_classes)

    def _apply_to_trunk(self, gradients):
        variables = self.trunk.trainable_variables
        # By our own exchange, so that it takes its turn among those of batch norm and heads.
        gradients = all_sum_packed(gradients, self._cluster.world)
        self.trunk_optimizer.apply_gradients(
            zip(_decayed(gradients, variables, self._settings.weight_decay), variables),
            skip_gradients_aggregation=True,
        )

    def _dropout_mask(self, step_seed):
        """This worker's rows of a mask that depends on step and super-class, not on W."""
        plan, rank = self.plan, self._cluster.rank
        if not self._dropout:
            return tf.ones([plan.per_worker, self._fc])
        start = plan.topology.position(rank) * plan.per_served
        shape = [plan.per_super_class, self._fc]
        masks = []
        for super_class in plan.topology.served(rank):
            seed = tf.stack([step_seed, derive("dropout", *self._seed, super_class)])
            masks.append(dropout_mask(shape, seed)[start : start + plan.per_served])
        return tf.concat(masks, 0)

    def _sums(self, batch, loss, super_logits, sub_logits):
        super_ids, rotations = batch["super_id"], self.plan.rotations
        guess = tf.argmax(super_logits, -1, tf.int32)
        super_loss = cross_entropy(super_logits, super_ids)
        hits = tf.zeros_like(loss)
        if sub_logits is not None:
            hits = _equal(tf.argmax(sub_logits, -1, tf.int32), batch["sub_id"])
        columns = [
            tf.ones_like(loss),
            loss,
            super_loss,
            loss - super_loss,
            _equal(guess, super_ids),
            _equal(guess % rotations, super_ids % rotations),
            hits,
        ]
        return tf.reduce_sum(tf.stack(columns), 1)


class Classifier(tf.Module):
    """A linear head with its optimizer and the workers that hold it.

    Attributes:
        head: LinearHead.
        optimizer: keras optimizer of its weights.
    """

    def __init__(self, stage, features, classes, comm):
        super().__init__()
        self.head = LinearHead(features, classes, stage.head_initializer)
        self.optimizer = _optimizer(stage.optimizer)
        self.optimizer.build(self.weights)
        self._comm = comm

    @property
    def weights(self) -> list[tf.Variable]:
        return [self.head.kernel, self.head.bias]

    def reset(self, seed: int):
        """New weights from `seed`, no momentum."""
        self.head.reset(np.random.default_rng(seed))
        for variable in self.optimizer.variables:
            if variable.shape.rank:  # slots, not the step count or learning rate
                variable.assign(tf.zeros_like(variable))

    def sum_gradients(self, gradients, scale: float) -> list[tf.Tensor]:
        """The gradients summed over the workers that hold this head, times `scale`."""
        return [scale * g for g in all_sum_packed(gradients, self._comm)]

    def apply(self, gradients, weight_decay: float):
        decayed = _decayed(gradients, self.weights, weight_decay)
        self.optimizer.apply_gradients(zip(decayed, self.weights))


def _optimizer(settings):
    return keras.optimizers.SGD(
        settings.learning_rate, momentum=settings.momentum, nesterov=settings.nesterov
    )


def _decayed(gradients, variables, weight_decay):
    """Coupled weight decay: the gradient of an L2 penalty joins before momentum does."""
    return [g + weight_decay * v for g, v in zip(gradients, variables)]


def _equal(a, b):
    return tf.cast(tf.equal(a, b), tf.float32)
