"""The heads of a stage that one worker holds: V, and its share of the W_s or of the prototypes.

heads = Heads(cluster, plan, stage, features=4096)
heads.reset((seed, stage_index), round_index=0)
objective = heads.objective(features, super_ids, sub_ids)
"""

import tensorflow as tf

from dc_tf.nn import losses
from dc_tf.seeds import derive
from dc_tf.training.gradients.factors import Factors
from dc_tf.training.step.classifier import Classifier
from dc_tf.training.step.prototypes import Prototypes


class Heads:
    """V, and W_s for each super-class s that this worker serves, always in this order.

    With prototypes there is no W_s to learn. With C clusterings, W_s is the C heads side by side.

    Attributes:
        super_head: Classifier, V; its classes are pairs of super-class and sub-class with the
            product loss.
        sub_heads: {super-class: Classifier}, the W_s that this worker serves; empty without
            sub-classes, and with prototypes.
        prototypes: Prototypes in place of the W_s, or None.
    """

    def __init__(
        self,
        cluster,
        plan,
        stage,
        features: int,
        factored: frozenset[str] = frozenset(),
        dtype: str = "float32",
    ):
        """Creates the heads; `reset` draws their weights.

        Args:
            cluster: Cluster.
            plan: BatchPlan of the stage.
            stage: experiment.Stage.
            features: input dimension.
            factored: names of `planning.exchange.DenseLayer` that travel as factors, and of
                `own_in_blocks`.
            dtype: of numbers on the wire, as of `Exchange`.
        """
        self._plan = plan
        self._clusterings = stage.clusterings
        self._product = stage.loss == "product"
        topology = plan.topology
        classes = topology.super_classes
        outputs = classes * stage.sub_clusters if self._product else classes
        self.super_head = Classifier(
            stage,
            features,
            outputs,
            cluster.world,
            as_factors="super head" in factored,
            dtype=dtype,
        )
        self.prototypes = None
        if stage.has_prototypes:
            self.prototypes = Prototypes(cluster, plan, stage, features)
        served = ()
        if stage.sub_clusters and not self._product and not self.prototypes:
            served = topology.served(cluster.rank)
        sharers = cluster.group(topology.sharers(cluster.rank)) if served else None
        # W_s is averaged over the images of its own super-class, 1/S of the batch.
        scale = 1.0 if stage.optimizer.literal_head_scale else float(classes)
        as_factors = "sub head" in factored
        self.sub_heads = {
            s: Classifier(stage, features, stage.sub_classes, sharers, scale, as_factors, dtype)
            for s in served
        }

    def __iter__(self):
        """Yields each Classifier, which learns; V first."""
        yield from (self.super_head, *self.sub_heads.values())

    def rows(self, entering: int) -> list[int]:
        """Rows of each head, of `entering` vectors."""
        return [entering, *(entering // len(self.sub_heads) for _ in self.sub_heads)]

    @property
    def shared_weights(self) -> list[tf.Variable]:
        """Trainable weights that all workers hold and that are no classifier's."""
        return self.prototypes.shared_weights if self.prototypes else []

    def reset(self, seed: tuple[int, int], round_index: int) -> None:
        """Draws new weights for V and every W_s and clears their momentum.

        After the first round V keeps its weights if its classes are rotations only.

        Args:
            seed: (seed of the experiment, index of the stage).
            round_index: index of the clustering whose labels come next.
        """
        if round_index == 0 or self._plan.clusters > 1 or self._product:
            self.super_head.reset(derive("super head", *seed, round_index))
        for super_class, head in self.sub_heads.items():
            head.reset(derive("sub head", *seed, round_index, super_class))

    def objective(self, features, super_ids, sub_ids) -> losses.Objective:
        """The loss of each image, and the logits.

        Args:
            features: (b, d) float32, images ordered by the served super-classes.
            super_ids: (b,) int32.
            sub_ids: (b,) int32, or with C clusterings (b, C).
        """
        logits = self.super_head.head(features)
        if self._product:
            return losses.product(logits, self._plan.topology.super_classes, super_ids, sub_ids)
        sub_logits = self._sub_logits(features)
        if self._clusterings > 1:
            classes = sub_logits.shape[1] // self._clusterings
            sub_logits = tf.reshape(sub_logits, [-1, self._clusterings, classes])
        return losses.hierarchical(logits, sub_logits, super_ids, sub_ids)

    def _sub_logits(self, features):
        """(b, C * k): each image through the head of its own super-class, or None without heads."""
        if self.prototypes:
            return self.prototypes.logits(features)
        if not self.sub_heads:
            return None
        parts = tf.split(features, len(self.sub_heads))
        return tf.concat(
            [h.head(x) for h, x in zip(self.sub_heads.values(), parts, strict=True)], 0
        )

    def sum_gradients(self, local, scale=1.0) -> list:
        """Gradients of each head, summed over the workers that hold it.

        Args:
            local: list of exchange.Local, one of each head.
            scale: of the loss, by which gradients are divided.
        """
        return [head.sum_gradients(part, scale) for head, part in zip(self, local, strict=True)]

    def apply(self, gradients) -> None:
        """Takes one optimizer step of each head with the gradients of `sum_gradients`."""
        for head, part in zip(self, gradients, strict=True):
            head.apply(part)

    def squared_norm(self, gradients) -> tf.Tensor:
        """This worker's share of the squared norm of the gradients of all heads."""
        norms = [
            squared_norm(part) / head.exchange.size
            for head, part in zip(self, gradients, strict=True)
        ]
        return tf.add_n(norms)


def squared_norm(gradients) -> tf.Tensor:
    """Sum of the squares of all entries, of a list of gradients or of their Factors."""
    if isinstance(gradients, Factors):
        return gradients.squared_norm()
    return 2.0 * tf.add_n([tf.nn.l2_loss(t) for t in gradients])
