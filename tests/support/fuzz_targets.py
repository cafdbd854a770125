"""What reads strangers' bytes, and what it may do with them: succeed, or say what is wrong.

for name, target in targets(folder).items():
    target(mutate(target.seed, edits))

A target returns whether the bytes were accepted. Anything that it raises is a finding.
"""

import io
import json
import os
import signal
import struct
import tarfile
import zipfile

import numpy as np
import pictures
import tensorflow as tf
from hypothesis import strategies as st
from PIL import Image

from dc_tf.data.sources.image_files import Rules, clean
from dc_tf.data.sources.open import open_source
from dc_tf.data.storage import schema, tfrecord
from dc_tf.data.storage.manifest import MANIFEST, Dataset
from dc_tf.data.storage.reader import RowReader
from dc_tf.data.storage.tfrecord import masked_crc
from dc_tf.data.storage.verify import check_shard
from dc_tf.data.storage.writer import DatasetWriter
from dc_tf.errors import ConfigError, DataError

MAX_S = 30
MAX_PIXELS = 1_000_000
_REFUSED = (DataError, ConfigError)
_FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "ICO", "PPM", "TGA")
_NUMBERS = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1)


class Hang(BaseException):
    """A target took longer than MAX_S; no handler of errors may take it for one."""


def edits():
    """A few changes of a file: (kind, place in [0, 1), number, bytes)."""
    return st.lists(
        st.tuples(
            st.sampled_from(("flip", "number", "insert", "delete", "repeat", "cut")),
            st.floats(0, 1, exclude_max=True),
            st.integers(0, 255),
            st.binary(max_size=12),
        ),
        max_size=6,
    )


def mutate(data, changes):
    """`data` after the changes, in order."""
    data = bytearray(data)
    for kind, place, number, extra in changes:
        at = int(place * len(data))
        if kind == "flip" and data:
            data[at] ^= number or 1
        elif kind == "number":
            width = (1, 2, 4, 8)[number % 4]
            value = _NUMBERS[number % len(_NUMBERS)] % (1 << 8 * width)
            data[at : at + width] = value.to_bytes(width, ("little", "big")[number // 128])
        elif kind == "insert":
            data[at:at] = extra
        elif kind == "delete":
            del data[at : at + number]
        elif kind == "repeat":
            data[at:at] = data[at : at + number] * 3
        elif kind == "cut":
            del data[at:]
    return bytes(data)


class Target:
    """A reader with intact examples of what it reads.

    Attributes:
        seeds: list of bytes.
    """

    def __init__(self, seeds, read):
        self.seeds = seeds
        self._read = read

    def __call__(self, data):
        """Whether the data were accepted; raises what no reader may raise."""
        signal.signal(signal.SIGALRM, _hang)
        signal.setitimer(signal.ITIMER_REAL, MAX_S)
        try:
            return self._read(data)
        except _REFUSED as error:
            assert str(error), "an error without a message"
            return False
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)


def targets(folder):
    """{name: Target} on files in a folder."""
    data = os.path.join(folder, "data")
    with DatasetWriter(data, rows_per_shard=4, class_names=["a", "b"]) as writer:
        for row in range(6):
            writer.write(pictures.encoded(row), label=row % 2, source=f"{row}", meta={"n": row})
    dataset = Dataset.open(data)
    record = RowReader(dataset).read([0])[0]
    return {
        "image": Target(_images(), _read_image),
        "manifest": Target([_bytes(os.path.join(data, MANIFEST))], _Replaced(data, MANIFEST)),
        "index": Target([_bytes(dataset.index_path(0))], _Replaced(data, dataset.index_path(0))),
        "shard": Target([_bytes(dataset.shard_path(0))], _Replaced(data, dataset.shard_path(0))),
        "record": Target([record, _foreign_record()], _read_record),
        "framed record": Target([record], _ReadFramed(folder)),
        "tar": Target(_tars(), _ReadSource(folder, "a.tar")),
        "zip": Target(_zips(), _ReadSource(folder, "a.zip")),
        "csv": Target([b"path,label,n\na.jpg,cat,1\n"], _ReadSource(folder, "a.csv")),
        "jsonl": Target([b'{"path": "a.jpg", "label": "cat"}\n'], _ReadSource(folder, "a.jsonl")),
        "text": Target([b"a.jpg 1\nb.jpg 2\n"], _ReadSource(folder, "a.txt")),
    }


def json_values():
    """Any JSON, and numbers and names that a manifest could have in the wrong place."""
    leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    leaves |= st.sampled_from([0, -1, 1, 2**63, 2**70, "../../x", "/etc/passwd", "\0", "a://b"])
    return st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
        ),
        max_leaves=6,
    )


