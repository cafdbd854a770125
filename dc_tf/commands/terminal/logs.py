"""Format of log lines on the screen."""

import logging as python_logging

from absl import logging


class ScreenFormatter(logging.PythonFormatter):
    """Formats warnings and errors like a command's messages, and the rest as absl does."""

    def format(self, record) -> str:
        if record.levelno < python_logging.WARNING:
            return super().format(record)
        who = "dc_tf" if record.name == "absl" else record.name
        text = f"{who}: {record.levelname.lower()}: {record.getMessage()}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text
