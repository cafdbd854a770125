"""Lists of images with labels and metadata: CSV, TSV and JSONL.

    path,label,camera                  {"path": "a.jpg", "label": "cat", "camera": "K1000"}
    a.jpg,cat,K1000                    {"path": "b.jpg", "label": "dog", "hashtag": ["sea", "sun"]}
    b.jpg,dog,

Paths are relative to the list's folder, absolute, or URLs. `label` is a non-negative integer (-1 or
empty: none); if any value is not a number, all are class names, numbered in alphabetical order. All
other columns become metadata; a CSV column with only numbers is stored as numbers.
"""

import csv
import hashlib
import io
import json
import os
import re
from collections.abc import Iterator

from dc_tf.data.sources.item import Item, short_name
from dc_tf.data.storage.files import is_local, open_binary
from dc_tf.data.storage.metadata import MAX_NAME, bounded, text
from dc_tf.errors import ConfigError, DataError
from dc_tf.progress import Progress

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson")
PATH, LABEL = "path", "label"
_MAX_LINE = 16 << 20  # characters
_MAX_CLASSES = 1_000_000
_INTEGER = re.compile(r"[-+]?(0|[1-9]\d{0,17})")  # 007 is a name
_LABEL_NUMBER = re.compile(_INTEGER.pattern + r"(\.0+)?")  # some tools write 3 as 3.0
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


def open_list(path, progress=True) -> "ListSource":
    """Opens a list as a source; reads all of it once.

    Raises:
        ConfigError: there is no column of paths.
        DataError: the list violates its format; names the line.
    """
    if path.endswith((".jsonl", ".ndjson")):
        return ListSource(path, json_entries, False, progress)
    return ListSource(path, csv_entries, True, progress)


class ListSource:
    """The images that a list names, in its order."""

    def __init__(self, path, entries, untyped, progress=True):
        self._path = path
        self._entries = entries
        self._columns = _Columns(untyped)
        self.total = 0
        with Progress(None, "list", "images", enabled=progress) as bar:
            for values, fault in entries(path):
                self.total += 1
                if fault is None:
                    self._columns.see(values)
                bar.update(1)
        self.class_names = self._columns.class_names()
        self.identity = {"images": self.total, "list": _digest(path)}

    def items(self, place=None) -> Iterator[Item]:
        folder = os.path.dirname(self._path)
        labels = {name: number for number, name in enumerate(self.class_names or ())}
        for number, (values, fault) in enumerate(self._entries(self._path), start=1):
            if number > (place or 0):
                yield self._item(number, values, fault, folder, labels)

    def _item(self, number, values, fault, folder, labels):
        path = values.get(PATH) if values else None
        if fault or not isinstance(path, str) or not path:
            here = f"{os.path.basename(self._path)}:{number}"
            return Item(here, None, number, reason=fault or f"no {PATH}")
        name = short_name(path)
        try:
            label = _label(values.get(LABEL), labels)
        except ValueError as error:
            return Item(name, None, number, reason=str(error))
        meta = {
            key: self._columns.typed(key, value)
            for key, value in values.items()
            if key not in (PATH, LABEL)
        }
        content = os.path.join(folder, path) if is_local(path) else path
        return Item(name, content, number, label, bounded(meta))


def csv_entries(path) -> Iterator[tuple[dict | None, str | None]]:
    """Yields (dict of column to str, None) or (None, fault), for each line after the header.

    Raises:
        ConfigError: there is no column `path`, or two columns have the same name.
        DataError: the quoting is invalid, or a line is too long.
    """
    delimiter = "\t" if path.endswith(".tsv") else ","
    reader = csv.reader(_lines(path), delimiter=delimiter, strict=True)
    try:
        head = [name.strip() for name in next(reader, [])]
        _check_head(path, head)
        for fields in reader:
            if len(fields) == len(head):
                yield dict(zip(head, fields, strict=True)), None
            elif fields:
                yield None, f"{len(fields)} fields; the header has {len(head)}"
    except csv.Error as error:
        raise DataError(
            f"{path}, line {reader.line_num}: {error}. Fields with a comma, a quote or a line "
            f'break must be quoted, with quotes inside them doubled: "say ""cheese""".'
        ) from error


