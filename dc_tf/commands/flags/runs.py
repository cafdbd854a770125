"""What every command refuses of a run before it imports TensorFlow.

check_given_run(RUN.value)
"""

from dc_tf.distributed.task import task_from_environment
from dc_tf.run_dir import check_run


def check_given_run(path: str | None, flag="--run") -> None:
    """Refuses a wrong TF_CONFIG, then a folder that is not of a run.

    Args:
        path: of the folder; None where no run is given.
        flag: that names it.

    Raises:
        ConfigError: says which of the two is wrong.
    """
    if path is not None:
        task_from_environment()
        check_run(path, flag)
