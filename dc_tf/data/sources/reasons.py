"""One sentence for why a file is no usable image, with what would help; no text of a decoder.

reason_of(error, data)        # "a HEIC picture, which needs a plug-in: pip install pillow-heif"
"""

import errno
import re
import struct

from PIL import Image

from dc_tf.data.sources.encodings import undecodable

_HEAD = 512  # bytes
_TRUNCATED = re.compile("truncated|not enough image data|incomplete", re.IGNORECASE)
_BOMB = re.compile(r"\((\d+) pixels\)")
_NO_PICTURES = ("GRIB", "HDF5", "BUFR", "WMF", "EMF", "FITS")  # Pillow knows only their headers
_BRANDS = {  # of ISO media files
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"), "heif"),
    **dict.fromkeys((b"mif1", b"msf1"), "heif"),
    **dict.fromkeys((b"avif", b"avis"), "avif"),
    b"crx ": "raw",
}
_INSTALL = {
    "heif": "a HEIC picture, which needs a plug-in: run `pip install pillow-heif`",
    "jxl": "a JPEG XL picture, which needs a plug-in: run `pip install pillow-jxl-plugin`",
    "avif": "an AVIF picture, which needs another Pillow: run `pip install --upgrade pillow`",
    "raw": "a raw file of a camera; develop it to JPEG or TIFF",
    "video": "a video; extract its frames as JPEG",
}
_STARTS = (
    (b"\xff\x0a", "jxl"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "jxl"),
    (b"FUJIFILMCCD-RAW", "raw"),
    (b"IIRO", "raw"),
    (b"\x1aE\xdf\xa3", "video"),
    (b"\0\0\1\xba", "video"),
    (b"FLV\1", "video"),
    (b"%PDF", "a PDF document; export its pages as PNG"),
    (b"PK\3\4", "a zip file; unpack it, or give it as the input itself"),
    (b"\x1f\x8b", "a file compressed by gzip; unpack it"),
    (b"BZh", "a file compressed by bzip2; unpack it"),
    (b"\xfd7zXZ", "a file compressed by xz; unpack it"),
    (b"\x28\xb5\x2f\xfd", "a file compressed by Zstandard; unpack it with `zstd -d`"),
    (b"7z\xbc\xaf", "a 7z archive; unpack it"),
    (b"Rar!", "a RAR archive; unpack it"),
    (b"PAR1", "a Parquet file; give it as the input itself"),
    (b"ARROW1", "an Arrow file; give it as the input itself"),
    (b"\x93NUMPY", "a NumPy array; save its pictures as PNG"),
    (b"\x89HDF", "an HDF5 file; save its pictures as PNG"),
    (b"version https://git-lfs", "a pointer of Git LFS; fetch the file with `git lfs pull`"),
)
_SIGNATURES = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"RIFF": "WebP",
}


def reason_of(error, data=None, path=None) -> str:
    """The reason of a file that raised an error.

    Args:
        error: exception of reading or decoding.
        data: bytes of the file, or None if they could not be read.
        path: str, or None.
    """
    if data is None:
        return _of_reading(error, path)
    if isinstance(error, Unusable):
        return str(error)
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        found = _BOMB.search(str(error))
        return f"{f'{found[1]} pixels' if found else 'a size'}{MORE_THAN_ALLOWED}"
    if isinstance(error, MemoryError):
        return "its pixels do not fit into memory; convert with fewer --workers"
    if isinstance(error, Image.UnidentifiedImageError):
        return of_unknown(data)
    return _of_decoding(error, data)


MORE_THAN_ALLOWED = ", more than max_pixels; if it is a real picture, raise --max_pixels"


class Unusable(ValueError):
    """An image that cannot be used; its text is the reason."""


def check_has_pixels(image) -> None:
    """Raises Unusable for formats of which Pillow only knows the header."""
    if image.format in _NO_PICTURES and not image.tile:
        raise Unusable(f"a {image.format} file, which Pillow cannot decode; convert it to PNG")


def of_unknown(data) -> str:
    """What a file is that Pillow does not know, and what would help."""
    head = bytes(data[:_HEAD])
    kind = _kind_of(head)
    if kind is not None:
        return _installed(kind) or _INSTALL.get(kind, kind)
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "a web page, not an image, as of a failed download; download it again"
    if b"<svg" in text:
        return "an SVG drawing; export it as PNG"
    if head.startswith(tuple(_SIGNATURES)):
        return "a corrupt image, or a variant that Pillow does not know; save it again as PNG"
    if not head.strip(b"\0"):
        return "only zero bytes, not an image; copy it again"
    return "not an image, or of an unknown format; save it as JPEG or PNG if it is one"


def _kind_of(head):
    """A key of `_INSTALL`, a text of `_STARTS`, or None."""
    if head[4:8] == b"ftyp":
        return _BRANDS.get(head[8:12], "video")
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "video"
    return next((what for start, what in _STARTS if head.startswith(start)), None)


def _installed(kind):
    """The reason if a decoder of this kind is there and does not know the file, or None."""
    name = {"heif": "HEIC", "jxl": "JPEG XL", "avif": "AVIF"}.get(kind)
    if kind.upper() not in Image.OPEN:
        return None
    return f"a corrupt {name} picture, or a variant that is not known; save it again as PNG"


def _of_reading(error, path):
    if isinstance(error, Unusable):
        return str(error)
    if isinstance(error, FileNotFoundError):
        if path and undecodable(path):
            return (
                "no such file; its name in the list is not UTF-8: name the encoding of the list, "
                "such as --encoding=cp1252"
            )
        return "no such file; check its path, or the link that names it"
    if isinstance(error, PermissionError):
        return "it may not be read: permission denied; change its permissions"
    if getattr(error, "errno", None) == errno.ELOOP:
        return "a link that leads back to itself; remove it"
    if getattr(error, "errno", None) == errno.ENAMETOOLONG:
        return "a path longer than the file system allows; shorten it"
    detail = getattr(error, "strerror", None) or type(error).__name__
    return f"it cannot be read: {detail}; check the disk, or copy it again"


def _of_decoding(error, data):
    name = _format_of(data)
    if isinstance(error, EOFError | IndexError | struct.error) or _TRUNCATED.search(str(error)):
        return f"corrupt: the {name} ends too early; copy or download it again"
    if isinstance(error, NotImplementedError) or "nsupported" in str(error):
        return f"a variant of {name} that Pillow cannot decode, or corrupt; save it again as PNG"
    return f"corrupt: the {name} cannot be decoded without errors; copy or download it again"


def _format_of(data):
    names = (name for start, name in _SIGNATURES.items() if data.startswith(start))
    return next(names, "image")
