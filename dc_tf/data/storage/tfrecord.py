"""TFRecord framing: payload length, its checksum, payload, its checksum.

    for offset, payload, fault in scan("train-00000-of-01024"):
        ...

Both checksums are CRC-32C (Castagnoli), masked. Checking one costs 5 microseconds per 100 kB.
"""

import struct
from collections.abc import Iterator

import google_crc32c

from dc_tf.data.storage.files import open_binary, size_of
from dc_tf.errors import DataError

HEADER_BYTES = 12  # payload length (8) and its checksum (4), before the payload
FOOTER_BYTES = 4  # the payload's checksum, after it
MAX_RECORD_BYTES = 1 << 30  # a longer one counts as corrupt
_CUT_SHORT = "ends early: the shard is truncated"


def unframe(frame, length) -> tuple[bytes | None, str | None]:
    """Extracts the payload of a framed record and checks it.

    Args:
        frame: bytes from the header to the end of the footer; fewer if the file is truncated.
        length: payload length in bytes, from the index.

    Returns:
        (payload bytes, None), or (None, str) with the fault.
    """
    if len(frame) < HEADER_BYTES + length + FOOTER_BYTES:
        return None, _CUT_SHORT
    (stored,) = struct.unpack_from("<Q", frame)
    if stored != length:
        return None, (
            f"has {stored} bytes, but the index says {length}: the shard is not the one that was "
            "indexed, or is corrupt"
        )
    payload = frame[HEADER_BYTES : HEADER_BYTES + length]
    (checksum,) = struct.unpack_from("<I", frame, HEADER_BYTES + length)
    if masked_crc(payload) != checksum:
        return None, "is corrupt: its checksum is wrong"
    return payload, None


def frame(payload) -> bytes:
    """Frames a payload: header, payload, footer, as bytes."""
    length = struct.pack("<Q", len(payload))
    checksum = struct.pack("<I", masked_crc(length))
    return b"".join((length, checksum, payload, struct.pack("<I", masked_crc(payload))))


def masked_crc(data) -> int:
    """The checksum of a TFRecord's header or payload: int in [0, 2**32)."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def scan(path) -> Iterator[tuple[int, bytes | None, str | None]]:
    """Reads a file sequentially.

    Yields:
        (offset of the payload, payload bytes, None) for a valid record, (offset, None, str) with
        the fault for a bad one. A bad header ends the scan, since the next offset is unknown.

    Raises:
        DataError: the file is compressed, or is not a TFRecord file.
    """
    with open_binary(path) as file:
        left = size_of(path)
        _check_start(path, file.peek(HEADER_BYTES)[:HEADER_BYTES], left)
        offset = HEADER_BYTES
        while left:
            header = file.read(HEADER_BYTES)
            length = header_length(header)
            if length is None:
                cut = len(header) < HEADER_BYTES
                yield (
                    offset,
                    None,
                    _CUT_SHORT if cut else "has a corrupt header, so the records after it are lost",
                )
                return
            frame_bytes = HEADER_BYTES + length + FOOTER_BYTES
            frame = header + file.read(min(frame_bytes, left) - HEADER_BYTES)
            yield offset, *unframe(frame, length)
            offset, left = offset + frame_bytes, max(0, left - frame_bytes)


def header_length(header) -> int | None:
    """Payload length in a header, or None if the header is corrupt or truncated."""
    if len(header) < HEADER_BYTES:
        return None
    length, checksum = struct.unpack("<QI", header)
    if masked_crc(header[:8]) != checksum or length > MAX_RECORD_BYTES:
        return None
    return length


def _check_start(path, header, size):
    if not size or header_length(header) is not None:
        return
    if header[:2] == b"\x1f\x8b" or header[:1] == b"\x78":
        raise DataError(
            f"{path} is compressed. Rows are read by their offset in the file, so it must be "
            "uncompressed: rewrite it with tf.io.TFRecordWriter without options, or (if it was "
            "made by gzip) with gunzip."
        )
    raise DataError(f"{path} is not a TFRecord file, or its first record is corrupt.")
