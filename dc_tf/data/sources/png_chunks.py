"""Removes texts and colour profiles from a PNG that are too large to be read.

Pillow refuses a whole PNG for them. They are no part of the picture: colours are not converted.
"""

import struct
import zlib

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MAX_CHUNK = 1 << 20  # bytes of a text or profile, uncompressed; Pillow's limit
_MAX_TEXTS = 16 << 20  # bytes of all of them
_TEXTS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")


def without_large_texts(data) -> bytes:
    """A PNG without its texts and profiles of more than 1 MiB; other data are returned as given.

    Args:
        data: bytes of any file.
    """
    if not data.startswith(_SIGNATURE):
        return data
    left, dropped = _MAX_TEXTS, []
    for name, start, end in _chunks(data):
        if name in _TEXTS:
            size = _unpacked(name, memoryview(data)[start + 8 : end - 4])
            if size > min(left, _MAX_CHUNK):
                dropped.append((start, end))
            else:
                left -= size
    return _without(data, dropped)


def _chunks(data):
    """Yields (name, start, end) of the whole chunks."""
    start = len(_SIGNATURE)
    while start + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, start)
        end = start + 12 + length
        if end > len(data):
            return
        yield name, start, end
        start = end


def _unpacked(name, body):
    """Bytes of a text or profile once unpacked, or more than the limit if it has more."""
    packed = _packed(name, bytes(body))
    if packed is None:
        return len(body)
    try:
        return len(zlib.decompressobj().decompress(packed, _MAX_CHUNK + 1))
    except zlib.error:
        return len(body)


def _packed(name, body):
    """The compressed part of a chunk, or None."""
    _, _, rest = body.partition(b"\0")
    if name in (b"iCCP", b"zTXt"):
        return rest[1:]
    if name == b"iTXt" and rest[:1] == b"\1":
        return rest[2:].partition(b"\0")[2].partition(b"\0")[2]
    return None


def _without(data, ranges):
    if not ranges:
        return data
    parts, last = [], 0
    for start, end in ranges:
        parts.append(data[last:start])
        last = end
    return b"".join([*parts, data[last:]])
