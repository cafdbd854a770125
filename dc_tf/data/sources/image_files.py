"""Normalizes an image file to an upright RGB JPEG or PNG, or states why it cannot be used.

    encoded, reason, digest = clean("/photos/dog.tif", Rules(max_short_side=256))

The EXIF orientation is applied to the pixels, since the network learns to predict rotations. A file
that already has the target form is copied unchanged. A file is corrupt, and rejected, if Pillow
cannot decode all of it without an error; damage outside of the picture, as in its EXIF, is ignored.
Does not import TensorFlow, so that process pools start fast.
"""

import contextlib
import dataclasses
import functools
import hashlib
import importlib
import io
import math
import os
import stat
import typing
import warnings

from PIL import Image, ImageFile

from dc_tf.data.sources import digests, reasons
from dc_tf.data.sources.pixels import Depth, to_8_bits
from dc_tf.data.sources.png_chunks import without_large_texts
from dc_tf.data.sources.reasons import Unusable, reason_of
from dc_tf.data.storage.files import is_local, open_binary, size_of

MAX_FILE_BYTES = 512 << 20
_ORIENTATION = 0x0112  # EXIF tag; 1 or absent: upright
_TURNS = {  # what makes an image of this orientation upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# JPEGs are decoded at 1/2, 1/4 or 1/8 of their size if that is at least 1.5 times the target, and
# others are averaged in blocks. With the bicubic filter the result differs from a full decode and
# the Lanczos filter by less than JPEG of quality 92 does, in the median and for all but the rarest
# images (benchmarks/results/convert.md).
REDUCING_GAP = 1.5
FILTER = Image.Resampling.BICUBIC


@dataclasses.dataclass(frozen=True)
class Rules:
    """Settings of `clean`.

    Attributes:
        format: "jpeg", "png", or "keep": PNG stays PNG, everything else becomes JPEG.
        max_short_side: pixels; longer short sides are downscaled to it. None: no limit.
        max_pixels: largest number of pixels in a header; checked before decoding.
        quality: JPEG quality of re-encoded images, 1-95.
        digest: whether to digest the pixels, to detect duplicates.
        drop_blank: whether to reject an image of a single colour.
        value_range: (low, high) values of pixels of more than 8 bits that become black and white;
            None: from the file (see `pixels`).
    """

    format: str = "keep"
    max_short_side: int | None = None
    max_pixels: int = 100_000_000
    quality: int = 92
    digest: bool = False
    drop_blank: bool = False
    value_range: tuple[float, float] | None = None


class Cleaned(typing.NamedTuple):
    """Result of `clean`.

    Attributes:
        encoded: bytes of a JPEG or PNG; None if the file was rejected.
        reason: str, why the file was rejected, or None.
        digest: 16 bytes, equal for equal sizes and pixels after conversion; empty unless
            `Rules.digest` is set.
    """

    encoded: bytes | None
    reason: str | None
    digest: bytes = b""


def silence() -> None:
    """Discards this process's stderr, where C decoders report bad files; for pool processes."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def clean(source, rules) -> Cleaned:
    """Normalizes an image file, whatever its file extension.

    Args:
        source: str, its path or a URL for `tf.io.gfile`; or bytes, its content.
        rules: Rules.

    Returns:
        Cleaned.
    """
    data, path = (source, None) if isinstance(source, bytes) else (None, source)
    try:
        data = _read(path) if data is None else data
        if not data:
            return Cleaned(None, "an empty file; copy or download it again")
        return _clean_bytes(data, rules)
    except Exception as error:  # Decoders raise any exception on a corrupt file.
        return Cleaned(None, reason_of(error, data, path))


def is_image(path) -> bool:
    """Whether a file is an image by its content, or of a kind that `reasons` has advice for."""
    with open_binary(path) as file:
        try:
            _open(file).close()
        except Exception as error:  # Decoders raise any exception on a corrupt header.
            file.seek(0)
            start = file.read(512)
            known = not isinstance(error, Image.UnidentifiedImageError)
            return known or reasons.of_unknown(start) != reasons.of_unknown(b"?")
    return True


def clean_all(sources, rules) -> list[Cleaned]:
    """`clean` of each source; the work of one process of a pool."""
    return [clean(source, rules) for source in sources]


def _clean_bytes(data, rules):
    data = without_large_texts(data)
    with warnings.catch_warnings(), _limit_of_pixels(rules.max_pixels):
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with _open(io.BytesIO(data)) as image:
            _check_dimensions(image, rules)
            name = _target_format(image, rules)
            may_copy = _is_clean(image, name, rules)
            size, depth = _target_size(image.size, rules), Depth(image, data)
            if size != image.size and image.format == "JPEG":
                image.draft("RGB", [math.ceil(REDUCING_GAP * side) for side in size])
            image.load()  # A corrupt file fails here.
            if may_copy and depth.low_bytes is None and _orientation(image) == 1:
                if _is_whole_jpeg(data) if name == "JPEG" else _is_strict_png(data):
                    return _cleaned(data, image, rules)
            image = _upright_rgb(image, size, depth, rules)
            return _cleaned(_encode(image, name, rules), image, rules)


@contextlib.contextmanager
def _limit_of_pixels(pixels):
    """Inside, Pillow refuses larger images. The caller's own limit, of the process, returns."""
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = pixels
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _open(file):
    """`Image.open`; loads plug-ins for other formats if Pillow does not know the file."""
    try:
        return Image.open(file)
    except Image.UnidentifiedImageError:
        if not _register_plugins():
            raise
    file.seek(0)
    return Image.open(file)


@functools.cache
def _register_plugins():
    """Registers the installed plug-ins for HEIC and JPEG XL; whether there is one."""
    found = False
    with contextlib.suppress(ImportError):
        pillow_heif = importlib.import_module("pillow_heif")
        pillow_heif.register_heif_opener()
        found = True
    with contextlib.suppress(ImportError):
        importlib.import_module("pillow_jxl")  # registers itself
        found = True
    return found


def _cleaned(encoded, image, rules):
    """Cleaned, from the encoded bytes and the same image in RGB."""
    if rules.drop_blank:
        lows, highs = zip(*image.getextrema(), strict=True)
        if lows == highs:
            return Cleaned(None, f"blank: all its pixels have the colour {lows}")
    return Cleaned(encoded, None, _digest(image) if rules.digest else b"")


def _digest(image):
    digest = hashlib.blake2b(digest_size=digests.BYTES)
    digest.update(f"{image.width}x{image.height}".encode())
    digest.update(image.tobytes())
    return digest.digest()


def _read(path):
    if is_local(path) and not stat.S_ISREG(os.stat(path).st_mode):
        raise Unusable("not a regular file; remove it, or copy what it stands for")
    size = size_of(path)
    if size > MAX_FILE_BYTES:
        raise Unusable(f"a file of {size} bytes, more than {MAX_FILE_BYTES}; save it smaller")
    with open_binary(path) as file:
        return file.read()


def _check_dimensions(image, rules):
    reasons.check_has_pixels(image)
    width, height = image.size
    if width < 1 or height < 1:
        raise Unusable(f"an image of {width}x{height} pixels; replace it")
    if width * height > rules.max_pixels:
        raise Unusable(f"{width}x{height} pixels{reasons.MORE_THAN_ALLOWED}")


def _target_format(image, rules):
    if rules.format != "keep":
        return rules.format.upper()
    # A multi-picture file (MPO) is a JPEG followed by further images.
    return "PNG" if image.format == "PNG" else "JPEG"


def _is_clean(image, name, rules):
    """Whether the file may be copied as it is, as far as its header says."""
    return (
        image.format == name
        and image.mode == "RGB"
        and "transparency" not in image.info
        and not getattr(image, "is_animated", False)
        and not image.info.get("progressive")
        and _target_size(image.size, rules) == image.size
    )


def _is_whole_jpeg(data):
    """Whether an end marker follows the last scan: TensorFlow rejects files without one."""
    return data.rfind(b"\xff\xd9") > data.rfind(b"\xff\xda")


def _is_strict_png(data):
    """Whether all chunk checksums are right: TensorFlow checks some that Pillow ignores."""
    try:
        Image.open(io.BytesIO(data)).verify()
    except Exception:
        return False
    return data.endswith(b"IEND\xaeB`\x82")


def _orientation(image):
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except Exception:  # A corrupt EXIF block does not make the picture unusable.
        return 1


def _target_size(size, rules):
    """(width, height) after downscaling to the longest allowed short side."""
    short = rules.max_short_side
    if short is None or min(size) <= short:
        return size
    return tuple(max(1, round(side * short / min(size))) for side in size)


def _upright_rgb(image, size, depth, rules):
    turn = _TURNS.get(_orientation(image))
    image = to_8_bits(image, depth, rules.value_range)
    if image.size != size:
        image = image.resize(size, FILTER, reducing_gap=REDUCING_GAP)
    image = image.convert("RGB")
    return image if turn is None else image.transpose(turn)


def _encode(image, name, rules):
    out = io.BytesIO()
    clean_image = Image.frombytes("RGB", image.size, image.tobytes())  # without any metadata
    if name == "PNG":
        clean_image.save(out, "PNG")
    else:
        clean_image.save(out, "JPEG", quality=rules.quality)
    return out.getvalue()


ImageFile.LOAD_TRUNCATED_IMAGES = False
