"""A zip file of images, read as the folder that it unpacks to, in the order of its names.

Nothing is unpacked to disk, member names are not used as paths, and sizes are bounded before use.
"""

import hashlib
import stat
import zipfile
import zlib
from collections.abc import Iterator

from dc_tf.data.sources.class_folders import ClassFolders, class_of, is_split, no_such_split, shown
from dc_tf.data.sources.image_files import MAX_FILE_BYTES
from dc_tf.data.sources.item import Item, reason_to_skip, short_name
from dc_tf.data.storage.files import open_binary
from dc_tf.errors import DataError

SUFFIX = ".zip"
_ENCRYPTED = 0x1  # flag of a member
_FAULTS = (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, OSError, ValueError)


class ZipSource:
    """The files of a zip file, in the order of their names.

    Memory holds the names and positions of all members, about 1 kB each.
    """

    def __init__(self, path, labels_from_folders=False, split=None):
        """Reads the directory of the zip file.

        Raises:
            ConfigError: the folders are no classes, or there is no such split.
            DataError: it is not a whole zip file.
        """
        self._file = open_binary(path)
        try:
            self._zip = zipfile.ZipFile(self._file)
        except _FAULTS as error:
            raise DataError(
                f"{path} is not a whole zip file: {error}. Copy or download it again."
            ) from error
        members = [info for info in self._zip.infolist() if not info.is_dir()]
        last = {info.filename: info for info in members}
        prefix = f"{split.strip('/')}/" if split else ""
        self._members = sorted(
            (
                (_plain(info.filename)[len(prefix) :], info, last[info.filename] is info)
                for info in members
                if _plain(info.filename).startswith(prefix)
            ),
            key=lambda member: (member[0], member[1].header_offset),
        )
        if not self._members and split:
            raise no_such_split(path, split, {class_of(_plain(name)) for name in last} - {None})
        folders = ClassFolders(path, labels_from_folders, split)
        for name, info, is_last in self._members:
            if is_last and _reason_of(info) is None:
                folders.see(name)
        folders.check()
        names = folders.names(_siblings(last, split))
        self.class_names = shown(names)
        self._labels = {name: number for number, name in enumerate(names or ())}
        self.total = len(self._members)
        self.identity = {"files": self.total, "list": self._digest(), "split": split}

    def items(self, place=None) -> Iterator[Item]:
        for number, (name, info, is_last) in enumerate(self._members, start=1):
            if number > (place or 0):
                reason = _reason_of(info)
                if not is_last:
                    reason = "a later member of the same name is used instead"
                data, reason = (None, reason) if reason else self._read(info)
                label = self._labels.get(class_of(name))
                yield Item(short_name(name), data, number, label, reason=reason)

    def _read(self, info):
        """(content, None) of a member, or (None, reason)."""
        try:
            with self._zip.open(info) as file:
                data = file.read(MAX_FILE_BYTES + 1)
        except _FAULTS as error:
            return None, f"cannot be unpacked: {error or type(error).__name__}; copy the zip again"
        if len(data) > MAX_FILE_BYTES:
            return None, f"a file of more than {MAX_FILE_BYTES} bytes; save it smaller"
        return data, None

    def _digest(self):
        digest = hashlib.sha256()
        for name, info, _ in self._members:
            digest.update(f"{name!r} {info.file_size} {info.CRC}\n".encode())
        return digest.hexdigest()


def is_zip(path) -> bool:
    """Whether a file is a zip file, by its name or its content."""
    if path.lower().endswith(SUFFIX):
        return True
    with open_binary(path) as file:
        return file.peek(4)[:4] == b"PK\3\4"


def _plain(name):
    """The name of a member, relative and with slashes; some programs write others."""
    return name.replace("\\", "/").removeprefix("./").lstrip("/")


def _reason_of(info):
    """Why a member cannot be taken, by its entry, or None."""
    if info.flag_bits & _ENCRYPTED:
        return "encrypted; unpack the zip with its password and convert the folder"
    if info.file_size > MAX_FILE_BYTES:
        return f"a file of {info.file_size} bytes, more than {MAX_FILE_BYTES}; save it smaller"
    mode = info.external_attr >> 16
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        return "not a regular file; remove it, or copy what it stands for"
    return reason_to_skip(info.filename)


def _siblings(names, split):
    """The names of the folders in each other split of the zip."""
    if not split or not is_split(split):
        return []
    folders = {}
    for name in map(_plain, names):
        first, _, rest = name.partition("/")
        if is_split(first) and first != split and class_of(rest):
            folders.setdefault(first, set()).add(class_of(rest))
    return list(folders.values())
