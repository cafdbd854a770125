"""Image files in a folder and its sub-folders, in the order of their relative paths."""

import hashlib
import os
from collections.abc import Iterator

from dc_tf.data.sources.item import Item, reason_to_skip
from dc_tf.data.storage import files
from dc_tf.data.storage.files import is_local, same_place
from dc_tf.errors import ConfigError
from dc_tf.progress import Progress


class FolderSource:
    """All files below a folder, in the order of their relative paths."""

    def __init__(self, folder, labels_from_folders=False, skip=None, progress=True):
        self._folder = folder
        self._skip = skip
        digest, names, self.total = hashlib.sha256(), set(), 0
        with Progress(None, "list", "files", enabled=progress) as bar:
            for name, reason in walk(folder, skip):
                digest.update(os.fsencode(name) + b"\0")
                if labels_from_folders and reason is None:
                    names.add(_class_of(name))
                self.total += 1
                bar.update(1)
        self.class_names = sorted(names - {None}) or None
        if labels_from_folders and not self.class_names:
            raise ConfigError(
                f"labels_from_folders is set, but {folder} has no sub-folders with files; "
                f"unset it, or put the images of each class into a folder of its own."
            )
        self.identity = {"files": self.total, "list": digest.hexdigest()}

    def items(self, place=None) -> Iterator[Item]:
        labels = {name: number for number, name in enumerate(self.class_names or ())}
        for number, (name, reason) in enumerate(walk(self._folder, self._skip), start=1):
            if number > (place or 0):
                content = None if reason else os.path.join(self._folder, name)
                label = labels.get(_class_of(name))
                yield Item(name, content, number, label, reason=reason)


def walk(folder, skip=None) -> Iterator[tuple[str, str | None]]:
    """Lists the files below a folder in the order of their relative paths.

    Follows links to folders; visits each folder once. Memory holds one folder listing per level.

    Args:
        folder: str.
        skip: str, a folder to leave out.

    Yields:
        (relative path, reason to skip it or None).
    """
    seen = set()
    stack = [("", _enter(folder, "", skip, seen))]
    while stack:
        parent, entries = stack[-1]
        name, fault = next(entries, (None, None))
        if name is None:
            stack.pop()
        elif name.endswith(os.sep):
            path = parent + name
            stack.append((path, _enter(folder, path, skip, seen)))
        else:
            yield parent + name, fault or reason_to_skip(parent + name)


def _enter(root, parent, skip, seen):
    """Yields (name, fault) in the folder `parent` of `root`; names of folders end with a slash.

    The slash sorts a folder to the position of the paths inside it.
    """
    folder = os.path.join(root, parent)
    if skip is not None and same_place(folder, skip):
        return
    if is_local(root):
        real = os.path.realpath(folder)
        if real in seen:  # a link to a visited folder or to a parent
            return
        seen.add(real)
    try:
        names = _local_names(folder) if is_local(root) else _remote_names(folder)
    except OSError as error:
        yield "", f"folder cannot be read: {error.strerror}"
        return
    yield from ((name, None) for name in sorted(names))


def _local_names(folder):
    with os.scandir(folder) as entries:
        return [entry.name + os.sep * os.path.isdir(entry) for entry in entries]


def _remote_names(folder):
    names = files.names_in(folder)
    return [name + "/" * files.is_folder(os.path.join(folder, name)) for name in names]


def _class_of(path):
    first, separator, _ = path.partition(os.sep)
    return first if separator else None
