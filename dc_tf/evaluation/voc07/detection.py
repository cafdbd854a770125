"""Object detection on VOC: Faster R-CNN of tf-models-official on the trunk, FC68 and ALL.

FC68 keeps the convolutions as they are, ALL trains them too; everything behind them starts anew.

    dc_tf evaluate --config_file=configs/evaluation/voc07_detection_fc68.yaml \
        --model=MODEL --train=VOCdevkit --params_override=workdir=WORK

The paper's detector is Fast R-CNN, which takes its proposals from another program; this one learns
its own on the same features. `docs/fidelity.md` lists what differs. In `workdir` training goes on
where it stopped.

Reference: Caron et al. 2019, Table 1; Ren et al. 2015; docs/reference.md, section 5.
"""

import dataclasses
import json
import os
import shutil
import tempfile

import tensorflow as tf

from dc_tf.data.storage import files
from dc_tf.errors import ConfigError
from dc_tf.evaluation import paper
from dc_tf.evaluation.comparison import advice
from dc_tf.evaluation.cost import Part, Work
from dc_tf.evaluation.models import random_init
from dc_tf.evaluation.voc07.detection_metrics import OVERLAP, coco_figures, voc_figures
from dc_tf.evaluation.voc07.images import image_errors, open_voc, voc_facts
from dc_tf.evaluation.voc07.network import TUNES
from dc_tf.evaluation.work import wait
from dc_tf.nn.vgg16 import channels

_COLUMNS = {
    "map_11_points": "11 points",
    "map": "area",
    "coco_map_50": "COCO .5",
    "coco_map_75": "COCO .75",
    "coco_map": "COCO",
}


# FC68 in minutes on a CPU, for small networks and small sets.
# Results: benchmarks/results/voc_cells.md.
SMALL = {
    "iterations": 1000,
    "learning_rate": 0.02,
    "drops": (750,),
    "warmup": 50,
    "train_scales": (260, 320),
    "test_scales": (300,),
    "test_batch_size": 4,
    "anchor_size": 2.0,
    "head_units": 128,
    "proposals": 200,
    "norm_momentum": 0.9,
}
_PAPER_IMAGES = 5_011
_PAPER_ALL = {"learning_rate": 0.002}


_SAMPLED = 64  # images of a try, at most
# Channels into conv1 behind Sobel, and of the layer that proposes regions; cells of conv13 and its
# two max-pooled copies, in those of conv13 (see `vgg16_backbone`).
_INPUT_CHANNELS, _RPN_CHANNELS, _LEVELS_CELLS = 2, 512, 1 + 1 / 4 + 1 / 16


@dataclasses.dataclass(frozen=True)
class Protocol:
    """Settings; the defaults are the paper's for FC68, where it has some.

    Attributes:
        tune: "fc68" or "all".
        train_split, test_split: lists of ImageSets/Main.
        iterations: steps of `batch_size` images of all workers together.
        batch_size: images of a step over all workers.
        learning_rate: after `warmup`.
        drops: steps at which the rate is multiplied by drop_factor.
        warmup: steps in which the rate grows from a tenth.
        momentum, weight_decay: of SGD; decay is of kernels only.
        train_scales: least and most pixels of the short side of a 4:3 image, drawn anew each time.
        test_scales: each test image is looked at in all of them; detections are merged.
        test_batch_size: test images at a time.
        anchor_size: of the smallest anchor, in steps of 16 pixels; there are 1, 2 and 4 times it.
        head_units: of the two fully connected layers.
        proposals: regions that the first stage hands on.
        sampled_regions: of which the second stage learns from so many an image.
        norm_momentum: of batch norm in the new layers.
        min_score: detections below it are dropped.
        nms_overlap: of two detections of a class that overlap more, the better one stays.
        max_detections: of an image.
        seed: of everything that is drawn.
        workdir: folder for records and checkpoints that is kept; "" for one that is removed.
        scratch: folder for that one; None for the system's own.
        paper: the paper's data set whose figures are shown as well: "auto" recognises it, see
            `paper`; "voc07"; "" for none.
    """

    tune: str = "fc68"
    train_split: str = "trainval"
    test_split: str = "test"
    iterations: int = 150_000
    batch_size: int = 2
    learning_rate: float = 0.01
    drops: tuple[int, ...] = (50_000,)
    drop_factor: float = 0.1
    warmup: int = 0
    momentum: float = 0.9
    weight_decay: float = 1e-4
    train_scales: tuple[int, ...] = (400, 700)
    test_scales: tuple[int, ...] = (400, 500, 600)
    test_batch_size: int = 1
    anchor_size: float = 8.0
    head_units: int = 4096
    proposals: int = 1000
    sampled_regions: int = 64
    norm_momentum: float = 0.99
    min_score: float = 0.05
    nms_overlap: float = 0.5
    max_detections: int = 100
    seed: int = 0
    workdir: str = ""
    scratch: str | None = None
    paper: str = paper.AUTO

    def __post_init__(self):
        paper.check_setting(self.paper, ("voc07",))
        if self.tune not in TUNES:
            raise ConfigError(f"tune is {self.tune!r}; use {' or '.join(TUNES)}.")
        positive = ("iterations", "batch_size", "learning_rate", "anchor_size", "head_units")
        positive += ("test_batch_size", "proposals", "sampled_regions", "max_detections")
        for name in positive:
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; use more than 0.")
        low_high = self.train_scales
        if len(low_high) != 2 or not 0 < low_high[0] <= low_high[1]:
            raise ConfigError(
                f"train_scales is {low_high}; use the least and the most, [400, 700]."
            )
        if not self.test_scales or min(self.test_scales) <= 0:
            raise ConfigError(f"test_scales is {self.test_scales}; use numbers of pixels.")
        if list(self.drops) != sorted(set(self.drops)):
            raise ConfigError(f"drops is {self.drops}; use ascending steps.")


