"""Sanitizes image metadata for storage and display: bounds its number and length.

    bounded({"hashtag": ["sea", "dog"], "exif": {"year": 1984}, "note": "a\\0b"})
    # {"hashtag": ["sea", "dog"], "exif.year": 1984, "note": "a b"}

Metadata comes from untrusted files. Text is stripped of control characters and cut to `MAX_TEXT`;
values that cannot be stored are left out silently.
"""

import math
import re

MAX_TEXT = 1000  # characters
MAX_NAME = 100  # characters
MAX_ITEMS = 100  # names per image, and values per name
_MAX_DEPTH = 4
# Control characters, line separators, bidirectional marks and lone surrogates.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]+")


def bounded(values) -> dict:
    """Flattens a dict and keeps the values that can be stored.

    Args:
        values: dict of name to str, bytes, bool, number, None, NumPy value, a list of them, or a
            nested dict, whose names are appended after a dot.

    Returns:
        dict of name to str, int, finite float, or a non-empty list of one of these.
    """
    kept = {}
    for name, value in _flat(values, _MAX_DEPTH):
        value = _value(value)
        if value is not None and name:
            kept[name] = value
        if len(kept) == MAX_ITEMS:
            break
    return kept


def text(value, limit=MAX_TEXT) -> str:
    """A str without control characters, of at most `limit` characters."""
    if isinstance(value, bytes):
        value = value[: 4 * limit].decode("utf-8", "replace")
    return _CONTROLS.sub(" ", value[: 2 * limit])[:limit].strip()


def _flat(values, depth):
    for name, value in values.items():
        name = text(str(name), MAX_NAME)
        if isinstance(value, dict):
            if depth > 1:
                for inner, item in _flat(value, depth - 1):
                    yield text(f"{name}.{inner}", MAX_NAME), item
        else:
            yield name, value


def _value(value):
    if hasattr(value, "tolist"):
        value = value.tolist() if value.size <= MAX_ITEMS else None
    if not isinstance(value, list | tuple):
        return _scalar(value)
    values = [_scalar(item) for item in value[:MAX_ITEMS]]
    values = [item for item in values if item is not None]
    if any(isinstance(item, str) for item in values):
        return [str(item) for item in values]
    if any(isinstance(item, float) for item in values):
        return [float(item) for item in values]
    return values or None


def _scalar(value):
    if isinstance(value, str | bytes):
        return text(value) or None
    if isinstance(value, bool | int):
        return int(value) if -(2**63) <= value < 2**63 else None
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return None
