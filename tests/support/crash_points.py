"""Kills a forked copy of the test at its n-th touch of the disk, as a crash would.

    for n in itertools.count():
        ended = killed_at(n, work)      # False if it was killed
        ...                             # what is on the disk now?

The copy must not use TensorFlow, whose threads a fork does not have.
"""

import contextlib
import os
import shutil
import signal
from unittest import mock

TOUCHES = (
    (os, "fsync"),
    (os, "replace"),
    (os, "pwrite"),
    (os, "posix_fallocate"),
    (shutil, "rmtree"),
)
# Of whole folders; `shutil.rmtree` is done by these, so each of its steps counts as well.
FOLDER_TOUCHES = ((os, "mkdir"), (os, "unlink"), (os, "rmdir"), (os, "remove"), (os, "open"))


def killed_at(n, work, touches=TOUCHES) -> bool:
    """Whether `work()`, in a fork, ended before its n-th touch; else SIGKILL came just before it.

    What was being written then is written half.
    """
    child = os.fork()
    if not child:
        code = 1
        try:
            with _Countdown(n, touches).installed():
                work()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return False
    assert os.WEXITSTATUS(status) == 0, "the fork failed"
    return True


class _Countdown:
    def __init__(self, left, touches):
        self._left = left
        self._touches = touches

    def installed(self):
        stack = contextlib.ExitStack()
        for module, name in self._touches:
            counted = self._counted(module, name)
            stack.enter_context(mock.patch.object(module, name, counted))
        return stack

    def _counted(self, module, name):
        touch = getattr(module, name)

        def counted(*args, **settings):
            if not self._left:
                if name == "pwrite":
                    descriptor, data, offset = args
                    touch(descriptor, data[: len(data) // 2], offset)
                os.kill(os.getpid(), signal.SIGKILL)
            self._left -= 1
            if name != "fsync":  # slow, and a killed process loses nothing without it
                return touch(*args, **settings)

        return counted
