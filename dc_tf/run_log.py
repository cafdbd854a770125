"""What a worker logs, in a file of its own as well.

with logged_to("RUN/logs/worker-00000.log"): ...
"""

import contextlib
import logging as python_logging
import os

from absl import logging


@contextlib.contextmanager
def logged_to(path):
    """Inside, all that is logged at INFO or above is appended to `path`.

    The screen keeps to absl's verbosity (-1 warnings, 0 what happens).
    """
    os.makedirs(os.path.dirname(path), exist_ok=True)
    logger, screen = logging.get_absl_logger(), logging.get_absl_handler()
    file = python_logging.FileHandler(path, encoding="utf-8")
    file.setFormatter(python_logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    before = logger.level, screen.level
    screen.setLevel(logging.converter.absl_to_standard(logging.get_verbosity()))
    logger.setLevel(min(logger.level, python_logging.INFO))
    logger.addHandler(file)
    try:
        yield
    except BaseException as error:
        logger.log(python_logging.INFO, "ends with %s: %s", type(error).__name__, error)
        raise
    finally:
        logger.removeHandler(file)
        file.close()
        logger.setLevel(before[0])
        screen.setLevel(before[1])
