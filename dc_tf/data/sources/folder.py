"""Where images come from: a folder, a list, tar files or a TensorFlow data set, read the same way.

    source = open_source("photos", labels_from_folders=True)
    source.class_names, source.total
    for item in source.items():
        item.name, item.content, item.label, item.meta

A source gives its items in one fixed order, and from any item's `place` on it gives the rest of
them, so that a conversion can be stopped anywhere. Nothing it holds grows with the number of items.
"""

import hashlib
import os
import typing

from dc_tf.data.storage import files
from dc_tf.data.storage.files import expand, is_local, same_place
from dc_tf.data.storage.metadata import text
from dc_tf.errors import ConfigError
from dc_tf.progress import Progress

_MAX_NAME = 4096  # characters; as long as a path can be


class Item(typing.NamedTuple):
    """One thing that may be an image.

    Attributes:
        name: str that tells a person where it came from, such as a relative path.
        content: str, the path of the file, or bytes, the file itself; None where there is a reason.
        place: value for JSON; `items(place)` goes on behind this item.
        label: int, or None.
        meta: dict of name to value, see `metadata.bounded`.
        reason: str, why it is not even tried, or None.
    """

    name: str
    content: str | bytes | None
    place: object
    label: int | None = None
    meta: typing.Mapping = {}  # never written to
    reason: str | None = None


class Source(typing.Protocol):
    """What every kind of source offers.

    Attributes:
        total: number of items, or None where only reading all would tell.
        class_names: list of str, one for each label, or None.
        identity: dict for JSON, the same as long as `items` gives the same items.
    """

    total: int | None
    class_names: list | None
    identity: dict

    def items(self, place=None):
        """Yields Items in their order; with the `place` of one, those behind it."""


def open_source(input, labels_from_folders=False, skip=None, tfds_data_dir=None, progress=True):
    """Opens a source of any kind.

    Args:
        input: folder; CSV, TSV or JSONL file (`lists`); tar files, as a path or pattern (`tars`);
            or "tfds:NAME" (`tfds_source`).
        labels_from_folders: whether the first-level sub-folder is the class.
        skip: folder that is left out, when it lies inside the input.
        tfds_data_dir: where TensorFlow data sets are kept; None: their own default.
        progress: whether to show progress while listing.

    Raises:
        ConfigError: there is no such input, or it is of no known kind.
        DataError: a list that cannot be read.
    """
    # The kinds import this module for Item.
    from dc_tf.data.sources import lists, tars
    from dc_tf.data.sources import tfds as tfds_source

    is_folder = not input.startswith(tfds_source.PREFIX) and files.is_folder(input)
    if labels_from_folders and not is_folder:
        raise ConfigError(f"labels_from_folders needs a folder as input; {input} is not one.")
    if is_folder:
        return FolderSource(input, labels_from_folders, skip, progress)
    if input.startswith(tfds_source.PREFIX):
        return tfds_source.TfdsSource(input, tfds_data_dir)
    paths = expand(input)
    missing = [path for path in paths if not files.exists(path)]
    if missing or not paths:
        there_is = f"there is no {missing[0]}" if missing else "no file has such a name"
        raise ConfigError(f"The input {input} is not there: {there_is}.")
    if len(paths) == 1 and paths[0].endswith(lists.SUFFIXES):
        return lists.open_list(paths[0], progress)
    if all(tars.is_tar(path) for path in paths):
        return tars.TarSource(paths)
    raise ConfigError(
        f"The input {input} is neither a folder, a list ({', '.join(lists.SUFFIXES)}), tar files "
        f"nor {tfds_source.PREFIX}NAME."
    )


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
                f"labels_from_folders is set, but {folder} has no sub-folders with files; leave it "
                f"out, or put the images of each class into a folder of its own."
            )
        self.identity = {"files": self.total, "list": digest.hexdigest()}

    def items(self, place=None):
        labels = {name: number for number, name in enumerate(self.class_names or ())}
        for number, (name, reason) in enumerate(walk(self._folder, self._skip), start=1):
            if number > (place or 0):
                content = None if reason else os.path.join(self._folder, name)
                label = labels.get(_class_of(name))
                yield Item(name, content, number, label, reason=reason)


def walk(folder, skip=None):
    """Lists the files below a folder in the order of their relative paths.

    Links to folders are followed, each folder once. Holds one folder's entries of each level.

    Args:
        folder: str.
        skip: str, a folder that is left out.

    Yields:
        (relative path, reason not to try it or None).
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

    With its slash, a folder sorts to where the paths inside it belong.
    """
    folder = os.path.join(root, parent)
    if skip is not None and same_place(folder, skip):
        return
    if is_local(root):
        real = os.path.realpath(folder)
        if real in seen:  # a link to a folder that was visited, or to one above itself
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


def reason_to_skip(path):
    """Why a file with such a path is not tried: str, or None."""
    parts = path.split("/")
    if "__MACOSX" in parts:
        return "macOS archive leftovers"
    if any(part.startswith(".") and part not in (".", "..") for part in parts):
        return "hidden file"
    return None


def short_name(name):
    """A name as it is stored with an image."""
    return name if len(name) <= _MAX_NAME else text(name, _MAX_NAME)


def _class_of(path):
    first, separator, _ = path.partition(os.sep)
    return first if separator else None
