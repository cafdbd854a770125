"""A record less its image, whose bytes are not read: of a megabyte, two parts of a kilobyte.

    small = without_feature(read, length, "image/encoded")       # a `tf.train.Example`
    schema.source_of(small)

The format is protobuf's: Example, Features and the entries of its map are field 1 of one another,
each a tag, its length and its bytes.
"""

_TAG = 0x0A  # field 1, with a length
_READ_BYTES = 1024  # at least, at a time
_MOST_VARINT = 10


def without_feature(read, length, name) -> bytes:
    """A serialised Example without one of its features.

    Args:
        read: function of (start, count) to so many bytes of the record.
        length: bytes of the record.
        name: of the feature.

    Raises:
        ValueError: it is no Example as protobuf writes them; `schema` may still be able to read it.
    """
    record, own, kept = _Record(read, length), name.encode(), []
    at, end = record.value(0, length)
    if end != length:
        raise ValueError("has more than one list of features")
    while at < end:
        start, stop = record.value(at, end)
        if record.bytes(*record.value(start, stop)) != own:
            kept.append(record.bytes(at, stop))
        at = stop
    features = b"".join(kept)
    return bytes([_TAG]) + _varint(len(features)) + features


class _Record:
    """Reads a record in blocks; a block is read where the last one does not hold what is asked."""

    def __init__(self, read, length):
        self._read, self._length = read, length
        self._start, self._block = 0, b""

    def bytes(self, start, stop):
        """The bytes from `start` to `stop`."""
        if not self._start <= start <= stop <= self._start + len(self._block):
            count = min(max(stop - start, _READ_BYTES), self._length - start)
            self._start, self._block = start, self._read(start, count)
            if len(self._block) < stop - start:
                raise ValueError("ends early")
        return self._block[start - self._start : stop - self._start]

    def value(self, at, end):
        """(start, stop) of the value of the field at `at`, which ends at `end` or before."""
        head = self.bytes(at, min(at + 1 + _MOST_VARINT, end))
        if head[:1] != bytes([_TAG]):
            raise ValueError(f"has another field at byte {at}")
        size, used = 0, 0
        for byte in head[1:]:
            size |= (byte & 0x7F) << 7 * used
            used += 1
            if byte < 0x80:
                start = at + 1 + used
                if start + size > end:
                    break
                return start, start + size
        raise ValueError(f"has a field at byte {at} that exceeds it")


def _varint(number):
    parts = bytearray()
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])
