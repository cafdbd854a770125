"""One image as a `tf.train.Example`: the names, the writer and the two readers.

    record = encode_example(jpeg_bytes, label=3, source="dogs/rex.jpg", meta={"camera": "K1000"})
    parse_example(tf.constant([record]))["encoded"]     # in a graph, a batch at a time
    decode_example(record)["meta"]                      # in Python, one record with its metadata

The names are those of the usual ImageNet TFRecords, so that records made by others can be read.
"""

import tensorflow as tf

ENCODED = "image/encoded"
LABEL = "image/class/label"
SOURCE = "image/source"
META = "meta/"
NO_LABEL = -1


def encode_example(encoded, label=None, source="", meta=None):
    """Serialises one image with what is known about it.

    Args:
        encoded: bytes of an RGB JPEG or PNG.
        label: int >= 0, or None where the image has none.
        source: str that tells a person where the image came from, such as its relative path.
        meta: dict of name to str, int, float or a list of one of them; stored as `meta/NAME`.

    Returns:
        bytes, a serialised `tf.train.Example`.
    """
    features = {ENCODED: _feature(encoded), SOURCE: _feature(source)}
    if label is not None:
        features[LABEL] = _feature(int(label))
    for name, value in (meta or {}).items():
        features[META + name] = _feature(value)
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString(
        deterministic=True
    )


def parse_example(serialized):
    """Parses a batch of records inside a graph, without their metadata.

    Args:
        serialized: (n,) string.

    Returns:
        dict of `encoded` (n,) string, `label` (n,) int64 with -1 for none, `source` (n,) string.
    """
    parsed = tf.io.parse_example(
        serialized,
        {
            ENCODED: tf.io.FixedLenFeature([], tf.string),
            LABEL: tf.io.FixedLenFeature([], tf.int64, default_value=NO_LABEL),
            SOURCE: tf.io.FixedLenFeature([], tf.string, default_value=""),
        },
    )
    return {"encoded": parsed[ENCODED], "label": parsed[LABEL], "source": parsed[SOURCE]}


def decode_example(serialized):
    """Decodes one record in Python, with its metadata.

    Args:
        serialized: bytes.

    Returns:
        dict of `encoded` bytes, `label` int or None, `source` str, `meta` dict of name to value; a
        value stored as a list of one comes back as that one.
    """
    features = tf.train.Example.FromString(serialized).features.feature
    values = {name: _value(feature) for name, feature in features.items()}
    return {
        "encoded": features[ENCODED].bytes_list.value[0],
        "label": values.get(LABEL),
        "source": values.get(SOURCE) or "",
        "meta": {k[len(META) :]: v for k, v in values.items() if k.startswith(META)},
    }


def _feature(value):
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    if all(isinstance(v, (str, bytes)) for v in values):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[_bytes(v) for v in values]))
    if all(isinstance(v, int) for v in values):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))
    return tf.train.Feature(float_list=tf.train.FloatList(value=[float(v) for v in values]))


def _bytes(text):
    # File names need not be valid UTF-8; Python holds their odd bytes as surrogates.
    return text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text


def _value(feature):
    kind = feature.WhichOneof("kind")
    if kind is None:
        return None
    values = list(getattr(feature, kind).value)
    if kind == "bytes_list":
        values = [v.decode("utf-8", "replace") for v in values]
    return values[0] if len(values) == 1 else values
