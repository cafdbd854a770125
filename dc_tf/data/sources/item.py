"""What every source of images gives.

A source yields its items in one fixed order, and resumes behind any item's `place`, so a conversion
can stop anywhere. Its memory does not grow with the number of items.
"""

import typing

from dc_tf.data.storage.metadata import text

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
