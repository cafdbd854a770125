"""Image files in a folder and its sub-folders, in the order of their relative paths.

A folder that dc_tf has written has the classes, and their numbers, of the data set that it was.
"""

import hashlib
import os
from collections.abc import Iterator

from dc_tf.data.sources.class_folders import ClassFolders, class_of, is_split, no_such_split, shown
from dc_tf.data.sources.item import Item, reason_to_skip
from dc_tf.data.storage import files
from dc_tf.data.storage.files import is_local, same_place
from dc_tf.data.storage.written import FOLDER, LIST, Written
from dc_tf.progress import Progress


class FolderSource:
    """All files below a folder, in the order of their relative paths."""

    def __init__(self, folder, labels_from_folders=False, skip=None, progress=True, split=None):
        self._folder = os.path.join(folder, split) if split else folder
        if split and not files.is_folder(self._folder):
            raise no_such_split(folder, split, _folders_in(folder))
        self._skip = skip
        self._written = None if split else Written.beside(folder, FOLDER)
        folders = ClassFolders(folder, labels_from_folders, split)
        digest, self.total = hashlib.sha256(), 0
        with Progress(None, "list", "files", enabled=progress) as bar:
            for name, reason in self._walk():
                digest.update(os.fsencode(name) + b"\0")
                if reason is None:
                    folders.see(name)
                self.total += 1
                bar.update(1)
        if self._written and labels_from_folders and self._written.folders:
            names = self._written.class_names
            self.class_names, self._labels = names and list(names), self._written.folders
        else:
            folders.check()
            names = folders.names(_siblings(folder, split))
            self.class_names = shown(names)
            self._labels = {name: number for number, name in enumerate(names or ())}
        self.identity = {"files": self.total, "list": digest.hexdigest(), "split": split}

    def _walk(self):
        """What `walk` lists, without the files that dc_tf has written beside the images."""
        for name, reason in walk(self._folder, self._skip):
            if not self._written or name not in (FOLDER, LIST):
                yield name, reason

    def items(self, place=None) -> Iterator[Item]:
        for number, (name, reason) in enumerate(self._walk(), start=1):
            if number > (place or 0):
                content = None if reason else os.path.join(self._folder, name)
                label = self._labels.get(class_of(name))
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
        if real in seen:
            if not _is_loop(root, parent, real):
                yield (
                    "",
                    "a link to a folder whose files are listed already; copy it to repeat them",
                )
            return
        seen.add(real)
    try:
        names = _local_names(folder) if is_local(root) else _remote_names(folder)
    except OSError as error:
        yield "", f"folder cannot be read: {error.strerror}"
        return
    yield from ((name, None) for name in sorted(names))


def _is_loop(root, path, real):
    """Whether a folder is one of those that its own path leads through."""
    parents = path.rstrip("/").split("/")[:-1]
    above = ["/".join(parents[:depth]) for depth in range(len(parents) + 1)]
    return any(os.path.realpath(os.path.join(root, parent)) == real for parent in above)


def _local_names(folder):
    with os.scandir(folder) as entries:
        return [entry.name + os.sep * os.path.isdir(entry) for entry in entries]


def _remote_names(folder):
    names = files.names_in(folder)
    return [name + "/" * files.is_folder(os.path.join(folder, name)) for name in names]


def _folders_in(folder):
    """Names of the folders in a folder that are not hidden."""
    names = _local_names(folder) if is_local(folder) else _remote_names(folder)
    return [name[:-1] for name in names if name.endswith("/") and not reason_to_skip(name[:-1])]


def _siblings(folder, split):
    """The names of the folders in each other split beside one."""
    if not split or not is_split(split):
        return []
    others = [name for name in _folders_in(folder) if is_split(name) and name != split]
    return [_folders_in(os.path.join(folder, name)) for name in others]
