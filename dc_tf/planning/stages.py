"""Checks an experiment against the number of images and workers; needs no TensorFlow.

plans = plan_stages(experiment, dataset.rows, workers=16)   # a BatchPlan for each stage
"""

from dc_tf.data.input.batch_plan import BatchPlan
from dc_tf.distributed.topology import Topology
from dc_tf.errors import ConfigError


def plan_stages(experiment, rows: int, workers: int) -> list[BatchPlan]:
    """The BatchPlan of each stage.

    Raises:
        ConfigError: a stage does not fit the number of workers or the data set.
    """
    plans = []
    for i, stage in enumerate(experiment.stages):
        try:
            topology = Topology(workers, stage.super_classes)
            plan = BatchPlan(
                stage.clusters,
                stage.rotations,
                stage.batch_size,
                topology,
                stage.rotations_together,
            )
        except ConfigError as error:
            raise ConfigError(f"stages[{i}] ({stage.name}): {error}") from error
        _check_parts(stage, plan, f"stages[{i}]")
        _check_xla(experiment.model, topology)
        plans.append(plan)
    _check_rows(experiment.stages, rows, workers)
    return plans


def _check_rows(stages, rows, workers):
    """Refuses fewer images than workers, clusters or distinct images of a batch in any stage."""
    needs = [(workers, "the run needs", "its workers", "the number of workers")]
    for i, stage in enumerate(stages):
        who = f"stages[{i}] ({stage.name}) needs"
        least = stage.clusters * max(1, stage.sub_clusters)
        needs.append((least, who, "its clusters", "clusters or sub_clusters"))
        needs.append((stage.batch_size // stage.rotations, who, "a batch", "batch_size"))
    # The largest need, so that images added to meet it are enough.
    least, who, what, remedy = max(needs, key=lambda need: need[0])
    if rows < least:
        raise ConfigError(
            f"{who} at least {least} images for {what}, the data set has {rows}; use more "
            f"images, or lower {remedy}."
        )


def _check_parts(stage, plan, name):
    if plan.per_served % stage.accumulate:
        raise ConfigError(
            f"{name}.accumulate is {stage.accumulate}, but a worker has {plan.per_served} images "
            "of a super-class in a batch; use a divisor of that."
        )


def _check_xla(model, topology):
    together = {"world": topology.workers, "group": topology.workers_per_super_class, "off": 1}
    workers = together[model.sync_batch_norm]
    if model.xla and workers > 1:
        raise ConfigError(
            f"model.xla is true, but batch norm is over {workers} workers, which XLA cannot "
            "compile; set model.sync_batch_norm to off, or model.xla to false."
        )
