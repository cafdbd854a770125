"""Normalizes an image file to an upright RGB JPEG or PNG, or states why it cannot be used.

    encoded, reason, digest = clean("/photos/dog.tif", Rules(max_short_side=256))

The EXIF orientation is applied to the pixels, since the network learns to predict rotations. A file
that already has the target form is copied unchanged. Does not import TensorFlow, so that process
pools start fast.
"""

import dataclasses
import hashlib
import io
import os
import stat
import typing
import warnings

from PIL import Image, ImageFile, ImageOps

from dc_tf.data.sources import digests
from dc_tf.data.storage.files import is_local, open_binary, size_of

MAX_FILE_BYTES = 512 << 20
_ORIENTATION = 0x0112  # EXIF tag; 1 or absent: upright


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
    """

    format: str = "keep"
    max_short_side: int | None = None
    max_pixels: int = 100_000_000
    quality: int = 92
    digest: bool = False
    drop_blank: bool = False


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
    try:
        data = source if isinstance(source, bytes) else _read(source)
        if not data:
            return Cleaned(None, "empty file")
        return _clean_bytes(data, rules)
    except Exception as error:  # Decoders raise any exception on a corrupt file.
        return Cleaned(None, _reason(error))


def clean_all(sources, rules) -> list[Cleaned]:
    """`clean` of each source; the work of one process of a pool."""
    return [clean(source, rules) for source in sources]


def _clean_bytes(data, rules):
    Image.MAX_IMAGE_PIXELS = rules.max_pixels
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(io.BytesIO(data)) as image:
            _check_dimensions(image, rules)
            name = _target_format(image, rules)
            if _is_clean(image, name, rules):
                image.load()  # A truncated file fails here.
                if _is_whole_jpeg(data) if name == "JPEG" else _is_strict_png(data):
                    return _cleaned(data, image, rules)
            image = _upright_rgb(image, rules)
            return _cleaned(_encode(image, name, rules), image, rules)


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
        raise ValueError("not a regular file")
    size = size_of(path)
    if size > MAX_FILE_BYTES:
        raise ValueError(f"file of {size} bytes, more than {MAX_FILE_BYTES}")
    with open_binary(path) as file:
        return file.read()


def _check_dimensions(image, rules):
    width, height = image.size
    if width < 1 or height < 1:
        raise ValueError(f"{width}x{height} pixels")
    if width * height > rules.max_pixels:
        raise ValueError(f"{width}x{height} pixels, more than {rules.max_pixels} (max_pixels)")


def _target_format(image, rules):
    if rules.format != "keep":
        return rules.format.upper()
    # A multi-picture file (MPO) is a JPEG followed by further images.
    return "PNG" if image.format == "PNG" else "JPEG"


def _is_clean(image, name, rules):
    short = min(image.size)
    return (
        image.format == name
        and image.mode == "RGB"
        and "transparency" not in image.info
        and not getattr(image, "is_animated", False)
        and not image.info.get("progressive")
        and _orientation(image) == 1
        and (rules.max_short_side is None or short <= rules.max_short_side)
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


def _upright_rgb(image, rules):
    short = rules.max_short_side
    if short is not None and image.format == "JPEG":
        # Decodes at reduced size, but at no less than twice the target.
        image.draft("RGB", (2 * short, 2 * short))
    image.load()
    if _orientation(image) != 1:
        image = ImageOps.exif_transpose(image)
    image = _to_rgb(image)
    if short is not None and min(image.size) > short:
        scale = short / min(image.size)
        size = [max(1, round(side * scale)) for side in image.size]
        image = image.resize(size, Image.Resampling.LANCZOS)
    return image


def _to_rgb(image):
    if image.mode.startswith("I"):
        return _from_16_bit(image)
    if image.mode == "F":
        raise ValueError("floating-point pixels, whose range is not known")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _from_16_bit(image):
    # Pillow's own conversion clips at 255 instead of scaling.
    image = image.convert("I")
    low, high = image.getextrema()
    if low < 0 or high > 65535:
        raise ValueError(f"32-bit pixels in {low}..{high}, whose range is not known")
    return image.point(lambda value: value / 257).convert("L").convert("RGB")


def _encode(image, name, rules):
    out = io.BytesIO()
    clean_image = Image.frombytes("RGB", image.size, image.tobytes())  # without any metadata
    if name == "PNG":
        clean_image.save(out, "PNG")
    else:
        clean_image.save(out, "JPEG", quality=rules.quality)
    return out.getvalue()


def _reason(error):
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"{str(error).partition(' exceeds')[0]}, more than max_pixels"
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image, or of an unknown format"
    return f"{type(error).__name__}: {error}"


ImageFile.LOAD_TRUNCATED_IMAGES = False
