"""Tests that go by the clock run alone, also where several processes run tests."""

import fcntl
import os


class Turns:
    """Of the processes that share a folder, several run tests, or one does alone."""

    def __init__(self, folder):
        self._queue, self._room = (open(os.path.join(folder, n), "w") for n in ("queue", "room"))

    def enter(self, alone):
        # Who waits to be alone holds the queue, so that nobody else enters in the meantime.
        fcntl.flock(self._queue, fcntl.LOCK_EX)
        fcntl.flock(self._room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(self._queue, fcntl.LOCK_UN)

    def leave(self):
        fcntl.flock(self._room, fcntl.LOCK_UN)
