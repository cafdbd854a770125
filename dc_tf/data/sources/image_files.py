"""One image file made clean, or the reason why it cannot be: no TensorFlow, so a pool starts fast.

    encoded, reason, digest = clean("/photos/dog.tif", Rules(max_short_side=256))

The result is an upright RGB JPEG or PNG. What an EXIF tag says about turning is done to the
pixels, since the rotation of an image is what the network is to learn. A file that is that already
is passed through unchanged.
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
    """What `clean` makes.

    Attributes:
        format: "jpeg", "png", or "keep": PNG stays PNG, everything else becomes JPEG.
        max_short_side: pixels; longer short sides are made this long. None: no bound.
        max_pixels: most pixels that a header may announce; checked before anything is decoded.
        quality: of the JPEGs that are written, 1-95.
        digest: whether to digest the pixels, to find duplicates by.
        drop_blank: whether an image of a single colour is refused.
    """

    format: str = "keep"
    max_short_side: int | None = None
    max_pixels: int = 100_000_000
    quality: int = 92
    digest: bool = False
    drop_blank: bool = False


class Cleaned(typing.NamedTuple):
    """What came of an image file.

    Attributes:
        encoded: bytes of a JPEG or PNG; None where there is a reason.
        reason: str, why there is none, or None.
        digest: 16 bytes, the same for images of the same size and pixels after all that was done
            to them; empty where it was not asked for.
    """

    encoded: bytes | None
    reason: str | None
    digest: bytes = b""


def silence():
    """Sends what C decoders print about bad files nowhere; for the processes of a pool."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def clean(source, rules):
    """Reads an image file whatever its name says it is.

    Args:
        source: str, its path; with "://" it is read through `tf.io.gfile`. Or its bytes.
        rules: Rules.

    Returns:
        Cleaned.
    """
    try:
        data = source if isinstance(source, bytes) else _read(source)
        if not data:
            return Cleaned(None, "empty file")
        return _clean_bytes(data, rules)
    except Exception as error:  # Decoders raise anything on a corrupt file; it is only ever listed.
        return Cleaned(None, _reason(error))


def clean_all(sources, rules):
    """`clean` for each of some files, as a list: the work of one process of a pool."""
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
                image.load()  # A file that is cut short fails here.
                if _is_whole_jpeg(data) if name == "JPEG" else _is_strict_png(data):
                    return _cleaned(data, image, rules)
            image = _upright_rgb(image, rules)
            return _cleaned(_encode(image, name, rules), image, rules)


def _cleaned(encoded, image, rules):
    """Cleaned, from the bytes and the RGB image that they were made from or show."""
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
    # A multi-picture file (MPO) starts with a plain JPEG, but carries others behind it.
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
    """Whether a marker ends the last scan: TensorFlow refuses what reads beyond the file's end."""
    return data.rfind(b"\xff\xd9") > data.rfind(b"\xff\xda")


def _is_strict_png(data):
    """Whether every chunk's checksum is right: TensorFlow refuses what Pillow lets pass."""
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
        # Decodes at a fraction of the size, never below what is asked for twice over.
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
