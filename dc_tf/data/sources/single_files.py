"""Image files that are named one by one: a path, or the files that match a pattern."""

import hashlib
import os
from collections.abc import Iterator

from dc_tf.data.sources.item import Item, reason_to_skip, short_name


class FilesSource:
    """Files in the order of their paths."""

    def __init__(self, paths):
        self._paths = list(paths)
        self.total = len(self._paths)
        self.class_names = None
        listed = hashlib.sha256(b"\0".join(map(os.fsencode, self._paths)))
        self.identity = {"files": self.total, "list": listed.hexdigest()}

    def items(self, place=None) -> Iterator[Item]:
        done = place or 0
        folder = os.path.commonprefix(self._paths).rpartition("/")[0]
        for number, path in enumerate(self._paths[done:], start=done + 1):
            name = path[len(folder) :].lstrip("/")
            reason = reason_to_skip(name)
            yield Item(short_name(name), None if reason else path, number, reason=reason)
