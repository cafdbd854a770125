"""How well copies of photographs are found, and how fast search and duplicates are.

    python benchmarks/duplicates.py --parts=kinds --photos=photos.zip --run=RUN --folder=SCRATCH
    python benchmarks/duplicates.py --parts=speed --rows=1000000 --folder=SCRATCH

kinds  A network's layers and perceptual hashes on photographs with planted copies: which share of
       the copies of each kind has a similarity of at least a threshold with its original (recall),
       and which share of all pairs that similar are an image and its copy, or two copies of one
       (precision).
speed  Rows/s and memory of `dc_tf search` and `dc_tf duplicates` on generated features.

The archive has photographs in sub-folders. Prints JSON.
"""

import io
import json
import os
import zipfile

import imagehash
import numpy as np
from absl import app, flags
from PIL import Image, ImageOps

import dc_tf

FLAGS = flags.FLAGS
flags.DEFINE_list("parts", ["kinds", "speed"], "What to measure.")
flags.DEFINE_string("photos", None, "Archive of photographs.")
flags.DEFINE_string("run", None, "Run folder of the network.")
flags.DEFINE_string("folder", None, "For data sets and features.", required=True)
flags.DEFINE_integer("copied", 300, "Photographs with a copy of each kind.")
flags.DEFINE_integer("rows", 1_000_000, "Generated rows of the speed part.")
flags.DEFINE_integer("dim", 64, "Their components.")
flags.DEFINE_list("cells", ["1", "2", "4"], "Parts of a map, each way.")

_PRECISION = 0.99  # at which layers are compared
_THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98)


def jpeg(image, quality=92):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def resized(image):
    width, height = image.size
    return jpeg(image.resize((max(1, width // 2), max(1, height // 2)), Image.Resampling.LANCZOS))


def cropped(image):
    width, height = image.size
    x, y = round(0.04 * width), round(0.04 * height)
    return jpeg(image.crop((x, y, width - x, height - y)))


def bordered(image):
    return jpeg(ImageOps.expand(image, max(1, round(0.05 * min(image.size))), "white"))


KINDS = {
    "JPEG 70": lambda image: jpeg(image, 70),
    "half size": resized,
    "cropped": cropped,
    "mirrored": lambda image: jpeg(ImageOps.mirror(image)),
    "border": bordered,
    "grey": lambda image: jpeg(image.convert("L").convert("RGB")),
}


def main(_):
    os.makedirs(FLAGS.folder, exist_ok=True)
    print(json.dumps({part: globals()[f"measure_{part}"]() for part in FLAGS.parts}, indent=1))


def measure_kinds():
    data = os.path.join(FLAGS.folder, "data")
    if not os.path.isdir(data):
        plant(os.path.join(FLAGS.folder, "images"))
        dc_tf.convert(os.path.join(FLAGS.folder, "images"), data)
    family, kind, encoded = families(data)
    figures = {}
    for name, vectors in representations(data, encoded):
        figures[name] = curve(np.ascontiguousarray(vectors, np.float32), family, kind)
        print(name, json.dumps(figures[name]["at_precision"]), flush=True)
    return figures


def plant(folder):
    """Writes the photographs, and copies of some of them: NUMBER/original.jpg, NUMBER/KIND.jpg."""
    with zipfile.ZipFile(FLAGS.photos) as archive:
        names = sorted(name for name in archive.namelist() if name.lower().endswith(".jpg"))
        chosen = set(np.random.default_rng(0).choice(len(names), FLAGS.copied, replace=False))
        for number, name in enumerate(names):
            own = os.path.join(folder, f"{number:05d}")
            os.makedirs(own)
            data = archive.read(name)
            write(own, "original", data)
            if number in chosen:
                image = Image.open(io.BytesIO(data)).convert("RGB")
                for kind, copy in KINDS.items():
                    write(own, kind, copy(image))


def write(folder, name, data):
    with open(os.path.join(folder, f"{name}.jpg"), "wb") as file:
        file.write(data)


def families(data):
    """(n,) number of each row's photograph, (n,) kind of copy, and the encoded images."""
    from dc_tf.data.storage.reader import RowReader

    dataset = dc_tf.open_dataset(data)
    examples = RowReader(dataset).examples(range(dataset.rows))
    parts = [os.path.split(example["source"]) for example in examples]
    family = np.array([int(folder) for folder, _ in parts])
    kind = np.array([os.path.splitext(name)[0] for _, name in parts])
    return family, kind, [example["encoded"] for example in examples]


def representations(data, encoded):
    """Yields (name, (n, d) vectors) whose products are similarities in [-1, 1]."""
    for size in (8, 16):
        for method in (imagehash.phash, imagehash.dhash):
            bits = [
                method(Image.open(io.BytesIO(image)), hash_size=size).hash.ravel()
                for image in encoded
            ]
            # Products of +-1 / sqrt(bits): 1 - 2 * (share of bits that differ).
            signs = np.where(np.array(bits), 1.0, -1.0)
            yield f"{method.__name__} {size}x{size}", signs / np.sqrt(signs.shape[1])
    for cells in map(int, FLAGS.cells):
        found = dc_tf.embed(FLAGS.run, data, "all", cells=cells)
        for layer, x in found.items():
            if layer.startswith("conv") or cells == 1:
                yield f"{layer} cells {cells} raw", unit(x)
                yield f"{layer} cells {cells}", unit(x - x.mean(0))
        del found


def unit(x):
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def curve(x, family, kind):
    """Recall by kind and precision, at thresholds and where the precision is `_PRECISION`."""
    original = {number: row for row, number in enumerate(family) if kind[row] == "original"}
    own = {
        name: np.array([x[row] @ x[original[family[row]]] for row in np.flatnonzero(kind == name)])
        for name in KINDS
    }
    true, false = pairs(x, family)
    total = {t: (int((true >= t).sum()), int((false >= t).sum())) for t in _THRESHOLDS}
    # Highest first: precision of all pairs down to each.
    ordered = np.sort(np.concatenate([true, false]))[::-1]
    hits = np.searchsorted(np.sort(true), ordered, side="left")
    precision = (len(true) - hits) / np.arange(1, len(ordered) + 1)
    enough = np.flatnonzero(precision >= _PRECISION)
    threshold = float(ordered[enough[-1]]) if enough.size else 1.01
    return {
        "dim": x.shape[1],
        "at_precision": {"threshold": threshold, **recalls(own, threshold)},
        "by_threshold": {
            str(t): {"precision": hit / max(1, hit + miss), **recalls(own, t)}
            for t, (hit, miss) in total.items()
        },
    }


def recalls(own, threshold):
    found = {name: float((values >= threshold).mean()) for name, values in own.items()}
    return {"all": float(np.mean(list(found.values()))), **found}


def pairs(x, family, least=0.3):
    """Similarities of pairs of one photograph, and of others, that are at least `least`."""
    true, false = [], []
    for start in range(0, len(x), 1024):
        block = x[start : start + 1024] @ x.T
        later = np.arange(len(x)) > np.arange(start, start + len(block))[:, None]
        same = family[start : start + len(block), None] == family
        true.append(block[later & same])
        values = block[later & ~same]
        false.append(values[values >= least])
    return np.concatenate(true), np.concatenate(false)


if __name__ == "__main__":
    app.run(main)
