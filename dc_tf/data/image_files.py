"""One image file made clean, or the reason why it cannot be: no TensorFlow, so a pool starts fast.

    image, reason = clean("/photos/dog.tif", Rules(max_short_side=256))

The result is an upright RGB JPEG or PNG. What an EXIF tag says about turning is done to the
pixels, since the rotation of an image is what the network is to learn. A file that is that already
is passed through unchanged.
"""

import dataclasses
import io
import os
import stat
import warnings

from PIL import Image, ImageFile, ImageOps

_ORIENTATION = 0x0112  # EXIF tag; 1 or absent: upright
_MAX_FILE_BYTES = 512 << 20


@dataclasses.dataclass(frozen=True)
class Rules:
    """What `clean` makes.

    Attributes:
        format: "jpeg", "png", or "keep": PNG stays PNG, everything else becomes JPEG.
        max_short_side: pixels; longer short sides are made this long. None: no bound.
        max_pixels: most pixels that a header may announce; checked before anything is decoded.
        quality: of the JPEGs that are written, 1-95.
    """

    format: str = "keep"
    max_short_side: int | None = None
    max_pixels: int = 100_000_000
    quality: int = 92


def silence():
    """Sends what C decoders print about bad files nowhere; for the processes of a pool."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def clean(path, rules):
    """Reads an image file whatever its name says it is.

    Args:
        path: str; with "://" it is read through `tf.io.gfile`.
        rules: Rules.

    Returns:
        (bytes, None) of a JPEG or PNG, or (None, str) with the reason why there is none.
    """
    try:
        data = _read(path)
        if not data:
            return None, "empty file"
        return _clean_bytes(data, rules), None
    except Exception as error:  # Decoders raise anything on a corrupt file; it is only ever listed.
        return None, _reason(error)


def clean_all(paths, rules):
    """`clean` for each of some paths, as a list: the work of one process of a pool."""
    return [clean(path, rules) for path in paths]


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
                if name == "JPEG" or _is_strict_png(data):
                    return data
            return _encode(_upright_rgb(image, rules), name, rules)


def _read(path):
    if "://" in path:
        import tensorflow as tf  # Only here: it costs each process of the pool seconds.

        with tf.io.gfile.GFile(path, "rb") as file:
            return file.read()
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("not a regular file")
    if status.st_size > _MAX_FILE_BYTES:
        raise ValueError(f"file of {status.st_size} bytes, more than {_MAX_FILE_BYTES}")
    with open(path, "rb") as file:
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
    except Exception:  # A damaged EXIF block does not make the picture unusable.
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
