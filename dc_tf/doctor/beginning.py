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
        task = task_from_environment()
        _check_addresses(task.addresses)
        return task, None
    except ConfigError as error:
        return TaskSpec(), error


def _check_addresses(addresses):
    """Refuses addresses that TensorFlow would reject late or never."""
    for address in addresses:
        host, _, port = str(address).rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise ConfigError(f"TF_CONFIG has {address!r}, which is not host:port.")
    twice = sorted(address for address in set(addresses) if addresses.count(address) > 1)
    if twice:
        raise ConfigError(f"TF_CONFIG has {twice[0]} twice; each worker has an address of its own.")
