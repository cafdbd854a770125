"""Tar files in WebDataset format: an image and its metadata are members with the same stem.

    n01440764/0017.jpg     the image
    n01440764/0017.json    metadata; an integer "label" is the label
    n01440764/0017.cls     the label, a number
    n01440764/0017.txt     a caption, stored as the metadata `txt`

Members with the same stem must be adjacent. Any tar file is accepted: members that are not images
are listed with the reason. Nothing is unpacked to disk, member names are not used as paths, and
sizes in headers are bounded before use. Tars compressed by gzip, bzip2 or xz are read as well.
"""

import bz2
import gzip
import json
import lzma
import os
import tarfile
import typing
import zlib
from collections.abc import Iterator

from absl import logging

from dc_tf.data.sources.image_files import MAX_FILE_BYTES
from dc_tf.data.sources.item import Item, reason_to_skip, short_name
from dc_tf.data.storage.files import open_binary, size_of
from dc_tf.data.storage.metadata import bounded, text

_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_OPENERS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
_METADATA = ("json", "txt", "cls")
_MAX_METADATA_BYTES = 1 << 20
_MAX_HEADER_BYTES = 1 << 16  # per member; includes long names and extended headers
_MAX_GROUP = 64  # members with the same stem held in memory
_MAX_GROUP_BYTES = 64 << 20
_FAULTS = (
    *(tarfile.TarError, OSError, EOFError, RecursionError, ValueError),
    *(zlib.error, lzma.LZMAError),
)


class TarSource:
    """The images of tar files, in the order of their members."""

    def __init__(self, paths):
        self._paths = list(paths)
        self.total = None
        self.class_names = None
        self.identity = {"tars": [[os.path.basename(p), size_of(p)] for p in self._paths]}

    def items(self, place=None) -> Iterator[Item]:
        first, skip, taken = place or (0, 0, 0)
        for number in range(first, len(self._paths)):
            for group in _groups(self._paths[number], skip):
                yield from _items(group, number)[taken:]
                taken = 0
            skip = 0


class _Member(typing.NamedTuple):
    """One file of a tar, or the reason to skip it.

    Attributes:
        name: str.
        data: bytes, or None if there is a reason.
        reason: str or None.
        end: number of members up to and including this one.
    """

    name: str
    data: bytes | None
    reason: str | None
    end: int


def is_tar(path) -> bool:
    """Whether a file is a tar, by its name or its content."""
    if path.endswith(_SUFFIXES):
        return True
    try:
        with _Uncompressed(path) as file:
            _open_tar(file)
            return True
    except _FAULTS:
        return False


def _groups(path, skip):
    """Yields lists of adjacent members with the same stem, without the first `skip` members."""
    group, key, held = [], None, 0
    for member in _members(path, skip):
        full = len(group) >= _MAX_GROUP or held + len(member.data or b"") > _MAX_GROUP_BYTES
        if group and (full or _split(member.name)[0] != key):
            yield group
            group, held = [], 0
        group.append(member)
        key = _split(member.name)[0]
        held += len(member.data or b"")
    if group:
        yield group


def _items(group, number):
    """The images of a group, as a list of Items."""
    label, meta, images = None, {}, []
    for member in group:
        extension = _split(member.name)[1]
        if member.reason is None and extension in _METADATA:
            try:
                label, meta = _with_metadata(label, meta, extension, member.data)
                continue
            except ValueError as error:
                member = member._replace(data=None, reason=f"no {extension}: {error}")
        images.append(member)
    # (members of the tar to skip, images of the next group to skip) to resume after each image.
    places = [(group[0].end - 1, i) for i in range(1, len(images))] + [(group[-1].end, 0)]
    meta = bounded(meta)
    return [
        Item(short_name(image.name), image.data, [number, *place], label, meta, image.reason)
        for image, place in zip(images, places, strict=False)
    ]


def _with_metadata(label, meta, extension, data):
    content = data.decode("utf-8", "replace")
    if extension == "txt":
        return label, {**meta, "txt": text(content)}
    if extension == "cls":
        return _as_label(int(content)), meta
    try:
        values = json.loads(content)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(values, dict):
        raise ValueError(f"a JSON {type(values).__name__} where an object was expected")
    if isinstance(values.get("label"), int):
        label = _as_label(values.pop("label"))
    return label, {**meta, **values}


def _as_label(label):
    if not -1 <= label < 2**31 - 1:
        raise ValueError(f"label {label} is out of range; it must be from 0 to {2**31 - 2}")
    return None if label == -1 else label


def _split(name):
    """("a/0017", "seg.png") for "a/0017.seg.png": WebDataset splits at the name's first dot."""
    folder, slash, file = name.rpartition("/")
    key, _, extension = file.partition(".")
    return folder + slash + key, extension.lower()


def _members(path, skip):
    """Yields the files of a tar as _Members, after the first `skip` members of any type."""
    count = 0
    try:
        with _Uncompressed(path) as file:
            for count, info in enumerate(_headers(file), start=1):
                if count > skip and not info.isdir():
                    yield _member(file, info, count)
    except _FAULTS as error:
        reason = f"is corrupt after member {count}: {error or type(error).__name__}"
        logging.warning("%s %s", path, reason)
        if count + 1 > skip:
            yield _Member(os.path.basename(path), None, reason, count + 1)


def _headers(file):
    """Yields the TarInfo of each member."""
    tar, last = _open_tar(file), -1
    while (info := tar.next()) is not None:
        if info.offset_data <= last or info.size < 0:
            raise EOFError("a header points backwards")
        last = info.offset_data
        tar.members, tar.pax_headers = [], {}  # tarfile would keep all of them.
        yield info
    if any(file.last_header):  # tarfile takes a corrupt header for the end of the file.
        raise EOFError("a corrupt header")


def _member(file, info, count):
    limit = _MAX_METADATA_BYTES if _split(info.name)[1] in _METADATA else MAX_FILE_BYTES
    reason = reason_to_skip(info.name)
    if reason is None and (not info.isreg() or info.issparse()):
        reason = "not a regular file"
    if reason is None and info.size > limit:
        reason = f"file of {info.size} bytes, more than {limit}"
    if reason is not None:
        return _Member(info.name, None, reason, count)
    return _Member(info.name, file.member(info.offset_data, info.size), None, count)


def _open_tar(file):
    return tarfile.open(fileobj=file, mode="r:")


class _Uncompressed:
    """The decompressed bytes of a tar file. tarfile reads only headers through it.

    Attributes:
        last_header: the last bytes that tarfile read.
    """

    def __init__(self, path):
        self.last_header = b""
        self._raw = open_binary(path)
        start = self._raw.peek(8)
        openers = [opener for magic, opener in _OPENERS.items() if start.startswith(magic)]
        self._file = openers[0](self._raw, "rb") if openers else self._raw
        self.tell, self.seek = self._file.tell, self._file.seek

    def read(self, count) -> bytes:
        # tarfile would read an extended header of any length.
        if count > _MAX_HEADER_BYTES:
            raise ValueError(f"a header of {count} bytes, more than {_MAX_HEADER_BYTES}")
        self.last_header = self._file.read(count)
        return self.last_header

    def member(self, offset, size) -> bytes:
        """The content of a member; raises EOFError if the tar is truncated."""
        self._file.seek(offset)
        data = self._file.read(size)
        if len(data) < size:
            raise EOFError("truncated")
        return data

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()
        self._raw.close()
