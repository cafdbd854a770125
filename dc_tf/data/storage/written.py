"""Data sets as files for other programs: how a row is described, and how it is read back.

    row = described(example, class_names)       # {"camera": "K1000", "source": ..., "dc_tf": {...}}
    restored(row)                               # Row(label, source, meta), as it was
    Written.beside("/data/tars", TARS).class_names

Names and values of metadata stand beside the source and the class, as other programs like it; what
is needed to tell them apart again stands under `dc_tf`. A file in the folder has the names of the
classes, so that `dc_tf convert` gives back the same rows, labels and metadata.
"""

import dataclasses
import json
import os
import re
import typing

from dc_tf import atomic

RECORD = "dc_tf"
TARS, FOLDER = "webdataset.json", "folder.json"
LIST = "images.jsonl"  # of a folder
_OURS = ("source", "class", "path", "label")
_MADE_BY = "dc_tf"
_UNFIT = re.compile(r"[\x00-\x1f\x7f/\\]+")
_MOST_BYTES = 200  # of a name of a folder


class Row(typing.NamedTuple):
    """What is known of an image.

    Attributes:
        label: int, or None.
        source: str.
        meta: {name: value}.
    """

    label: int | None
    source: str
    meta: dict


def described(example, class_names, **beside) -> dict:
    """A row as a flat JSON-able dict, from which `restored` gives the row.

    Args:
        example: dict of encoded, label, source and meta, see `schema.decode_example`.
        class_names: names of the classes, or None.
        beside: further values, of the names `path` and `label`.
    """
    label, meta = example["label"], example["meta"]
    values = {name: value for name, value in meta.items() if name not in (*_OURS, RECORD)}
    values["source"] = example["source"]
    if label is not None and class_names is not None:
        values["class"] = class_names[label]
    record = {"label": label, "source": example["source"]}
    if own := {name: meta[name] for name in (*_OURS, RECORD) if name in meta}:
        record["meta"] = own
    return {**beside, **values, RECORD: record}


def restored(values: dict) -> Row | None:
    """The row of what `described` made; None of anything else."""
    record = values.get(RECORD)
    if not isinstance(record, dict) or not isinstance(record.get("source"), str):
        return None
    label, own = record.get("label"), record.get("meta", {})
    if not (label is None or (type(label) is int and 0 <= label < 2**31)):
        return None
    if not isinstance(own, dict):
        return None
    meta = {name: value for name, value in values.items() if name not in (*_OURS, RECORD)}
    return Row(label, record["source"], meta | own)


@dataclasses.dataclass(frozen=True)
class Written:
    """What a folder says that a data set was written to.

    Attributes:
        class_names: names of the classes, or None.
        folders: {folder of a class: label}; {} of tars.
    """

    class_names: tuple[str, ...] | None
    folders: dict

    @classmethod
    def beside(cls, folder: str, name: str) -> "Written | None":
        """Of a local folder; None if it has no file `name` of ours.

        Args:
            name: `TARS` or `FOLDER`.
        """
        path = os.path.join(folder, name)
        if not os.path.isfile(path):
            return None
        try:
            about = atomic.read_json(path)
            if about["made_by"] != _MADE_BY:
                return None
            names, folders = about["class_names"], about.get("folders", {})
            is_list = names is None or all(isinstance(name, str) for name in names)
            if not is_list or not all(type(number) is int for number in folders.values()):
                return None
            return cls(names and tuple(names), dict(folders))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None  # of another program


def about(dataset, rows_per_file, **more) -> dict:
    """What is written of a data set beside its files; identifies the job."""
    names = dataset.class_names
    return {
        "made_by": _MADE_BY,
        "data": dataset.fingerprint(),
        "rows": dataset.rows,
        "rows_per_file": rows_per_file,
        "class_names": None if names is None else list(names),
        **more,
    }


def folder_names(class_names) -> dict[str, int]:
    """{name that a folder may have: label}, all different, also where case does not count."""
    found, used = {}, set()
    for label, name in enumerate(class_names):
        plain = _UNFIT.sub("_", name).strip(" .")
        plain = plain.encode()[:_MOST_BYTES].decode("utf-8", "ignore") or "_"
        if plain == "__MACOSX":
            plain = "MACOSX"
        unique, number = plain, 2
        while unique.casefold() in used:
            unique, number = f"{plain}_{number}", number + 1
        used.add(unique.casefold())
        found[unique] = label
    return found


def ending(encoded: bytes) -> str:
    """The ending of an image file, by its first bytes."""
    formats = ((b"\x89PNG", "png"), (b"GIF8", "gif"), (b"BM", "bmp"))
    return next((name for start, name in formats if encoded.startswith(start)), "jpg")


def line(values: dict) -> bytes:
    """A JSON object as UTF-8, without a line break."""
    return json.dumps(values, ensure_ascii=False).encode("utf-8", "replace")