def json_entries(path) -> Iterator[tuple[dict | None, str | None]]:
    """Yields (dict, None) or (None, fault), for each non-empty line."""
    for line in _lines(path):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield None, f"not JSON: {error}"
            continue
        if isinstance(values, dict):
            yield values, None
        else:
            yield None, f"a JSON {type(values).__name__} where an object was expected"


class _Columns:
    """The types of a list's columns, inferred from all of its lines.

    Args:
        untyped: whether the format stores numbers as text, as CSV does.
    """

    def __init__(self, untyped):
        self._untyped = untyped
        self._kinds = {}  # of each column: "int", "float" or "str", the narrowest that fits all
        self._labels = set()
        self._named = False

    def see(self, values) -> None:
        if self._untyped:
            for name, value in values.items():
                if value and self._kinds.get(name) != "str":
                    self._kinds[name] = _wider(self._kinds.get(name), value)
        label = values.get(LABEL)
        if not isinstance(label, str | int | float) or label == "":
            return
        self._named = self._named or not _is_number(label)
        self._labels.add(_class_name(label))
        if len(self._labels) > _MAX_CLASSES:
            raise ConfigError(
                f"the list has more than {_MAX_CLASSES} values of {LABEL}; use fewer classes."
            )

    def class_names(self) -> list[str] | None:
        return sorted(self._labels) if self._named else None

    def typed(self, name, value) -> object:
        """A value in the type of its column: a number if the whole column is numeric."""
        kind = {"int": int, "float": float}.get(self._kinds.get(name))
        return kind(value) if kind and value else value


def _label(value, numbers):
    """The label of an image: int or None.

    Args:
        value: as read from the list.
        numbers: dict of class name to label; empty if the values are numbers.

    Raises:
        ValueError: the value is not a valid label.
    """
    if value is None or value == "":
        return None
    if not isinstance(value, str | int | float):
        raise ValueError(f"the {LABEL} is a {type(value).__name__}; expected a number or a name")
    if numbers:
        return numbers[_class_name(value)]
    label = int(float(value))
    if not -1 <= label < 2**31 - 1:
        raise ValueError(f"{LABEL} {value} is out of range; it must be from 0 to {2**31 - 2}")
    return None if label == -1 else label


def _class_name(label):
    return text(str(label), MAX_NAME)


def _wider(kind, value):
    value = value.strip()
    if kind in (None, "int") and _INTEGER.fullmatch(value):
        return "int"
    return "float" if _NUMBER.fullmatch(value) and not _is_code(value) else "str"


def _is_code(value):
    """Whether digits are an identifier rather than a number: 007, or more than 18 digits."""
    digits = value.lstrip("+-")
    return digits.isdigit() and not _INTEGER.fullmatch(value)


def _is_number(label):
    if isinstance(label, str):
        return bool(_LABEL_NUMBER.fullmatch(label.strip()))
    if isinstance(label, float):
        return label.is_integer()
    return not isinstance(label, bool)


def _check_head(path, head):
    if PATH not in head:
        raise ConfigError(
            f"{path} has no column {PATH!r}; its first line names {', '.join(head) or 'nothing'}."
        )
    twice = {name for name in head if head.count(name) > 1}
    if twice:
        raise ConfigError(f"{path} has more than one column {min(twice)!r}.")


def _lines(path):
    with open_binary(path) as binary:
        # utf-8-sig: spreadsheets write a byte-order mark. File names need not be valid UTF-8.
        file = io.TextIOWrapper(binary, "utf-8-sig", "surrogateescape", newline="")
        number = 0
        while line := file.readline(_MAX_LINE):
            number += 1
            if len(line) == _MAX_LINE:
                raise DataError(f"{path}, line {number} is longer than {_MAX_LINE} characters.")
            yield line


def _digest(path):
    digest = hashlib.sha256()
    with open_binary(path) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
