"""Lists of images with labels and metadata: CSV, TSV, JSONL and plain text.

    path,label,camera                  {"path": "a.jpg", "label": "cat", "camera": "K1000"}
    a.jpg,cat,K1000                    {"path": "b.jpg", "label": "dog", "hashtag": ["sea", "sun"]}
    b.jpg,dog,

    a.jpg 3                            a .txt list: a path per line, and a number if all lines have
    b.jpg 5                            one

Paths are relative to the list's folder, absolute, or URLs. `label` is a non-negative integer (-1 or
empty: none); if any value is not a number, all are class names, numbered in alphabetical order. All
other columns become metadata; a CSV column with only numbers is stored as numbers. The text is
UTF-8, or what its byte-order mark or `encoding` says (see `encodings`). The list of a folder that
dc_tf has written (`storage.image_folder`) gives back the rows of the data set.
"""

import csv
import hashlib
import json
import os
import re
from collections.abc import Iterator

from absl import logging

from dc_tf.data.sources import encodings
from dc_tf.data.sources.columns import LABEL, PATH, Columns, label_of
from dc_tf.data.sources.encodings import undecodable
from dc_tf.data.sources.item import Item, short_name
from dc_tf.data.storage.files import is_local, open_binary
from dc_tf.data.storage.metadata import bounded
from dc_tf.data.storage.written import FOLDER, LIST, Written, restored
from dc_tf.errors import ConfigError, DataError
from dc_tf.progress import Progress

_JSON, _TEXT, _TABLES = (".jsonl", ".ndjson"), (".txt",), (".csv", ".tsv")
SUFFIXES = (*_TABLES, *_JSON, *_TEXT)
_WEB = ("http://", "https://")
_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars", ",": "commas"}
_PATH_AND_NUMBER = re.compile(r"(?P<path>\S.*?)[ \t]+(?P<label>-1|\d{1,9})")


def open_list(path, progress=True, encoding=None) -> "ListSource":
    """Opens a list as a source; reads all of it once.

    Raises:
        ConfigError: there is no column of paths, or two labels would become one class.
        DataError: the list violates its format or its encoding; names the line.
    """
    name = path.lower()
    if name.endswith(_JSON):
        return ListSource(path, json_entries, False, progress, encoding)
    if name.endswith(_TEXT):
        return ListSource(path, text_entries, True, progress, encoding)
    return ListSource(path, csv_entries, True, progress, encoding)


class ListSource:
    """The images that a list names, in its order."""

    def __init__(self, path, entries, untyped, progress=True, encoding=None):
        self._path = path
        self._entries = entries
        self._encoding = encoding
        self._columns = Columns(untyped)
        self.total = 0
        with Progress(None, "list", "images", enabled=progress) as bar:
            for values, fault in entries(path, encoding):
                self.total += 1
                if fault is None:
                    self._columns.see(values)
                bar.update(1)
        self._written = _written_beside(path)
        self.class_names = self._columns.class_names()
        if self._written:
            self.class_names = self._written.class_names and list(self._written.class_names)
        self.identity = {"images": self.total, "list": _digest(path), "encoding": encoding}

    def items(self, place=None) -> Iterator[Item]:
        names = () if self._written else self.class_names or ()
        labels = {name: number for number, name in enumerate(names)}
        entries = self._entries(self._path, self._encoding)
        for number, (values, fault) in enumerate(entries, start=1):
            if number > (place or 0):
                yield self._item(number, values, fault, labels)

    def _item(self, number, values, fault, labels):
        path = values.get(PATH) if values else None
        if fault or not isinstance(path, str) or not path:
            here = f"{os.path.basename(self._path)}:{number}"
            return Item(here, None, number, reason=fault or f"its line has no {PATH}; add one")
        name = short_name(path)
        if path.lower().startswith(_WEB):
            reason = "a web address; download the image and list its path"
            return Item(name, None, number, reason=reason)
        if self._written and (row := restored(values)):
            source, meta = short_name(row.source), bounded(row.meta)
            return Item(source, self._place_of(path), number, row.label, meta)
        try:
            label = label_of(values.get(LABEL), labels)
        except ValueError as error:
            return Item(name, None, number, reason=str(error))
        meta = {
            key: self._columns.typed(key, value)
            for key, value in values.items()
            if key not in (PATH, LABEL)
        }
        return Item(name, self._place_of(path), number, label, bounded(meta))

    def _place_of(self, path):
        """The path of a listed file; its name on disk may have the bytes of the list's encoding."""
        if not is_local(path):
            return path
        place = os.path.join(os.path.dirname(self._path), path)
        if self._encoding and is_local(place) and not os.path.lexists(place):
            as_bytes = os.fsdecode(path.encode(self._encoding, "surrogateescape"))
            other = os.path.join(os.path.dirname(self._path), as_bytes)
            return other if os.path.lexists(other) else place
        return place


