"""File systems that cannot do what others can."""

import contextlib
import errno
import os
from unittest import mock


class Interrupted(Exception):
    """The process would have been killed here."""


@contextlib.contextmanager
def without_renaming_folders(files=None):
    """Inside, as on a mounted bucket, only files can be renamed; the process ends after `files`."""
    replace, done = os.replace, []

    def replace_file(source, target):
        if os.path.isdir(source):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), source)
        # Those within one folder are ordinary writing: aside, then renamed.
        if files is not None and os.path.dirname(source) != os.path.dirname(target):
            if len(done) == files:
                raise Interrupted
            done.append(source)
        replace(source, target)

    with mock.patch.object(os, "replace", replace_file):
        yield
