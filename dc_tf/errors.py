"""Errors that a user can act on: each message says what was given and what would work."""

# Exit codes of a process to be started again: it was asked to stop and has saved its state; another
# worker failed, died or hangs.
PREEMPTED, HELD_UP = 42, 43


class ConfigError(ValueError):
    """A setting, flag or TF_CONFIG that cannot work; raised before anything is started."""


class ConfigErrorOfAll(ConfigError):
    """A ConfigError that every worker finds by itself, raised on those whose chief prints it."""


class DataError(RuntimeError):
    """Data that cannot be used: missing, incomplete, corrupt or not finite.

    Attributes:
        result: dict that the command prints nevertheless, or None.
    """

    def __init__(self, message, result=None):
        super().__init__(message)
        self.result = result


class RaisedOnAll(Exception):
    """An error that every worker raises at the same point, so that they can leave together.

    `distributed.collective_errors` raises its subclasses.
    """


class ConfigErrorOnAll(RaisedOnAll, ConfigError):
    """A ConfigError of at least one worker, raised on all."""


class DataErrorOnAll(RaisedOnAll, DataError):
    """A DataError of at least one worker, raised on all."""


class Preempted(Exception):
    """The process was asked to stop and has saved; started again, it resumes."""
