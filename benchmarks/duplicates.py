"""How well copies of photographs are found, and how fast search and duplicates are.

    python benchmarks/duplicates.py --parts=kinds --photos=photos.zip --run=RUN --folder=SCRATCH
    python benchmarks/duplicates.py --parts=search --rows=1000000 --folder=SCRATCH
    python benchmarks/duplicates.py --parts=duplicates --rows=1000000 --folder=SCRATCH

kinds       A network's layers and perceptual hashes on photographs with planted copies: which share
            of the copies of each kind has a similarity of at least a threshold with its original
            (recall), and which share of all pairs that similar are of one photograph (precision).
            Then what `dc_tf duplicates` does with them.
search      Seconds and memory of `dc_tf search` on generated features.
duplicates  Rows/s, memory and recall of `dc_tf duplicates` on generated features with copies.

The archive has photographs in sub-folders. Of photographs that a perceptual hash takes for alike
only the first is used, so that what counts as wrong is wrong. Prints JSON.
"""

import io
import json
import os
import resource
import time
import zipfile
from collections.abc import Iterator

import imagehash
import numpy as np
from absl import app, flags
from PIL import Image, ImageOps

import dc_tf
from dc_tf.clustering.store.points import as_points
from dc_tf.clustering.store.whitening import Moments, Whitening
from dc_tf.curation.duplicates.find import Settings, find_duplicates
from dc_tf.curation.features.directions import Directions
from dc_tf.curation.features.neighbours import nearest_rows
from dc_tf.curation.features.open import open_features
from dc_tf.curation.search.inverted_file import InvertedFile
from dc_tf.data.sources.image_files import Rules, clean
from dc_tf.data.storage.reader import RowReader
from dc_tf.distributed.collectives import ALONE
from dc_tf.nn.vgg16 import VGG16
from dc_tf.report.duplicates.run import CELLS

FLAGS = flags.FLAGS
flags.DEFINE_list("parts", ["kinds", "search", "duplicates"], "What to measure.")
flags.DEFINE_string("photos", None, "Archive of photographs.")
flags.DEFINE_string("run", None, "Run folder of the network.")
flags.DEFINE_string("folder", None, "For data sets and features.", required=True)
flags.DEFINE_integer("copied", 300, "Photographs with a copy of each kind.")
flags.DEFINE_integer("rows", 1_000_000, "Generated rows of the other parts.")
flags.DEFINE_integer("dim", 64, "Their components.")
flags.DEFINE_list("cells", ["1", "2", "4"], "Parts of a map, each way.")
flags.DEFINE_list("neighbours", ["0", "4", "8"], "Of the duplicates part.")

