"""Tar files in WebDataset format: an image and its metadata are members with the same stem.

    n01440764/0017.jpg     the image
    n01440764/0017.json    metadata; an integer "label" is the label
    n01440764/0017.cls     the label, a number
    n01440764/0017.txt     a caption, stored as the metadata `txt`

The members of an image may be anywhere in its tar (`tar_index`). Any tar file is accepted: members
that become neither an image nor its metadata are listed with the reason. Nothing is unpacked to
disk, member names are not used as paths, and sizes in headers are bounded before use. Tars
compressed by gzip, bzip2 or xz are read as well. Each tar is read twice, first for its index. Tars
that dc_tf has written (`storage.tar_files`) give back the rows and classes of the data set.
"""

import bz2
import gzip
import lzma
import os
import re
import tarfile
import typing
import zlib
from collections.abc import Iterator

from absl import logging

from dc_tf.data.sources.image_files import MAX_FILE_BYTES
from dc_tf.data.sources.item import Item, reason_to_skip, short_name
from dc_tf.data.sources.tar_index import EXTENSIONS, IndexedMember, TarIndex, split
from dc_tf.data.sources.tar_metadata import described, fault_in
from dc_tf.data.storage.files import open_binary, size_of
from dc_tf.data.storage.written import TARS, Written

_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
_OPENERS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
_MAX_METADATA_BYTES = 1 << 20
_WEBDATASET = re.compile(r"__[^/]*__($|/)")  # as webdataset leaves them out
_MAX_HEADER_BYTES = 1 << 16  # per member; includes long names and extended headers
_FAULTS = (
    *(tarfile.TarError, OSError, EOFError, RecursionError, ValueError),
    *(zlib.error, lzma.LZMAError),
)


class TarSource:
    """The images of tar files, in the order of their members."""

    def __init__(self, paths, encoding=None):
        self._paths = list(paths)
        self._encoding = encoding
        self.total = None
        written = _written_beside(self._paths)
        self.class_names = list(written.class_names) if written and written.class_names else None
        tars = [[os.path.basename(path), size_of(path)] for path in self._paths]
        self.identity = {"tars": tars, "encoding": encoding}
        if self.class_names:
            self.identity["classes"] = self.class_names

    def items(self, place=None) -> Iterator[Item]:
        first, done = place or (0, 0)
        for number in range(first, len(self._paths)):
            with TarIndex(_indexed(self._paths[number])) as index:
                for member in _members(self._paths[number], done):
                    item = self._item(member, index)
                    if item is not None:
                        yield item._replace(place=[number, member.end])
            done = 0

    def _item(self, member, index):
        """The Item of a member, None if it is the metadata of an image."""
        reason = member.reason
        if index.has_metadata(member.end):
            reason = index.fault_of(member.end, member.name)
            reason = reason or fault_in(member.end, member.name, index, self._encoding)
            if reason is None:
                return None
        elif reason is None:
            reason = index.replacement_of(member.end, member.name)
        if reason is not None:
            return Item(short_name(member.name), None, None, reason=reason)
        label, meta, source = described(member.name, index, self._encoding)
        name = member.name if source is None else source
        return Item(short_name(name), member.data, None, label, meta)


def _written_beside(paths) -> Written | None:
    """What the folder of all tars says that dc_tf has written to it."""
    folders = {os.path.dirname(path) for path in paths}
    return Written.beside(folders.pop(), TARS) if len(folders) == 1 else None


class _Member(typing.NamedTuple):
    """One file of a tar, or the reason to skip it.

    Attributes:
        name: str.
        data: bytes; None if there is a reason, or if it was not wanted.
        reason: str or None.
        end: number of members up to and including this one.
        linked: name of the member that a hard link stands for, or None.
    """

    name: str
    data: bytes | None
    reason: str | None
    end: int
    linked: str | None = None


def is_tar(path) -> bool:
    """Whether a file is a tar, by its name or its content."""
    if path.lower().endswith(_SUFFIXES):
        return True
    try:
        with _Uncompressed(path) as file:
            _open_tar(file)
            return True
    except _FAULTS:
        return False


def _indexed(path):
    """Yields the IndexedMembers of a tar, with the content of metadata only."""
    for member in _members(path, 0, with_images=False):
        if member.reason is None or member.linked is not None:
            yield IndexedMember(member.end, member.name, member.data, member.linked)


def _members(path, skip, with_images=True):
    """Yields the files of a tar as _Members, after the first `skip` members of any type."""
    count = 0
    try:
        with _Uncompressed(path) as file:
            for count, info in enumerate(_headers(file), start=1):
                if count > skip and not info.isdir():
                    yield _member(file, info, count, with_images)
    except _FAULTS as error:
        if not with_images:  # The pass that reads the images reports it.
            return
        reason = (
            f"is corrupt after member {count}: {error or type(error).__name__}; copy or download "
            f"the tar again to get what follows"
        )
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


def _member(file, info, count, with_images):
    is_metadata = split(info.name)[2] in EXTENSIONS
    reason = reason_to_skip(info.name) or _reason_of(info, is_metadata)
    if reason is not None:
        linked = info.linkname if info.islnk() else None
        return _Member(info.name, None, reason, count, linked)
    wanted = with_images or is_metadata
    data = file.member(info.offset_data, info.size) if wanted else None
    return _Member(info.name, data, None, count)


def _reason_of(info, is_metadata):
    """Why a member cannot be taken, by its header, or None."""
    limit = _MAX_METADATA_BYTES if is_metadata else MAX_FILE_BYTES
    if _WEBDATASET.match(info.name):
        return "about the tar itself, by its name; webdataset leaves it out as well"
    if info.islnk():
        return f"a hard link to {info.linkname}; pack with `tar --hard-dereference` to convert it"
    if info.issym():
        return f"a symbolic link to {info.linkname}; pack with `tar --dereference` to convert it"
    if info.issparse():
        return "a sparse file; pack without `tar --sparse` to convert it"
    if not info.isreg():
        return "not a regular file; remove it, or copy what it stands for"
    if info.size > limit:
        return f"a file of {info.size} bytes, more than {limit}; save it smaller"
    return None


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
