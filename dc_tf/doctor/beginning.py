"""Checks that need no TensorFlow: versions and TF_CONFIG.

report, task, trouble = begin()
"""

from dc_tf.distributed.task import TaskSpec, task_from_environment
from dc_tf.doctor import versions
from dc_tf.doctor.report import Report
from dc_tf.errors import ConfigError


def begin() -> tuple[Report, TaskSpec, ConfigError | None]:
    """Checks versions and TF_CONFIG.

    Returns:
        The Report of this worker, its TaskSpec, and the error in TF_CONFIG or None.
    """
    task, trouble = _task()
    report = Report(task.rank)
    versions.check(report)
    return report, task, trouble


def _task() -> tuple[TaskSpec, ConfigError | None]:
    try:
        return task_from_environment(), None
    except ConfigError as error:
        return TaskSpec(), error
