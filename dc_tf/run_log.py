"""Also writes a worker's log to a file.

with logged_to("RUN/logs/worker-00000.log"): ...
"""

import contextlib
import logging as python_logging
import os
from collections.abc import Iterator

from absl import logging


@contextlib.contextmanager
def logged_to(path) -> Iterator[None]:
    """Inside, messages of INFO and above are also appended to `path`.

    The screen follows absl's verbosity (-1 warnings, 0 information).
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
