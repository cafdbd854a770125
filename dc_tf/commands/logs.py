"""How a command's log lines read on the screen."""

import logging as python_logging

from absl import logging


class ScreenFormatter(logging.PythonFormatter):
    """Warnings and errors as a command's other messages; the rest with time and place, as absl."""

    def format(self, record):
        if record.levelno < python_logging.WARNING:
            return super().format(record)
        who = "dc_tf" if record.name == "absl" else record.name
        text = f"{who}: {record.levelname.lower()}: {record.getMessage()}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text
