"""The interface of image sources.

A source yields its items in a fixed order and can resume after any item, so a conversion can stop
anywhere. Its memory does not grow with the number of items.
"""

import typing
from collections.abc import Iterator

from dc_tf.data.storage.metadata import text

_MAX_NAME = 4096  # characters; as long as a path can be


class Item(typing.NamedTuple):
    """A candidate image.

    Attributes:
        name: str that describes its origin, such as a relative path.
        content: str, path of the file, or bytes, its content; None if there is a reason.
        place: JSON-serializable; `items(place)` resumes after this item.
        label: int, or None.
        meta: dict of name to value, see `metadata.bounded`.
        reason: str, why the item is skipped, or None.
    """

    name: str
    content: str | bytes | None
    place: object
    label: int | None = None
    meta: typing.Mapping = {}  # never modified
    reason: str | None = None


class Source(typing.Protocol):
    """An image source.

    Attributes:
        total: number of items, or None if unknown before reading all.
        class_names: list of str, one for each label, or None.
        identity: JSON-serializable dict that changes when the items do.
    """

    total: int | None
    class_names: list | None
    identity: dict

    def items(self, place=None) -> Iterator[Item]:
        """Yields the Items in order; given the `place` of one, those after it."""


def reason_to_skip(path) -> str | None:
    """Why to skip a file with this path: str, or None."""
    parts = path.split("/")
    if "__MACOSX" in parts:
        return "metadata of macOS, not an image; nothing is lost"
    if any(part.startswith(".") and part not in (".", "..") for part in parts):
        return "a hidden file, since its name starts with a dot; rename it to convert it"
    return None


def short_name(name) -> str:
    """The name of an item as stored with its image, shortened if needed."""
    return name if len(name) <= _MAX_NAME else text(name, _MAX_NAME)
