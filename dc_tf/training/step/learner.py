"""One optimization step of a stage, written for one replica.

    learner = Learner(cluster, plan, trunk, stage, model, seed=0, stage_index=1)
    learner.start_round(0)
    sums = learner.step(batch, step_seed)

The strategy mirrors the trunk, the projection and the rotation maps of prototypes. Every worker
holds the super-class head V; the workers that serve super-class s hold its sub-class head W_s.
Gradients are summed over the holders of a weight, so one worker and sixteen compute the same
weights.
"""

import tensorflow as tf

from dc_tf.distributed.collectives import all_sum_packed
from dc_tf.nn.losses import mixed
from dc_tf.planning.exchange import factored, machine_of, own_in_blocks
from dc_tf.training.gradients.exchange import accumulated, local_gradients, recording
from dc_tf.training.gradients.overlap import Overlap
from dc_tf.training.optimizers.by_name import decayed, make_optimizer
from dc_tf.training.optimizers.loss_scale import LossScale, all_finite
from dc_tf.training.step.contrast import BatchContrast
from dc_tf.training.step.dropout import dropout_masks
from dc_tf.training.step.forward import Forward
from dc_tf.training.step.heads import Heads, squared_norm
from dc_tf.training.step.micro_batches import rejoined, split
from dc_tf.training.step.projection import new_projection
from dc_tf.training.step.shared_exchange import convolutions, dense_layers, exchange_of_shared
from dc_tf.training.step.statistics_comm import statistics_comm
from dc_tf.training.step.step_metrics import IMAGE_NAMES, STEP_NAMES, image_sums, pack


