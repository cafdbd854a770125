"""Checks an experiment before a run starts."""

from dc_tf.clustering.search.backends import make_backend
from dc_tf.errors import ConfigError
from dc_tf.planning.stages import plan_stages
from dc_tf.training.init_from import check_initial
from dc_tf.training.optimizers.by_name import check_optimizer


def check_start(experiment, rows: int, workers: int) -> None:
    """Checks that `pretrain` can run an experiment; starts nothing.

    Raises:
        ConfigError: a stage does not fit the worker count or the data set or needs a
            package that is not installed, or `init_from` cannot initialise it.
        DataError: `init_from` is corrupt.
    """
    plan_stages(experiment, rows, workers)
    check_stages(experiment)
    check_initial(experiment)


def check_stages(experiment) -> None:
    """Checks the backends and optimizers of the stages; raises ConfigError."""
    for i, stage in enumerate(experiment.stages):
        clustering = stage.clustering
        precision = clustering.precision
        make_backend(clustering.backend, 1, 1, "float32" if precision == "auto" else precision)
        try:
            check_optimizer(stage.optimizer)
        except ConfigError as error:
            raise ConfigError(f"stages[{i}].{error}") from error
