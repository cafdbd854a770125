"""The columns of a list: which are numbers, and what the labels are.

    columns = Columns(untyped=True)
    for values in entries:
        columns.see(values)                       # {"path": "a.jpg", "label": "cat", "iso": "100"}
    columns.class_names()                         # ["cat"]
    columns.typed("iso", "100")                   # 100

Two different labels never become one class: names are compared without the white space around them
and are otherwise kept as they are.
"""

import re

from dc_tf.data.storage.metadata import MAX_NAME, text
from dc_tf.errors import ConfigError

PATH, LABEL = "path", "label"
_MAX_CLASSES = 1_000_000
_INTEGER = re.compile(r"[-+]?(0|[1-9]\d{0,17})")  # 007 is a name
_LABEL_NUMBER = re.compile(_INTEGER.pattern + r"(\.0+)?")  # some tools write 3 as 3.0
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


class Columns:
    """The types of a list's columns, inferred from all of its lines.

    Args:
        untyped: whether the format stores numbers as text, as CSV does.
    """

    def __init__(self, untyped):
        self._untyped = untyped
        self._kinds = {}  # of each column: "int", "float" or "str", the narrowest that fits all
        self._labels = {}  # class name to the label as it was read
        self._named = False

    def see(self, values) -> None:
        if self._untyped:
            for name, value in values.items():
                if value and self._kinds.get(name) != "str":
                    self._kinds[name] = _wider(self._kinds.get(name), value)
        label = values.get(LABEL)
        if not isinstance(label, str | int | float) or _is_missing(label):
            return
        self._named = self._named or not is_number(label)
        self._add_class(str(label).strip())
        if len(self._labels) > _MAX_CLASSES:
            raise ConfigError(
                f"the list has more than {_MAX_CLASSES} values of {LABEL}; use fewer classes."
            )

    def _add_class(self, label):
        name = _class_name(label)
        if self._labels.setdefault(name, label) != label:
            raise ConfigError(
                f"the labels {self._labels[name]!r} and {label!r} would become one class, {name!r}"
                f"; use names of at most {MAX_NAME} characters without control characters."
            )

    def class_names(self) -> list[str] | None:
        return sorted(self._labels) if self._named else None

    def typed(self, name, value) -> object:
        """A value in the type of its column: a number if the whole column is numeric."""
        kind = {"int": int, "float": float}.get(self._kinds.get(name))
        return kind(value) if kind and value else value


def label_of(value, numbers) -> int | None:
    """The label of an image, None without.

    Args:
        value: as read from the list.
        numbers: dict of class name to label; empty if the values are numbers.

    Raises:
        ValueError: the value is not a valid label.
    """
    if value is None or _is_missing(value):
        return None
    if not isinstance(value, str | int | float):
        raise ValueError(f"the {LABEL} is a {type(value).__name__}; expected a number or a name")
    if numbers:
        return numbers[_class_name(value)]
    label = int(float(value))
    if not -1 <= label < 2**31 - 1:
        raise ValueError(f"{LABEL} {value} is out of range; it must be from 0 to {2**31 - 2}")
    return None if label == -1 else label


def _is_missing(label):
    """Whether a label is empty or NaN, as some tools write a missing one."""
    return not str(label).strip() or label != label


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


def is_number(label) -> bool:
    """Whether a label, a str or number, is written as a whole number."""
    if isinstance(label, str):
        return bool(_LABEL_NUMBER.fullmatch(label.strip()))
    if isinstance(label, float):
        return label.is_integer()
    return not isinstance(label, bool)