class Learner:
    """The weights of a stage that this worker holds, and the step that changes them.

    Attributes:
        plan: BatchPlan, the composition of the batch.
        trunk: Trunk, mirrored.
        projection: Projection of the stage, mirrored, or None.
        shared_weights: list of the trainable weights that all workers hold, except V: of trunk,
            projection and rotation maps.
        trunk_optimizer: optimizer of the shared weights; its momentum is kept for the whole stage.
        heads: Heads, V and the W_s that this worker serves.
        loss_scale: LossScale where the network computes in float16, else None.
    """

    def __init__(self, cluster, plan, trunk, stage, model, seed=0, stage_index=0, statistics=None):
        """Creates heads and optimizers; call `start_round` before the first step.

        Args:
            cluster: Cluster.
            plan: BatchPlan of the stage.
            trunk: Trunk with weights, created in the strategy's scope.
            stage: experiment.Stage.
            model: experiment.Model.
            seed: of the experiment.
            stage_index: index of the stage in the experiment.
            statistics: `Communicator` of the workers that share batch statistics; None: those of
                `statistics_comm`.
        """
        self._cluster = cluster
        self._stage = stage
        self._seed = (seed, stage_index)
        self._dropout = model.dropout
        self.plan = plan
        self.trunk = trunk
        with cluster.strategy.scope():
            self.projection = new_projection(stage, trunk, seed, stage_index)
        on_gpu = bool(tf.config.list_physical_devices("GPU"))
        names = factored(model, stage, plan.topology, machine_of(model, on_gpu))
        names |= own_in_blocks(model, stage, plan.topology)
        dim = stage.feature_dim(trunk.feature_dim)
        self.heads = Heads(cluster, plan, stage, dim, names, model.exchange_dtype)
        self._forward = Forward(trunk, self.projection, stage.views)
        self._contrast = BatchContrast(cluster, plan, stage) if stage.contrast.weight else None
        self._mirrored = [part for part in (trunk, self.projection) if part]
        self.shared_weights = [w for part in self._mirrored for w in part.trainable_variables]
        self.shared_weights += self.heads.shared_weights
        with cluster.strategy.scope():
            self.trunk_optimizer = make_optimizer(stage.optimizer)
            self.trunk_optimizer.build(self.shared_weights)
        self.loss_scale = LossScale() if model.compute_dtype == "float16" else None
        self._normalized_with = statistics or statistics_comm(model, cluster, plan.topology)
        one_pass = stage.accumulate == 1 and not model.xla
        of_shared = exchange_of_shared(
            self.shared_weights,
            dense_layers(trunk, self.projection),
            convolutions(trunk) if one_pass else (),
            *(names, cluster.world, model.exchange_dtype),
        )
        self._exchanges = [of_shared, *(head.exchange for head in self.heads)]
        # NCCL's own sums of short messages are no rings.
        self._overlap = Overlap(self._normalized_with, enabled=one_pass, direct=not on_gpu)
        for part in self._mirrored:
            part.share_statistics(self._overlap)
        self._compute = self._gradients
        if model.xla:
            self._compute = tf.function(self._gradients, jit_compile=True, autograph=False)

    def start_round(self, round_index: int) -> None:
        """Resets the heads for new labels; the trunk and its momentum stay."""
        self.heads.reset(self._seed, round_index)

    @property
    def saves_heads(self) -> bool:
        """Whether this worker is the one that saves the sub-class heads it holds."""
        return self.plan.topology.position(self._cluster.rank) == 0

    def set_learning_rate(self, rate: float) -> None:
        """Sets the learning rate of trunk and heads."""
        for optimizer in self.optimizers():
            optimizer.learning_rate.assign(rate)

    def optimizers(self) -> list:
        """The optimizers of the trunk and of each head."""
        return [self.trunk_optimizer, *(head.optimizer for head in self.heads)]

    def average_statistics(self) -> None:
        """Replaces the running statistics of batch norm by their mean over all workers.

        They differ only if the workers do not share batch statistics. They are linear in the
        batches, so averaging them more often changes nothing.
        """
        world = self._cluster.world
        if self._normalized_with.size == world.size:
            return
        running = [v for part in self._mirrored for v in part.non_trainable_variables]
        sums = all_sum_packed([tf.convert_to_tensor(variable) for variable in running], world)
        with self._cluster.strategy.scope():
            for variable, total in zip(running, sums, strict=True):
                variable.assign(total / world.size)

    @property
    def keeps_averages(self) -> bool:
        """Whether the optimizer averages the shared weights."""
        return getattr(self.trunk_optimizer, "averages", False)

    def take_averages(self) -> None:
        """Gives the shared weights their averages; running statistics stay those of training."""
        self.trunk_optimizer.take_averages()

    def align_weights(self) -> None:
        """Gives all holders of a weight the value of the lowest rank, where rounding may differ.

        That is where they multiply factors themselves. The optimizer's variables follow.
        """
        local_results = self._cluster.strategy.experimental_local_results
        for exchange, optimizer in zip(self._exchanges, self.optimizers(), strict=True):
            weights = exchange.factored_weights
            shapes = {tuple(weight.shape) for weight in weights}
            slots = [v for v in optimizer.variables if tuple(v.shape) in shapes]
            exchange.align([local_results(variable)[0] for variable in (*weights, *slots)])

    @tf.function(autograph=False)  # branches and loops are already TensorFlow ops
    def step(self, batch, step_seed, stop=0.0) -> tf.Tensor:
        """Takes one step of gradient descent on the global batch.

        Args:
            batch: this worker's part, in the order of `Sampler.epoch`: image (b, r, r, 3) float32,
                super_id (b,) int32, sub_id (b,) int32, or with C clusterings (b, C). Of several
                views: image (b, G, r, r, 3), and with local views local_image (b, L, l, l, 3).
            step_seed: int32 scalar, seeds the dropout; equal on all workers.
            stop: float32 scalar, 1 if this worker asks all workers to stop; the step is taken
                nevertheless, and its result carries the request to all.

        Returns:
            (len(step_metrics.NAMES),) float32, the sums of this worker.
        """
        return self._step(batch, step_seed, stop)[0]

    @tf.function(autograph=False)
    def step_and_features(self, batch, step_seed, stop=0.0) -> tuple[tf.Tensor, tf.Tensor]:
        """Takes the same step, for a bank of features.

        Returns:
            what `step` returns; and (b, d) float32, for each image what `clustered_features` gives,
            but of its augmented views in training mode: of several global views the mean, of
            length 1 where each of them is.
        """
        return self._step(batch, step_seed, stop)

    def _step(self, batch, step_seed, stop):
        sums, gradients, finite, features = self._cluster.strategy.run(
            self._replica_step, args=(batch, step_seed, stop)
        )
        if self.loss_scale is None:
            self._apply(gradients)
        else:
            self.loss_scale.update(finite)
            tf.cond(finite, lambda: self._apply(gradients), lambda: None)
        return sums, features

    def _replica_step(self, batch, step_seed, stop):
        """One replica's sums, gradients of trunk and heads, whether finite, and features.

        Gradients are summed over their holders.
        """
        if self.trunk.dropout_dim:
            batch = {**batch, "dropout_mask": self._dropout_masks(step_seed)}
        scale = 1.0 if self.loss_scale is None else self.loss_scale.value
        sums, (trunk, *heads), features = self._accumulated(batch, scale)
        heads = self.heads.sum_gradients(heads, scale)
        # Summed by our own collective, so that it is ordered with those of batch norm and heads.
        finite = tf.constant(True)
        stop = tf.convert_to_tensor(stop)
        if self.loss_scale is None:
            trunk, (stops,) = self._exchanges[0].all_sum(trunk, scale, [stop])
        else:
            # Only its holders know whether a head's gradient is finite, so that is summed as well.
            bad = 1.0 - tf.cast(all_finite(tf.nest.flatten(heads)), tf.float32)
            trunk, (bad, stops) = self._exchanges[0].all_sum(trunk, scale, [bad, stop])
            finite = tf.logical_and(all_finite(trunk), tf.equal(bad, 0.0))
        share = tf.where(finite, 1.0 / self._cluster.size, 0.0)
        measured = pack(
            STEP_NAMES,
            steps=share,
            trunk_gradient=_where(finite, squared_norm(trunk) / self._cluster.size),
            head_gradient=_where(finite, self.heads.squared_norm(heads)),
            stops=stops / self._cluster.size,
        )
        return tf.concat([sums, measured], 0), [trunk, *heads], finite, features

    def _dropout_masks(self, step_seed):
        """(b, views, dropout_dim) float32."""
        views, dim = self._stage.views.count, self.trunk.dropout_dim
        if not self._dropout:
            return tf.ones([self.plan.per_worker, views, dim])
        rank = self._cluster.rank
        return dropout_masks(step_seed, self._seed, self.plan, rank, views, dim)

    def _accumulated(self, batch, scale):
        """What `_gradients` returns of this worker's batch, by parts."""
        count = self._stage.accumulate
        if count == 1:
            return self._compute(batch, scale)
        parts = {name: split(tensor, count) for name, tensor in batch.items()}

        def compute(i):
            return self._compute({name: tensor[i] for name, tensor in parts.items()}, scale)

        entering = self.plan.per_worker * self._stage.views.count // count
        rows = [entering, *self.heads.rows(entering)]
        *found, features = accumulated(
            compute, count, self._exchanges, rows, tf.zeros([len(IMAGE_NAMES)])
        )
        return *found, rejoined(features, self.plan.per_worker)

    def _gradients(self, batch, scale):
        """(image sums, Local gradients of trunk and heads, features); no weight changes.

        Gradients are scaled; features are those of `step_and_features`.
        """
        with recording(self._exchanges), self._overlap.of_a_pass(self._exchanges):
            with tf.GradientTape() as tape:
                vectors, classified = self._forward(batch)
                labels = self._forward.labels(batch)
                objective = self.heads.objective(classified, *labels)
                contrast = self._contrast and self._contrast(vectors)
                losses = mixed(objective.loss, contrast, self._stage.contrast.weight)
                # The mean over views and global batch, as workers and micro-batches are summed.
                images = self._stage.views.count * self.plan.batch_size
                loss = scale * tf.reduce_sum(losses) / images
            self._overlap.begin_backward()
            local = local_gradients(tape, loss, self._exchanges)
        sums = image_sums(objective, *labels, self.plan.rotations, self._stage, contrast)
        return sums, local, self._forward.of_images(vectors)

    def _apply(self, gradients):
        trunk, *heads = gradients
        variables = self.shared_weights
        self.trunk_optimizer.apply_gradients(
            zip(decayed(trunk, variables, self._stage.optimizer), variables, strict=True),
            skip_gradients_aggregation=True,
        )
        self.heads.apply(heads)


def _where(finite, value):
    return tf.where(finite, value, tf.zeros_like(value))
