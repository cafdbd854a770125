"""Downscaling in `dc_tf convert`: processor time and quality beside other ways, image by image.

    python benchmarks/convert.py --images=photos --short_side=256

Every way does every image in turn, so that their ratios hold on a busy machine as well. Quality is
the PSNR in dB of the pixels before they are encoded, against a full decode and the Lanczos filter.
"""

import collections
import io
import json
import os
import time
from collections.abc import Iterator

import numpy as np
from absl import app, flags
from PIL import Image

from dc_tf.data.sources import image_files
from dc_tf.data.sources.folder import walk

IMAGES = flags.DEFINE_string("images", None, "Folder of JPEG files.", required=True)
SHORT_SIDE = flags.DEFINE_integer("short_side", 256, "Only images with a longer one are used.")
COUNT = flags.DEFINE_integer("count", 400, "Images, evenly spread over the folder.")
QUALITY = 92


def main(_) -> None:
    images = list(usable(IMAGES.value, SHORT_SIDE.value, COUNT.value))
    seconds, quality = collections.Counter(), collections.defaultdict(list)
    for data in images:
        exact = None
        for name, way in WAYS.items():
            started = time.process_time()
            pixels = way(data, SHORT_SIDE.value)
            seconds[name] += time.process_time() - started
            if pixels is not None:
                pixels = np.asarray(pixels, np.float32)
                exact = pixels if exact is None else exact
                quality[name].append(psnr(pixels, exact))
        quality["JPEG of quality 92"].append(psnr(encoded_and_decoded(exact), exact))
    report = {
        "images": len(images),
        "median_size": np.median([size_of(data) for data in images], 0).tolist(),
        "short_side": SHORT_SIDE.value,
        "ms": {name: round(1000 * spent / len(images), 2) for name, spent in seconds.items()},
        "psnr_db": {
            name: dict(zip(("least", "p5", "median"), quantiles(values), strict=True))
            for name, values in quality.items()
            if name != FULL
        },
    }
    print(json.dumps(report, indent=1))


def usable(folder, short_side, count) -> Iterator[bytes]:
    """Yields the content of JPEG files whose short side is longer than the target."""
    names = [name for name, reason in walk(folder) if reason is None]
    for number in np.linspace(0, len(names) - 1, min(4 * count, len(names))).astype(int):
        with open(os.path.join(folder, names[number]), "rb") as file:
            data = file.read()
        try:
            with Image.open(io.BytesIO(data)) as image:
                if image.format != "JPEG" or min(image.size) <= short_side:
                    continue
        except OSError:
            continue
        yield data
        count -= 1
        if not count:
            return


def size_of(data) -> tuple[int, int]:
    with Image.open(io.BytesIO(data)) as image:
        return image.size


def full(data, short_side) -> Image.Image:
    """A full decode and the Lanczos filter."""
    return resized(data, short_side, None, Image.Resampling.LANCZOS)


def half(data, short_side) -> Image.Image:
    """The decoder's scaling to twice the target or more, and the Lanczos filter."""
    return resized(data, short_side, 2, Image.Resampling.LANCZOS)


def ours(data, short_side) -> Image.Image:
    """As `convert` does it."""
    gap = image_files.REDUCING_GAP
    return resized(data, short_side, gap, image_files.FILTER)


def resized(data, short_side, gap, filter) -> Image.Image:
    with Image.open(io.BytesIO(data)) as image:
        scale = short_side / min(image.size)
        size = [max(1, round(scale * side)) for side in image.size]
        if gap is not None:
            image.draft("RGB", [int(np.ceil(gap * side)) for side in size])
        image.load()
        if image.mode != "L" or filter != image_files.FILTER:  # grey stays one channel in ours
            image = image.convert("RGB")
        return image.resize(size, filter, reducing_gap=gap).convert("RGB")


def cleaned(data, short_side) -> None:
    """All of `convert` for one image: checks, decoding, scaling, encoding."""
    rules = image_files.Rules(max_short_side=short_side, quality=QUALITY)
    assert image_files.clean(data, rules).encoded


def copied(data, _) -> None:
    """All of `convert` for one image that is copied."""
    assert image_files.clean(data, image_files.Rules()).encoded


def encoded_and_decoded(pixels) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "JPEG", quality=QUALITY)
    return np.asarray(Image.open(file), np.float32)


def psnr(a, b) -> float:
    """In dB; 99 for equal pixels."""
    error = np.mean((a - b) ** 2)
    return 99.0 if error == 0 else float(10 * np.log10(255**2 / error))


def quantiles(values) -> list[float]:
    return np.quantile(values, (0, 0.05, 0.5)).round(1).tolist()


FULL = "full decode, Lanczos"
WAYS = {
    FULL: full,
    "decoder to 2x, Lanczos": half,
    "decoder to 1.5x, bicubic": ours,
    "convert with --short_side": cleaned,
    "convert, copied": copied,
}

if __name__ == "__main__":
    app.run(main)
