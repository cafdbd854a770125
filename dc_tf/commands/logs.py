"""What a worker and its TensorFlow log, in a file of its own as well."""

import contextlib
import logging as python_logging
import os

from absl import logging

from dc_tf.commands import native_log


class ScreenFormatter(logging.PythonFormatter):
    """Warnings and errors as a command's other messages; the rest with time and place, as absl."""

    def format(self, record):
        if record.levelno < python_logging.WARNING:
            return super().format(record)
        who = "dc_tf" if record.name == "absl" else record.name
        text = f"{who}: {record.levelname.lower()}: {record.getMessage()}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


@contextlib.contextmanager
def logged_to(path, verbosity=logging.WARNING):
    """Inside, all that is logged at INFO or above is appended to `path`; for good, what C++ logs.

    The screen keeps to `verbosity`, absl's (-1 warnings, 0 what happens).
    """
    os.makedirs(os.path.dirname(path), exist_ok=True)
    logger, screen = logging.get_absl_logger(), logging.get_absl_handler()
    file = python_logging.FileHandler(path, encoding="utf-8")
    file.setFormatter(python_logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    native_log.send_to(path)
    before = logger.level, screen.level
    screen.setLevel(logging.converter.absl_to_standard(verbosity))
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