def paper_variant(given: dict) -> tuple[dict, int]:
    """See `protocols`."""
    return _PAPER_ALL if given.get("tune") == "all" else {}, _PAPER_IMAGES


def run(request, protocol: Protocol) -> tuple[dict, str]:
    """The task; see `tasks`."""
    splits = open_voc(request, (protocol.train_split, protocol.test_split))
    workers = request.world.size
    if protocol.batch_size % workers:
        raise ConfigError(
            f"{workers} workers cannot share a batch of {protocol.batch_size} images evenly; set "
            f"batch_size to a multiple of {workers}."
        )
    subject = request.subject()
    request.announce(lambda: work(subject, *splits, protocol))
    with _folder(request, protocol) as folder:
        own = evaluate(subject, *splits, protocol, os.path.join(folder, "model"), request.cluster)
        untrained = None
        if request.random_init:
            beside = random_init(subject, request.seed)
            at = os.path.join(folder, "random_init")
            untrained = evaluate(beside, *splits, protocol, at, request.cluster)
    result = {
        **own,
        "random_init": untrained,
        "paper_dataset": paper.data_of(protocol.paper, voc_facts(*splits), ("voc07",)),
        "advice": advice("the model", own["map"], untrained and untrained["map"], len(splits[1])),
        "tune": protocol.tune,
        "classes": splits[0].classes,
        "train_images": len(splits[0]),
        "test_images": len(splits[1]),
        "network": {**subject.trunk.settings, "compute_dtype": subject.compute_dtype},
    }
    return result, table(result, protocol)


def work(subject, train, test, protocol: Protocol) -> Work:
    """What is done to one network, in passes of one image of training through the convolutions.

    Convolutions are timed, with what the other layers multiply added in proportion: building the
    detector itself takes longer than a few seconds. A backward pass counts as two forward ones;
    with FC68 only the new layers have one.
    """
    from dc_tf.evaluation.voc07.detector import padded_side  # brings tf-models' vision

    side = padded_side(protocol.train_scales[1])
    whole = _products(subject, train, protocol, side, protocol.sampled_regions)
    trained = 3 * sum(whole) if protocol.tune == "all" else whole[0] + 3 * whole[1]
    passes = protocol.iterations * protocol.batch_size * trained / whole[0]
    for scale in protocol.test_scales:
        tested = _products(subject, train, protocol, padded_side(scale), protocol.proposals)
        passes += len(test) * sum(tested) / whole[0]
    convolve = tf.function(lambda images: subject.trunk.convolutions(images)["conv13"])

    def sample(images):
        for start in range(0, images, protocol.batch_size):
            count = min(protocol.batch_size, images - start)
            wait(convolve(tf.zeros([count, side, side, 3])))
        return images

    text = (
        f"{protocol.iterations:,} steps of {protocol.batch_size} images of up to "
        f"{protocol.train_scales[1]} pixels, {len(test):,} test images at "
        f"{len(protocol.test_scales)} scales"
    )
    return Work(text, (Part("images through the convolutions", passes, sample, _SAMPLED),))