def _written_beside(path) -> Written | None:
    """What the folder of a list says that dc_tf has written to it, with this list."""
    if os.path.basename(path) != LIST:
        return None
    return Written.beside(os.path.dirname(path) or ".", FOLDER)


def csv_entries(path, encoding=None) -> Iterator[tuple[dict | None, str | None]]:
    """Yields (dict of column to str, None) or (None, fault), for each line after the header.

    Raises:
        ConfigError: there is no column `path`, or two columns have the same name.
        DataError: the quoting or the encoding is invalid, or a line is too long.
    """
    lines = _Lines(path, encoding)
    head, delimiter = _head(path, lines)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        for fields in reader:
            if len(fields) == len(head):
                values = dict(zip(head, fields, strict=True))
                lines.check(values)
                yield values, None
            elif fields:
                yield None, f"{len(fields)} fields; the header has {len(head)}"
    except csv.Error as error:
        raise DataError(
            f"{path}, line {reader.line_num + 1}: {error}. Fields with a comma, a quote or a line "
            f'break must be quoted, with quotes inside them doubled: "say ""cheese""".'
        ) from error


def json_entries(path, encoding=None) -> Iterator[tuple[dict | None, str | None]]:
    """Yields (dict, None) or (None, fault), for each non-empty line.

    Raises:
        DataError: the encoding is invalid, or a line is too long.
    """
    lines = _Lines(path, encoding)
    for line in lines:
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            lines.check({"": line})
            yield None, f"not JSON: {error}; each line must be a JSON object"
            continue
        if isinstance(values, dict):
            lines.check(values)
            yield values, None
        else:
            yield None, f"a JSON {type(values).__name__} where an object was expected"


def text_entries(path, encoding=None) -> Iterator[tuple[dict | None, str | None]]:
    """Yields ({"path", and "label" if every line ends with a number}, None) for non-empty lines.

    Raises:
        DataError: a line is too long.
    """
    numbered = all(_PATH_AND_NUMBER.fullmatch(line) for line in _texts(path, encoding))
    for line in _texts(path, encoding):
        yield _PATH_AND_NUMBER.fullmatch(line).groupdict() if numbered else {PATH: line}, None


def _texts(path, encoding):
    """Yields the non-empty lines of a file, stripped."""
    return (line for line in map(str.strip, _Lines(path, encoding)) if line)


class _Lines:
    """Iterates over the lines of a file; `check` refuses values that were not decoded."""

    def __init__(self, path, encoding):
        self._path, self._encoding = path, encoding
        self._lines = encodings.lines(path, encoding)
        self._wrong = []  # (number, line) with undecodable bytes since the last check

    def __iter__(self):
        return self

    def __next__(self):
        number, line = next(self._lines)
        if undecodable(line):
            self._wrong.append((number, line))
        return line

    def check(self, values) -> None:
        """Checks the values of the lines read since the last check; a path may be any bytes.

        Raises:
            DataError: a name or a value other than `path` has a byte that is not text.
        """
        wrong, self._wrong = self._wrong, []
        if wrong and undecodable(json.dumps(_without_path(values), ensure_ascii=False)):
            encodings.raise_if_undecodable(self._path, *wrong[0], self._encoding)


def _without_path(values):
    return {name: value for name, value in values.items() if name != PATH}


def _head(path, lines):
    """(names of the columns, separator) of the first line."""
    line = next(lines, "")
    lines.check({"": line})
    separators = "\t" if path.lower().endswith(".tsv") else (",", ";", "\t", "|")
    heads = {separator: _fields(line, separator) for separator in separators}
    separator = next((s for s, head in heads.items() if PATH in head), separators[0])
    if separator != separators[0]:
        text = "%s separates its fields by %s."  # each pass over the list comes here
        logging.log_first_n(logging.WARNING, text, 1, path, _SEPARATORS[separator])
    _check_head(path, heads[separator])
    return heads[separator], separator


def _fields(line, separator):
    try:
        fields = next(csv.reader([line], delimiter=separator, strict=True), [])
    except csv.Error:
        return []
    return [name.strip() for name in fields]


def _check_head(path, head):
    if PATH not in head:
        raise ConfigError(
            f"{path} has no column {PATH!r}; its first line names {', '.join(head) or 'nothing'}. "
            f"Name the column of the files {PATH!r}, and that of the classes {LABEL!r}."
        )
    twice = {name for name in head if head.count(name) > 1}
    if twice:
        raise ConfigError(f"{path} has more than one column {min(twice)!r}; rename one of them.")


def _digest(path):
    digest = hashlib.sha256()
    with open_binary(path) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
