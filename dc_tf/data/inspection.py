"""Summarizes a data set: counts, sizes, labels, metadata and a contact sheet.

report = inspect("/data/mine", sample=1000)
print(as_text(report))
contact_sheet(examples(Dataset.open("/data/mine"), 64), "sheet.png")
"""

import collections
import io
import json
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dc_tf import atomic
from dc_tf.data.storage.manifest import Dataset
from dc_tf.data.storage.metadata import text
from dc_tf.data.storage.reader import CorruptRow, RowReader

_TOP = 10  # classes and metadata names shown
_QUANTILES = (0, 0.05, 0.5, 0.95, 1)
_COLUMNS = 8
_TILE, _LINE = 128, 14  # pixels
_CAPTION = 3 * _LINE
_LINE_LENGTH = 21  # characters
_MAX_PIXELS = 100_000_000


def inspect(path, sample=1000) -> dict:
    """Summarizes manifest, indexes and a sample of the rows.

    Args:
        path: folder of the data set.
        sample: number of rows to read, evenly spaced.

    Returns:
        dict for JSON.

    Raises:
        DataError: the data set is incomplete, or an index cannot be read.
    """
    dataset = Dataset.open(path)
    return {
        "data": dataset.path,
        "rows": dataset.rows,
        "shards": len(dataset.used_shards()),
        "bytes": dataset.stored_bytes(),
        "fingerprint": dataset.fingerprint(),
        "made_by": dataset.origin.get("made_by"),
        "view_of": dataset.base.path if dataset.base is not None else None,
        "record_bytes": _record_bytes(dataset),
        "labels": _labels(dataset),
        "sample": _sample(dataset, sample),
    }


def examples(dataset, count) -> Iterator[tuple[int, dict | None]]:
    """Yields (row, decoded example or None if corrupt) of `count` evenly spaced rows."""
    rows = spread_rows(dataset, count)
    return zip(rows.tolist(), examples_of(dataset, rows), strict=True)


def spread_rows(dataset, count) -> np.ndarray:
    """(n,) int64: `count` evenly spaced row ids, or all rows if there are fewer."""
    return np.linspace(0, dataset.rows - 1, min(count, dataset.rows)).astype(np.int64)


def examples_of(dataset, rows) -> Iterator[dict | None]:
    """Yields the decoded example of each row, None if it is corrupt."""
    reader = RowReader(dataset)
    for row in rows.tolist():
        try:
            yield reader.examples([row])[0]
        except CorruptRow:
            yield None


def as_text(report) -> str:
    """The report of `inspect` as a few lines of text."""
    labels, sample, record = report["labels"], report["sample"], report["record_bytes"]
    lines = [
        ("data set", f"{report['data']} (made by {report['made_by'] or 'dc_tf'})"),
        ("rows", f"{report['rows']:,} in {report['shards']:,} shards, {_size(report['bytes'])}"),
        (
            "record",
            f"{_size(record['least'])} to {_size(record['most'])}, mean {_size(record['mean'])}",
        ),
        ("labels", _label_text(labels, report["rows"])),
        ("sample", f"{sample['rows']} rows, {sample['corrupt']} of them corrupt"),
        ("formats", _counts(sample["formats"])),
        ("width", _range(sample["width"])),
        ("height", _range(sample["height"])),
    ]
    if report["view_of"]:
        lines.insert(1, ("view of", report["view_of"]))
    lines += [
        (f"meta/{name}", f"{100 * meta['coverage']:.0f}%, such as {meta['example']!r}")
        for name, meta in sample["meta"].items()
    ]
    return "\n".join(f"{name:<20} {value}" for name, value in lines)


def contact_sheet(examples, names, path) -> None:
    """Writes a PNG with the images in rows of eight, each with its row id, class and file name.

    Args:
        examples: iterable of (row, example or None).
        names: class names, or None.
        path: str.
    """
    tiles = [tile(f"row {row}", example, names) for row, example in examples]
    paste_tiles(tiles, _COLUMNS, path)


def write_sources(examples, path) -> None:
    """Writes the whole name of each image's file, which a sheet has no room for, as JSON lines.

    Args:
        examples: iterable of (row, example or None, if it cannot be read).
        path: str.
    """
    lines = [
        json.dumps({"row": int(row), "source": example["source"] if example else None})
        for row, example in examples
    ]
    atomic.write_text(path, "".join(line + "\n" for line in lines))


def paste_tiles(tiles, columns, path) -> None:
    """Writes one picture of many: a JPEG if `path` ends in .jpg or .jpeg, else a PNG.

    Args:
        tiles, columns: as of `joined_tiles`.
        path: str.
    """
    is_jpeg = path.lower().endswith((".jpg", ".jpeg"))
    joined_tiles(tiles, columns).save(path, "JPEG" if is_jpeg else "PNG")


