"""The metadata in a tar file by the names of their images, wherever in the tar they are.

    with TarIndex(members) as index:
        index.metadata_of("d/0017.jpg")          # [Metadata("d/0017.json", "json", b"{}")]
        index.fault_of(7, "d/0018.json")         # why it is not used, or None

Metadata belong to images with the same stem (`a.seg.json` to `a.seg.png`) or the same key, which is
the name up to its first dot, as in WebDataset (`a.json` to `a.jpg` and `a.seg.png`). The index is a
temporary database: it takes a few MiB of memory, and the rest on disk.
"""

import sqlite3
import typing

from dc_tf.errors import DataError

EXTENSIONS = ("json", "txt", "cls")
_TABLES = """
pragma journal_mode = off;
create table metadata (number integer primary key, name blob, stem blob, extension blob, data blob);
create index metadata_by_stem on metadata (stem);
create index metadata_by_name on metadata (name);
create table images (number integer primary key, name blob, stem blob, key blob);
create index images_by_name on images (name);
create index images_by_stem on images (stem);
create index images_by_key on images (key);
"""


class IndexedMember(typing.NamedTuple):
    """A member to be indexed.

    Attributes:
        number: int, its position in the tar.
        name: str.
        data: bytes if it has metadata, else None.
        linked: name of the earlier member that a hard link stands for, or None.
    """

    number: int
    name: str
    data: bytes | None
    linked: str | None = None


class Metadata(typing.NamedTuple):
    """A member with metadata.

    Attributes:
        name: str.
        extension: one of `EXTENSIONS`.
        data: bytes.
    """

    name: str
    extension: str
    data: bytes


class TarIndex:
    """Index of one tar file; a context manager."""

    def __init__(self, members):
        """Reads all members.

        Args:
            members: iterable of IndexedMember, in order.

        Raises:
            DataError: the temporary folder is full.
        """
        self._database = sqlite3.connect("", check_same_thread=False)  # a temporary file
        try:
            self._database.executescript(_TABLES)
            for member in members:
                self._add(member)
        except sqlite3.OperationalError as error:
            raise DataError(
                f"the index of a tar file cannot be written to the temporary folder ({error}); set "
                f"SQLITE_TMPDIR to a folder with space for all the metadata in the tar."
            ) from error

    def metadata_of(self, image) -> list[Metadata]:
        """The metadata of an image by its name: those of its key, then those of its stem."""
        key, stem, _ = split(image)
        found = self._metadata(key)
        return found if stem == key else found + self._metadata(stem)

    def metadata_beside(self, name) -> list[Metadata]:
        """The metadata with the same stem as a member."""
        return self._metadata(split(name)[1])

    def has_metadata(self, number) -> bool:
        """Whether the member of this number has metadata, by itself or as a hard link."""
        return self._one("select 1 from metadata where number = ?", number) is not None

    def content(self, number) -> bytes:
        """The content of a member with metadata."""
        return self._one("select data from metadata where number = ?", number)[0]

    def fault_of(self, number, name) -> str | None:
        """Why a member with metadata is not used, or None."""
        _, stem, extension = split(name)
        later = self._last("metadata", "stem = ? and extension = ?", stem, extension)
        if later[0] > number:
            return _replaced_by(later)
        owner = self._last("images", "stem = ? or key = ?", stem, stem)
        return None if owner else f"no image in this tar has the name of this .{extension} file"

    def replacement_of(self, number, name) -> str | None:
        """Why an image is not used: a later member has the same name; or None."""
        later = self._last("images", "name = ?", name)
        return _replaced_by(later) if later and later[0] > number else None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._database.close()

    def _add(self, member):
        number, name, data, linked = member
        key, stem, extension = split(name)
        if linked is not None:
            data = self._content_of(linked) if extension in EXTENSIONS else None
            if data is None:
                return
        if extension in EXTENSIONS:
            row = number, _blob(name), _blob(stem), _blob(extension), data
            self._database.execute("insert into metadata values (?, ?, ?, ?, ?)", row)
        else:
            row = number, _blob(name), _blob(stem), _blob(key)
            self._database.execute("insert into images values (?, ?, ?, ?)", row)

    def _content_of(self, name):
        row = self._one("select data from metadata where name = ? order by number desc", name)
        return row and row[0]

    def _metadata(self, stem) -> list[Metadata]:
        rows = self._database.execute(
            "select name, extension, data, max(number) from metadata where stem = ? "
            "group by extension order by max(number)",
            (_blob(stem),),
        )
        return [Metadata(_text(name), _text(kind), data) for name, kind, data, _ in rows]

    def _last(self, table, condition, *texts):
        """(number, name) of the last member in a table that fulfils a condition, or None."""
        query = f"select number, name from {table} where {condition} order by number desc limit 1"
        row = self._one(query, *texts)
        return row and (row[0], _text(row[1]))

    def _one(self, query, *values):
        values = [value if isinstance(value, int) else _blob(value) for value in values]
        return self._database.execute(query, values).fetchone()


def split(name) -> tuple[str, str, str]:
    """(key, stem, extension) of a member: ("a/1", "a/1.seg", "png") for "a/1.seg.png"."""
    folder, slash, file = name.removeprefix("./").rpartition("/")
    key, stem = file.partition(".")[0], file.rpartition(".")[0] or file
    extension = file.rpartition(".")[2].lower() if "." in file else ""
    return folder + slash + key, folder + slash + stem, extension


def _replaced_by(later):
    return f"a later member, {later[1]}, is used instead"


def _blob(text):
    return text.encode("utf-8", "surrogateescape")


def _text(blob):
    return blob.decode("utf-8", "surrogateescape")