def replaced(manifest, path, value):
    """JSON of a manifest with another value in one place, chosen by numbers."""
    root = [json.loads(manifest)]
    at, key = root, 0
    for number in path:
        inner = at[key]
        if not isinstance(inner, (dict, list)) or not inner:
            break
        keys = sorted(inner) if isinstance(inner, dict) else range(len(inner))
        at, key = inner, keys[number % len(keys)]
    at[key] = value
    return json.dumps(root[0]).encode()


def _hang(*_):
    raise Hang(f"more than {MAX_S} s")


def _bytes(path):
    with open(path, "rb") as file:
        return file.read()


def _read_image(data):
    """What `convert` keeps, training decodes: TensorFlow has to see the same picture's size."""
    cleaned = clean(data, Rules(max_pixels=MAX_PIXELS, max_short_side=64, digest=True))
    assert (cleaned.encoded is None) == bool(cleaned.reason), cleaned
    if cleaned.encoded is None:
        return False
    height, width, depth = tf.io.decode_image(cleaned.encoded, expand_animations=False).shape
    assert depth == 3 and height * width <= MAX_PIXELS and min(height, width) <= 64
    return True


class _Replaced:
    """Reads a data set in which one file has other bytes."""

    def __init__(self, folder, name):
        self._folder = folder
        self._path = os.path.join(folder, name)

    def __call__(self, data):
        kept = _bytes(self._path)
        try:
            _write(self._path, data)
            dataset = Dataset.open(self._folder)
            dataset.fingerprint()
            dataset.labels()
            for number in range(len(dataset.shards)):
                check_shard(dataset, number)
            RowReader(dataset).examples(range(min(dataset.rows, 4)))
        finally:
            _write(self._path, kept)
        return True


def _read_record(data):
    for features in (schema.OURS, schema.Features("img", "class", "", meta="", label_offset=-1)):
        try:
            schema.decode_example(data, features)
            return True
        except ValueError as error:
            assert str(error)
    return False


class _ReadFramed:
    """Scans a shard whose checksums are right, whatever its record is."""

    def __init__(self, folder):
        self._path = os.path.join(folder, "framed.tfrecord")

    def __call__(self, data):
        head = struct.pack("<Q", len(data))
        frame = head + struct.pack("<I", masked_crc(head)) + data
        _write(self._path, frame + struct.pack("<I", masked_crc(data)))
        ((_, payload, fault),) = tfrecord.scan(self._path)
        assert (payload, fault) == (data, None)
        return _read_record(data)


class _ReadSource:
    """Lists a file with images; nothing may be written beside it."""

    def __init__(self, folder, name):
        self._folder = os.path.join(folder, f"source {name}")
        self._name = name
        os.makedirs(self._folder, exist_ok=True)

    def __call__(self, data):
        path = os.path.join(self._folder, self._name)
        _write(path, data)
        items = list(open_source(path, progress=False).items())
        assert os.listdir(self._folder) == [self._name]
        for item in items:
            assert (item.content is None) == bool(item.reason), item
            assert item.content is None or isinstance(item.content, bytes | str)
            json.dumps([item.place, dict(item.meta)], allow_nan=False)
        return bool(items) and not any(item.reason for item in items)


def _write(path, data):
    with open(path, "wb") as file:
        file.write(data)


def _images():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8)
    found = []
    for form in _FORMATS:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, form)
        found.append(file.getvalue())
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(file, "JPEG", exif=exif, progressive=True)
    others = [Image.fromarray(pixels).convert(mode) for mode in ("P", "LA", "1")]
    others.append(Image.fromarray(257 * pixels[:, :, 0].astype(np.uint16)))
    for image in others:
        more = io.BytesIO()
        image.save(more, "PNG")
        found.append(more.getvalue())
    return [*found, file.getvalue()]


def _foreign_record():
    example = tf.train.Example()
    example.features.feature["img"].bytes_list.value.append(b"jpeg")
    example.features.feature["class"].int64_list.value.append(1)
    example.features.feature["box"].float_list.value.extend([0.5, 1.5])
    return example.SerializeToString()


def _tars():
    found = []
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=form) as tar:
            for name, content in _members(form):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        found.append(file.getvalue())
    return found


def _zips():
    found = []
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", method) as archive:
            for number in range(2):
                archive.writestr(f"d/{number}.png", pictures.encoded(number))
        found.append(file.getvalue())
    return found


def _members(form):
    yield "d/1.png", pictures.encoded(1)
    yield "d/1.json", b'{"label": 7, "exif": {"iso": 100}, "tags": ["a", 1.5, null]}'
    yield "d/1.cls", b"7"
    yield "d/2.txt", b"text"
    yield "d/2.png", pictures.encoded(2)
    if form != tarfile.USTAR_FORMAT:
        yield "l" * 300 + ".png", b"long"
