"""The label and metadata of an image in a tar, from its .json, .txt and .cls members.

    label, meta, source = described("d/0017.jpg", index)
    fault_in(8, "d/0017.json", index)            # why a member cannot be used as a whole, or None

A .json that dc_tf has written gives back the row as it was. Of several labels that of .cls counts;
one that differs from it is a fault of the .json.
"""

import json

from dc_tf.data.sources import encodings
from dc_tf.data.sources.columns import LABEL, is_number, label_of
from dc_tf.data.sources.tar_index import split
from dc_tf.data.storage.metadata import bounded, text
from dc_tf.data.storage.written import restored

_ORDER = ("json", "txt", "cls")  # later ones take precedence


def described(image, index, encoding=None) -> tuple[int | None, dict, str | None]:
    """The (label or None, metadata, source or None) of an image.

    Members that cannot be read are left out. A source is of what dc_tf has written.

    Args:
        image: name of the member.
        index: TarIndex.
        encoding: of the texts; None: UTF-8.
    """
    label, meta, source = None, {}, None
    for member in _ordered(image, index.metadata_of(image)):
        try:
            own, values, ours = _parsed(member.extension, member.data, encoding)
        except ValueError:  # `fault_in` says so
            continue
        label = label if own is None else own
        source = source if ours is None else ours
        meta |= values
    return label, bounded(meta), source


def fault_in(number, name, index, encoding=None) -> str | None:
    """Why the metadata of a member cannot be used as a whole, or None.

    Args:
        number, name: of the member.
        index, encoding: as of `described`.
    """
    extension = split(name)[2]
    try:
        label = _parsed(extension, index.content(number), encoding)[0]
    except ValueError as error:
        return str(error)
    other = _label_beside(name, index, encoding) if extension == "json" else None
    if None not in (label, other) and label != other:
        return f"its {LABEL} {label} is not the {other} of the .cls file, which is used"
    return None


def _ordered(image, members):
    """The metadata of the key before those of the stem, each in the order of precedence."""
    key = split(image)[0]
    return sorted(members, key=lambda m: (split(m.name)[1] != key, _ORDER.index(m.extension)))


def _label_beside(name, index, encoding):
    """The label of the .cls of the same name, or None."""
    for member in index.metadata_beside(name):
        if member.extension == "cls":
            try:
                return _parsed("cls", member.data, encoding)[0]
            except ValueError:
                return None
    return None


def _parsed(extension, data, encoding):
    """(label, metadata, source) of one member; ValueError says what is wrong with it."""
    content = encodings.decoded(data, encoding)
    if extension == "txt":
        return None, {"txt": text(content)}, None
    if extension == "cls":
        return _class_number(content), {}, None
    try:
        values = json.loads(content)
    except RecursionError as error:
        raise ValueError("JSON that is nested too deeply") from error
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"a JSON {type(values).__name__} where an object was expected")
    if row := restored(values):
        return row.label, row.meta, row.source
    label = values.get(LABEL)
    if isinstance(label, int | float) and is_number(label):
        return label_of(values.pop(LABEL), {}), values, None
    return None, values, None


def _class_number(content):
    if not is_number(content):
        raise ValueError(
            f"it holds {text(content, 40)!r}; a .cls file has the number of the class, from 0 on"
        )
    return label_of(content, {})
