"""A small stage, seeded batches, and steps on this worker's part of them.

results = workers.on_cluster(2, train, Case(rotations=2, steps=3))    # by rank
"""

import dataclasses

import numpy as np
import tensorflow as tf

from dc_tf.data.input.batch_plan import BatchPlan
from dc_tf.distributed.topology import Topology
from dc_tf.experiment import Model, Optimizer, Stage, Views
from dc_tf.nn.trunks import make_trunk
from dc_tf.training.step.learner import Learner

RESOLUTION, FC, SUBS, BATCH = 32, 24, 5, 32
RATE, DECAY = 0.002, 1e-3


@dataclasses.dataclass(frozen=True)
class Case:
    """A small stage and how many steps to take."""

    clusters: int = 1
    rotations: int = 4
    steps: int = 1
    accumulate: int = 1
    loss: str = "hierarchical"
    model: Model = dataclasses.field(default_factory=lambda: Model(dropout=False))
    optimizer: Optimizer = dataclasses.field(
        default_factory=lambda: Optimizer(learning_rate=RATE, weight_decay=DECAY)
    )
    views: Views = dataclasses.field(default_factory=Views)
    batch: int = BATCH
    images: str = "random"  # or see `global_batch`
    noise: float = 0.0  # relative, on the images
    kind: str = "vgg16"
    seed: int = 0
    overflow: bool = False  # of float16 gradients, on the last worker alone

    @property
    def stage(self):
        return Stage(
            clusters=self.clusters,
            rotations=self.rotations,
            sub_clusters=SUBS,
            batch_size=self.batch,
            views=self.views,
            accumulate=self.accumulate,
            loss=self.loss,
            optimizer=self.optimizer,
        )


def train(cluster, case):
    """Takes steps on this worker's part of seeded batches.

    Returns:
        {step count: all weights that this worker holds}, for none, one and all steps, and "sums".
    """
    learner, plan = new_learner(cluster, case)
    world = cluster.world
    if case.overflow and cluster.rank == cluster.size - 1:
        learner.loss_scale.value.assign(2.0**100)
    found = {0: _weights(learner), "sums": []}
    for step in range(case.steps):
        sums = learner.step(own_batch(plan, cluster.rank, step, case), tf.constant(step))
        found["sums"].append(world.all_sum(sums).numpy())
        if step + 1 in (1, case.steps):
            learner.average_statistics()
            found[step + 1] = _weights(learner)
    if learner.loss_scale is not None:
        found["scale"] = float(learner.loss_scale.value)
    return found


def new_learner(cluster, case):
    """(Learner, BatchPlan) of a stage that begins."""
    topology = Topology(cluster.size, case.stage.super_classes)
    plan = BatchPlan(case.clusters, case.rotations, case.batch, topology)
    with cluster.strategy.scope():
        trunk = new_trunk(case.model.compute_dtype, case.kind, case.model.sobel, 3 + case.seed)
    learner = Learner(cluster, plan, trunk, case.stage, case.model, seed=7 + case.seed)
    learner.start_round(0)
    return learner, plan


def own_batch(plan, rank, step, case):
    """A worker's part of `global_batch`, as tensors."""
    batch = {k: v[mine(plan, rank)] for k, v in global_batch(plan, step, case).items()}
    for name in batch.keys() & {"image", "local_image"}:
        batch[name] = batch[name] * np.float32(1 + case.noise)
    return {name: tf.constant(value) for name, value in batch.items()}


def new_trunk(compute_dtype="float32", kind="vgg16", sobel=True, seed=3):
    settings = {"fc": FC} if kind == "vgg16" else {"stem": "small"}
    settings["sobel"] = sobel
    settings |= dict(width=1 / 16, resolution=RESOLUTION, compute_dtype=compute_dtype, seed=seed)
    return make_trunk(kind, **settings).built_at_resolution()


def _weights(learner):
    return {
        "trunk": [v.numpy() for v in learner.trunk.variables],
        "super": [v.numpy() for v in learner.heads.super_head.weights],
        "sub": {s: [v.numpy() for v in h.weights] for s, h in learner.heads.sub_heads.items()},
    }


def global_batch(plan, step, case=Case()):  # noqa: B008
    """The whole batch of one step, sorted by super-class.

    The views of `case` are all random, or "identical"; as "examples" two views of an image are two
    images with its labels.
    """
    random = np.random.default_rng((11 + case.seed, step))
    supers, shape = plan.topology.super_classes, (BATCH, RESOLUTION, RESOLUTION, 3)
    batch = {
        "image": random.random(shape, np.float32),
        "super_id": np.repeat(np.arange(supers, dtype=np.int32), BATCH // supers),
        "sub_id": random.integers(0, SUBS, BATCH, np.int32),
    }
    if case.images == "examples":
        both = np.stack([batch["image"], random.random(shape, np.float32)], 1)
        batch = {name: np.repeat(ids, 2) for name, ids in batch.items() if name != "image"}
        return {"image": both.reshape(-1, *shape[1:]), **batch}
    if case.views.count == 1:
        return batch
    views = [batch["image"]]
    for _ in range(case.views.count - 1):
        views.append(views[0] if case.images == "identical" else random.random(shape, np.float32))
    batch["image"] = np.stack(views[: case.views.global_views], 1)
    if case.views.local_views:
        side = case.views.local_size
        batch["local_image"] = np.stack(views[case.views.global_views :], 1)[:, :, :side, :side]
    return batch


def mine(plan, rank):
    """Places in the global batch of what worker `rank` sees."""
    start = plan.topology.position(rank) * plan.per_served
    return np.concatenate(
        [
            s * plan.per_super_class + start + np.arange(plan.per_served)
            for s in plan.topology.served(rank)
        ]
    )