_PRECISION = 0.99  # at which layers are compared
_THRESHOLDS = (0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
_ALIKE = 10  # of the 64 bits of a perceptual hash, by which photographs may differ
_WHITENED = 256
_GENERATED_THRESHOLD = 0.9
_COPIES = 0.02  # share of the generated rows


def jpeg(image, quality=92) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def png(image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def resized(image) -> bytes:
    width, height = image.size
    return jpeg(image.resize((max(1, width // 2), max(1, height // 2)), Image.Resampling.LANCZOS))


def cropped(image) -> bytes:
    width, height = image.size
    x, y = round(0.04 * width), round(0.04 * height)
    return jpeg(image.crop((x, y, width - x, height - y)))


def bordered(image) -> bytes:
    return jpeg(ImageOps.expand(image, max(1, round(0.05 * min(image.size))), "white"))


KINDS = {
    "same bytes": lambda image: None,
    "PNG": png,
    "JPEG 70": lambda image: jpeg(image, 70),
    "half size": resized,
    "cropped": cropped,
    "mirrored": lambda image: jpeg(ImageOps.mirror(image)),
    "border": bordered,
    "grey": lambda image: jpeg(image.convert("L").convert("RGB")),
}


def main(_) -> None:
    os.makedirs(FLAGS.folder, exist_ok=True)
    print(json.dumps({part: globals()[f"measure_{part}"]() for part in FLAGS.parts}, indent=1))


def measure_kinds() -> dict:
    data = os.path.join(FLAGS.folder, "data")
    if not os.path.isdir(data):
        plant(os.path.join(FLAGS.folder, "images"))
        dc_tf.convert(os.path.join(FLAGS.folder, "images"), data)
    family, kind, encoded = families(data)
    metrics = {"photographs": int((kind == "original").sum()), "images": len(kind)}
    metrics["end_to_end"] = end_to_end(data, family, kind)
    for name, vectors in representations(data, encoded):
        metrics[name] = curve(np.ascontiguousarray(vectors, np.float32), family, kind)
    return metrics


def plant(folder) -> None:
    """Writes the photographs, and copies of some of them: NUMBER/original.jpg, NUMBER/KIND.jpg."""
    photographs = list(distinct(FLAGS.photos))
    chosen = np.random.default_rng(0).choice(len(photographs), FLAGS.copied, replace=False)
    for number, data in enumerate(photographs):
        own = os.path.join(folder, f"{number:05d}")
        os.makedirs(own)
        copies = {"original": data}
        if number in chosen:
            image = Image.open(io.BytesIO(data)).convert("RGB")
            copies |= {kind: copy(image) or data for kind, copy in KINDS.items()}
        for name, content in copies.items():
            with open(os.path.join(own, f"{name}.jpg"), "wb") as file:
                file.write(content)


def distinct(path) -> Iterator[bytes]:
    """Yields the photographs of an archive, as `convert` keeps them, without those alike."""
    seen = np.empty((0, 64), bool)
    with zipfile.ZipFile(path) as archive:
        for name in sorted(name for name in archive.namelist() if name.lower().endswith(".jpg")):
            data = clean(archive.read(name), Rules()).encoded
            bits = imagehash.phash(Image.open(io.BytesIO(data))).hash.ravel()
            if not ((seen != bits).sum(1) <= _ALIKE).any():
                seen = np.concatenate([seen, bits[None]])
                yield data


def end_to_end(data, family, kind) -> dict:
    """What `dc_tf duplicates` finds with its defaults."""
    features = os.path.join(FLAGS.folder, "features")
    dc_tf.embed(FLAGS.run, data, VGG16.copies_layer, output=features, cells=CELLS, mirror=True)
    opened = open_features(features=features, data=data)
    found = find_duplicates(opened, Settings(), os.path.join(FLAGS.folder, "work"))
    group = np.full(len(family), -1)
    group[found.rows] = found.group
    originals = {number: row for row, number in enumerate(family) if kind[row] == "original"}
    own = np.array([originals[number] for number in family])
    together = (group >= 0) & (group == group[own])
    keepers = found.rows[found.keeper][found.group]
    goes = ~found.keeper
    right = family[found.rows[goes]] == family[keepers[goes]]
    return {
        "would_go": int(goes.sum()),
        "right": float(right.mean()),
        "kinds": {name: int((found.kind == name).sum()) for name in ("bytes", "pixels", "near")},
        **{name: float(together[kind == name].mean()) for name in KINDS},
    }


def families(data) -> tuple[np.ndarray, np.ndarray, list[bytes]]:
    """(n,) number of each row's photograph, (n,) kind of copy, and the encoded images."""
    dataset = dc_tf.open_dataset(data)
    examples = RowReader(dataset).examples(range(dataset.rows))
    parts = [os.path.split(example["source"]) for example in examples]
    family = np.array([int(folder) for folder, _ in parts])
    kind = np.array([os.path.splitext(name)[0] for _, name in parts])
    return family, kind, [example["encoded"] for example in examples]


def representations(data, encoded) -> Iterator[tuple[str, np.ndarray]]:
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
    for layer, cells in (
        ("conv4", 4),
        (VGG16.copies_layer, 1),
        (VGG16.copies_layer, 2),
        ("conv10", 2),
    ):
        x = dc_tf.embed(FLAGS.run, data, layer, cells=cells, mirror=True)
        yield f"{layer}, {cells}x{cells}, mirrored too, whitened", whitened(x)
    for cells in map(int, FLAGS.cells):
        found = dc_tf.embed(FLAGS.run, data, "all", cells=cells)
        for layer, x in found.items():
            if layer.startswith("conv") or cells == 1:
                yield f"{layer}, {cells}x{cells}, as they are", unit(x)
                yield f"{layer}, {cells}x{cells}, whitened", whitened(x)


def unit(x) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def whitened(x) -> np.ndarray:
    dim = min(_WHITENED, x.shape[1], len(x) // 10)
    return Whitening.fit(Moments.of(as_points(x)), ALONE, dim).apply(x)


def curve(x, family, kind) -> dict:
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


def recalls(own, threshold) -> dict[str, float]:
    found = {name: float((values >= threshold).mean()) for name, values in own.items()}
    return {"all": float(np.mean(list(found.values()))), **found}


def pairs(x, family, least=0.3) -> tuple[np.ndarray, np.ndarray]:
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


def measure_search() -> dict:
    """Seconds of a search, exact and by the inverted file, and of building that."""
    features = open_features(features=generated()[0])
    vectors = features.take(np.arange(10))
    metrics = {}
    for name, count in (("exact, 1 query", 1), ("exact, 10 queries", 10)):
        metrics[name] = timed(lambda count=count: nearest_rows(features, vectors[:count], 10))[1]
    metrics["peak of exact, MB"] = peak()
    index, metrics["build"] = timed(lambda: InvertedFile.of(features))
    metrics["inverted file, 10 queries"] = timed(lambda: index.nearest_rows(vectors, 10))[1]
    return metrics | {"peak, MB": peak()} | index.about


def measure_duplicates() -> dict:
    """Seconds and recall of copies, by the number of clusters that a cluster is compared with."""
    path, sources = generated()
    features, metrics = open_features(features=path), {}
    copies = np.arange(len(sources)) + features.rows - len(sources)
    directions = Directions.of(features)
    cosines = np.einsum("nd,nd->n", directions.take(copies), directions.take(sources))
    near = cosines >= _GENERATED_THRESHOLD
    copies, sources = copies[near], sources[near]
    work = os.path.join(FLAGS.folder, "work_generated")
    for neighbours in map(int, FLAGS.neighbours):
        settings = Settings(_GENERATED_THRESHOLD, neighbours=neighbours)
        found, seconds = timed(lambda settings=settings: find_duplicates(features, settings, work))
        group = np.full(features.rows, -1)
        group[found.rows] = found.group
        metrics[f"neighbours {neighbours}"] = {
            "seconds": seconds,
            "recall": float(((group[copies] >= 0) & (group[copies] == group[sources])).mean()),
            "would_go": int((~found.keeper).sum()),
            "clusters": found.clusters,
            "peak, MB": peak(),
        }
    return metrics


def generated() -> tuple[str, np.ndarray]:
    """Path of rows around some thousand centres, the last of them copies of `sources`."""
    path = os.path.join(FLAGS.folder, f"x{FLAGS.rows}x{FLAGS.dim}.npy")
    random, copies = np.random.default_rng(0), int(_COPIES * FLAGS.rows)
    sources = random.choice(FLAGS.rows - copies, copies, replace=False)
    if not os.path.exists(path):
        x = np.lib.format.open_memmap(path, "w+", np.float32, (FLAGS.rows, FLAGS.dim))
        centres = random.standard_normal((2000, FLAGS.dim), np.float32)
        for start in range(0, FLAGS.rows - copies, 1 << 18):
            block = x[start : min(start + (1 << 18), FLAGS.rows - copies)]
            block[:] = random.standard_normal(block.shape, np.float32)
            block += centres[random.integers(0, len(centres), len(block))]
        noise = random.standard_normal((copies, FLAGS.dim), np.float32)
        x[FLAGS.rows - copies :] = x[np.sort(sources)] + 0.3 * noise
        x.flush()
    return path, np.sort(sources)


def timed(function) -> tuple[object, float]:
    started = time.perf_counter()
    result = function()
    return result, time.perf_counter() - started


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


if __name__ == "__main__":
    app.run(main)
