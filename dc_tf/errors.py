"""Errors that a user can act on: each message says what was given and what would work."""

# Exit codes of a process that is to be started again: it was asked to stop and has saved; another
# worker holds it up.
PREEMPTED, HELD_UP = 42, 43


class ConfigError(ValueError):
    """A setting, flag or TF_CONFIG that cannot work; raised before anything is started.

    Attributes:
        of_all: whether all workers know that they raise one; see `distributed.refusal`.
    """

    of_all = False


class DataError(RuntimeError):
    """Data that cannot be used: missing, incomplete, corrupt or not finite.

    Attributes:
        of_all: as of `ConfigError`.
        result: dict that a command prints all the same, or None.
    """

    of_all = False

    def __init__(self, message, result=None):
        super().__init__(message)
        self.result = result


class Preempted(Exception):
    """The process was asked to stop and has saved; started again, it goes on."""