def _products(subject, split, protocol, side, regions):
    """Multiplications for an image of `side` pixels: of the convolutions, of the new layers."""
    widths = channels(subject.trunk.settings["width"])
    convolutions, before, pixels = 0, _INPUT_CHANNELS, side * side
    for block in widths:
        for after in block:
            convolutions += 9 * before * after * pixels
            before = after
        pixels //= 4
    cells = 4 * pixels * _LEVELS_CELLS
    proposing = 9 * before * _RPN_CHANNELS * cells
    units = protocol.head_units
    region = 49 * before * units + units * units + 5 * units * (len(split.classes) + 1)
    return convolutions, proposing + regions * region


def evaluate(subject, train, test, protocol: Protocol, folder: str, cluster=None) -> dict:
    """Trains a detector on one split and measures it on another.

    Args:
        subject: models.Subject.
        train, test: VocSplit.
        folder: for what is written; of this detector alone.
        cluster: the workers; None for one alone.

    Returns:
        The figures of `detections.voc_figures` and `coco_figures`; the same on all workers.
    """
    from dc_tf.evaluation.voc07 import detector  # tf-models' vision takes seconds to import

    with image_errors(train):
        model = detector.train(subject, train, protocol, folder, cluster)
    world = cluster.world if cluster else None
    with image_errors(test):
        found = detector.detect(model, subject, test, protocol, folder, world)
    return voc_figures(test, found) | coco_figures(test, found)


class _folder:
    """The folder to work in: `workdir`, which must be of the same work, or one that goes again."""

    def __init__(self, request, protocol):
        self._request, self._protocol = request, protocol

    def __enter__(self):
        protocol = self._protocol
        self._path = protocol.workdir
        if not self._path:
            parent = protocol.scratch or os.environ.get("DC_TF_SCRATCH")
            self._path = tempfile.mkdtemp(prefix="dc_tf-detection-", dir=parent)
            return self._path
        path = os.path.join(self._path, "work.json")
        work = {"model": self._request.model, "weights": self._request.opened["weights"]}
        work |= {"train": self._request.train, "protocol": dataclasses.asdict(protocol)}
        work["workers"] = self._request.world.size
        work = json.dumps(work, indent=1)
        if tf.io.gfile.exists(path):
            with tf.io.gfile.GFile(path) as file:
                if file.read() != work:
                    raise ConfigError(
                        f"workdir={self._path} is of other settings, workers or data, or another "
                        f"model, see {path}; use another folder."
                    )
        self._request.world.barrier()
        if self._request.world.rank == 0:
            tf.io.gfile.makedirs(self._path)
            files.write_file(path, lambda file: file.write(work.encode()))
        return self._path

    def __exit__(self, *_):
        if not self._protocol.workdir:
            shutil.rmtree(self._path, ignore_errors=True)


def table(result: dict, protocol: Protocol) -> str:
    """Percentages, the paper's below on its data."""
    lines = [
        f"voc07_detection {protocol.tune}, mAP in percent of {result['test_images']} images of "
        f"{protocol.test_split}, at an overlap of {OVERLAP:g} but for COCO's own",
        f"{'':24}" + "".join(f"{title:>11}" for title in _COLUMNS.values()),
    ]
    for name, found in {"model": result, "random init": result["random_init"]}.items():
        if found:
            lines.append(f"{name:24}" + "".join(f"{_percent(found[c]):>11}" for c in _COLUMNS))
    if result["paper_dataset"]:
        figures = paper.VOC07_DETECTION[protocol.tune]
        lines += [f"paper: {name:17}{value:11.2f}" for name, value in figures.items()]
        lines.append("the paper's: Fast R-CNN on VOC07's test; this is Faster R-CNN")
    if result["advice"]:
        lines.append(result["advice"])
    return "\n".join(lines)


def _percent(share):
    return "-" if share is None else f"{100 * share:.2f}"
