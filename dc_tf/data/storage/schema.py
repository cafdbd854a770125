"""One image as a `tf.train.Example`: feature names, encoder and decoders.

    record = encode_example(jpeg_bytes, label=3, source="dogs/rex.jpg", meta={"camera": "K1000"})
    parse_images(tf.constant([record]))                 # in a graph, a batch at a time
    decode_example(record)["meta"]                      # in Python, one record with its metadata

The default names are those of the usual ImageNet TFRecords. Records written by other programs may
use others, which the manifest of their data set lists (`Features`).
"""

import dataclasses
import typing

from google.protobuf.message import DecodeError

from dc_tf.data.storage.example import Example
from dc_tf.data.storage.metadata import bounded

if typing.TYPE_CHECKING:
    import tensorflow as tf

NO_LABEL = -1


@dataclasses.dataclass(frozen=True)
class Features:
    """Feature names of a data set's records.

    Attributes:
        image: feature with the encoded image.
        label: integer feature; "" for none.
        source: text feature that describes the image's origin; "" for none.
        meta: prefix of metadata features; "" takes all other features as metadata.
        label_offset: added to the stored label; -1 for classes numbered from 1. A sum of -1 means
            no label.
    """

    image: str = "image/encoded"
    label: str = "image/class/label"
    source: str = "image/source"
    meta: str = "meta/"
    label_offset: int = 0


OURS = Features()


def encode_example(encoded, label=None, source="", meta=None) -> bytes:
    """Serializes one image with its label and metadata.

    Args:
        encoded: bytes of an RGB JPEG or PNG.
        label: int >= 0, or None where the image has none.
        source: str that describes the image's origin, such as its relative path.
        meta: dict of name to str, int, float or a list of one of them; stored as `meta/NAME`.

    Returns:
        bytes, a serialised `tf.train.Example`.
    """
    example = Example()
    _add(example, OURS.image, encoded)
    _add(example, OURS.source, source)
    if label is not None:
        _add(example, OURS.label, int(label))
    for name, value in (meta or {}).items():
        _add(example, OURS.meta + name, value)
    return example.SerializeToString(deterministic=True)


def parse_images(serialized, features=OURS) -> "tf.Tensor":
    """Extracts the encoded images from a batch of records, in a graph.

    Args:
        serialized: (n,) string.
        features: Features.

    Returns:
        (n,) string; empty where a record has no image.
    """
    import tensorflow as tf  # Imported lazily: it takes seconds.

    image = tf.io.FixedLenFeature([], tf.string, default_value="")
    return tf.io.parse_example(serialized, {features.image: image})[features.image]


def decode_example(serialized, features=OURS) -> dict:
    """Decodes one record in Python, with its metadata.

    Args:
        serialized: bytes.
        features: Features.

    Returns:
        dict of `encoded` bytes, `label` int or None, `source` str, `meta` dict of name to value; a
        list of one value is returned as the value.

    Raises:
        ValueError: it is not an Example, has no image, or its label is not a single integer.
    """
    values = _parse(serialized)
    known = {features.image, features.label, features.source}
    meta = {
        name[len(features.meta) :]: _value(values[name])
        for name in sorted(values)
        if name.startswith(features.meta) and name not in known
    }
    return {
        "encoded": _image(values, features),
        "label": _label(values, features),
        "source": _source(values, features),
        "meta": meta if features.meta else bounded(meta),
    }


def image_and_label(serialized, features=OURS) -> tuple[bytes, int | None]:
    """The encoded image and the label of one record; arguments and errors as `decode_example`."""
    values = _parse(serialized)
    return _image(values, features), _label(values, features)


def source_of(serialized, features=OURS) -> str:
    """The source of one record, which may lack its image; "" if it names none.

    Raises:
        ValueError: it is not an Example.
    """
    return _source(_parse(serialized), features)


def feature_names(serialized) -> list[str]:
    """Sorted names of all features of one record; errors as `decode_example`."""
    return sorted(_parse(serialized))


def _parse(serialized):
    try:
        return Example.FromString(serialized).features.feature
    except DecodeError as error:
        raise ValueError("is not a tf.train.Example") from error


def _image(values, features):
    if features.image not in values or not values[features.image].bytes_list.value:
        raise ValueError(
            f"has no {features.image}; it has {', '.join(sorted(values)) or 'nothing'}"
        )
    return values[features.image].bytes_list.value[0]


def _source(values, features):
    return (_value(values[features.source]) or "") if features.source in values else ""


def _label(values, features):
    if not features.label or features.label not in values:
        return None
    feature = values[features.label]
    stored = list(feature.int64_list.value)
    if not stored and not feature.bytes_list.value and not feature.float_list.value:
        return None
    if len(stored) != 1:
        what = f"{len(stored)} labels" if stored else "a label that is not an integer"
        raise ValueError(f"has {what} in {features.label}; an image has one integer")
    label = stored[0] + features.label_offset
    if not NO_LABEL <= label < 2**31:
        raise ValueError(f"has label {stored[0]}, with label_offset {label}; it must be at least 0")
    return None if label == NO_LABEL else label


def _add(example, name, value):
    feature = example.features.feature[name]
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    if all(isinstance(v, (str, bytes)) for v in values):
        feature.bytes_list.SetInParent()  # also without any value
        feature.bytes_list.value.extend(map(_bytes, values))
    elif all(isinstance(v, int) for v in values):
        feature.int64_list.value.extend(values)
    else:
        feature.float_list.value.extend(map(float, values))


def _bytes(text):
    # File names need not be valid UTF-8; Python represents invalid bytes as surrogates.
    return text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text


def _value(feature):
    kind = feature.WhichOneof("kind")
    if kind is None:
        return None
    values = list(getattr(feature, kind).value)
    if kind == "bytes_list":
        values = [v.decode("utf-8", "replace") for v in values]
    return values[0] if len(values) == 1 else values