def joined_tiles(tiles, columns) -> Image.Image:
    """One picture of many.

    Args:
        tiles: list of images of `tile`, line by line; None leaves a place empty.
        columns: tiles in a line.
    """
    rows = -(-len(tiles) // columns)
    size = (columns * _TILE, rows * (_TILE + _CAPTION))
    sheet = Image.new("RGB", size, "white")
    for number, image in enumerate(tiles):
        if image is not None:
            row, column = divmod(number, columns)
            sheet.paste(image, (column * _TILE, row * (_TILE + _CAPTION)))
    return sheet


def _record_bytes(dataset):
    """Statistics of all record sizes, from the indexes, a part at a time."""
    least, most, powers = np.inf, 0, np.zeros(64, np.int64)
    for entries in dataset.entries():
        lengths = np.asarray(entries[:, 1])
        if lengths.size:
            least, most = min(least, int(lengths.min())), max(most, int(lengths.max()))
            exponents = np.ceil(np.log2(np.maximum(lengths, 1))).astype(np.int64)
            powers += np.bincount(exponents, minlength=64)
    up_to = {2**power: int(count) for power, count in enumerate(powers) if count}
    return {
        "least": least,
        "mean": dataset.stored_bytes() / dataset.rows,
        "most": most,
        "up_to": up_to,
    }


def _labels(dataset):
    counts, rows = collections.Counter(), 0
    for entries in dataset.entries():
        values, times = np.unique(entries[:, 2], return_counts=True)
        counts.update(dict(zip(values.tolist(), times.tolist(), strict=True)))
    rows = sum(count for label, count in counts.items() if label >= 0)
    counts.pop(-1, None)
    return {
        "labelled": rows,
        "classes": len(dataset.class_names) if dataset.class_names else len(counts),
        "empty_classes": max(0, len(dataset.class_names or ()) - len(counts)),
        "least": min(counts.values(), default=0),
        "most": max(counts.values(), default=0),
        "top": {
            _name(dataset.class_names, label): count for label, count in counts.most_common(_TOP)
        },
    }


def _sample(dataset, count):
    seen, corrupt, formats, sizes = 0, 0, collections.Counter(), []
    names, shown = collections.Counter(), {}
    for _, example in examples(dataset, count):
        seen += 1
        header = example and _header(example["encoded"])
        if header is None:
            corrupt += 1
            continue
        formats[header[0]] += 1
        sizes.append(header[1])
        for name, value in example["meta"].items():
            names[name] += 1
            shown.setdefault(name, _short(value))
    width, height = np.array(sizes or [(0, 0)]).T
    good = max(1, seen - corrupt)
    return {
        "rows": seen,
        "corrupt": corrupt,
        "formats": dict(formats.most_common()),
        "width": np.quantile(width, _QUANTILES).astype(int).tolist(),
        "height": np.quantile(height, _QUANTILES).astype(int).tolist(),
        "meta": {
            name: {"coverage": times / good, "example": shown[name]}
            for name, times in names.most_common()
        },
    }


def _header(encoded):
    """(format, (width, height)) of an image, or None if it is not an image."""
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            return image.format, image.size
    except Exception:  # Pillow raises any exception on a corrupt header.
        return None


def tile(title, example, names) -> Image.Image:
    """An image above lines of text.

    Args:
        title: row id or other short text; class and file name follow.
        example: dict of `schema.decode_example`, or None if it is corrupt.
        names: class names, or None.
    """
    picture = Image.new("RGB", (_TILE, _TILE + _CAPTION), "white")
    lines = [str(title), _class_caption(names, example), _file_name(example)]
    try:
        with Image.open(io.BytesIO(example["encoded"])) as image:
            if image.width * image.height > _MAX_PIXELS:
                raise ValueError("too large")
            image = image.convert("RGB")
        image.thumbnail((_TILE - 4, _TILE - 4))
        picture.paste(image, ((_TILE - image.width) // 2, (_TILE - image.height) // 2))
    except Exception:  # The tile of an unreadable image says so.
        lines[0] += " corrupt"
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(11)
    for number, line in enumerate(lines):
        draw.text((3, _TILE + number * _LINE), text(line, _LINE_LENGTH), fill="black", font=font)
    return picture


def _class_caption(names, example):
    if example is None or example["label"] is None:
        return "no label"
    label = example["label"]
    return _name(names, label) if names is not None else f"class {label}"


def _file_name(example):
    """The end of an image's file name, which tells images apart better than its start."""
    name = text(example["source"] if example else "", 4096).rpartition("/")[2]
    return name if len(name) <= _LINE_LENGTH else "…" + name[1 - _LINE_LENGTH :]


def _name(names, label):
    return names[label] if names is not None and label < len(names) else str(label)


def _short(value):
    return value if isinstance(value, int | float) else text(str(value), 40)


def _label_text(labels, rows):
    if not labels["labelled"]:
        return "none"
    return (
        f"{labels['labelled']:,} of {rows:,} rows, {labels['classes']} classes of "
        f"{labels['least']} to {labels['most']}; most: {_counts(labels['top'])}"
    )


def _counts(counts):
    return ", ".join(f"{text(str(name), 30)} {count:,}" for name, count in counts.items()) or "-"


def _range(quantiles):
    least, low, median, high, most = quantiles
    return f"{least} to {most}, median {median}, 90% in {low} to {high}"


def _size(count):
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.4g} TB"
