"""Object detection on VOC: Faster R-CNN of tf-models-official on the trunk, FC68 and ALL.

FC68 freezes the convolutions, ALL trains them too; all later layers are newly initialised.

    dc_tf evaluate --config_file=voc07_detection_fc68 \
        --model=MODEL --train=VOCdevkit --params_override=workdir=WORK

The paper's detector is Fast R-CNN, which takes its proposals from another program; Faster R-CNN
learns them on the same features. `docs/fidelity.md` lists the differences. Interrupted training
resumes from `workdir`.

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
from dc_tf.evaluation.voc07.detection_metrics import OVERLAP, coco_metrics, voc_metrics
from dc_tf.evaluation.voc07.images import image_errors, open_voc, voc_facts
from dc_tf.evaluation.voc07.network import TUNES
from dc_tf.evaluation.work import wait

_COLUMNS = {
    "map_11_points": "11 points",
    "map": "area",
    "coco_map_50": "COCO .5",
    "coco_map_75": "COCO .75",
    "coco_map": "COCO",
}


# FC68 in minutes on a CPU, for small networks and small data sets.
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


_SAMPLED = 64  # largest number of images of a cost sample
# Channels of the region proposal layer; total number of cells of the last map and its two
# max-pooled copies, relative to it (see `backbone`).
_RPN_CHANNELS, _LEVELS_CELLS = 512, 1 + 1 / 4 + 1 / 16


@dataclasses.dataclass(frozen=True)
class Protocol:
    """Settings; the defaults are those for FC68 that the paper gives.

    Attributes:
        tune: "fc68" or "all".
        train_split, test_split: lists in ImageSets/Main.
        iterations: number of steps.
        batch_size: images per step over all workers.
        drops: steps at which the learning rate is multiplied by drop_factor.
        warmup: steps over which the learning rate grows from a tenth to its full value.
        train_scales: smallest and largest short side of a 4:3 image in pixels, drawn at random for
            each image.
        test_scales: short sides at which each test image is processed; detections are merged.
        anchor_size: side of the smallest anchor in units of 16 pixels; the others are 2 and 4 times
            as large.
        head_units: units of the two fully connected layers.
        proposals: number of regions that the first stage proposes.
        sampled_regions: number of proposals per image that the second stage is trained on.
        norm_momentum: momentum of batch norm in the new layers.
        min_score: detections with a lower score are dropped.
        nms_overlap: overlap threshold of non-maximum suppression.
        max_detections: largest number of detections per image.
        workdir: folder for records and checkpoints; "" for a temporary one.
        scratch: parent of the temporary folder; None for the system's temporary folder.
        paper: the paper's data set whose results are shown beside: "auto" to recognise it, see
            `paper`; "voc07"; "" for none.
        learning_rate: after `warmup`.
        momentum, weight_decay: of SGD; decay is of kernels only.
        test_batch_size: test images at a time.
        seed: of everything that is drawn.
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
                f"train_scales is {low_high}; use a smallest and a largest one, [400, 700]."
            )
        if not self.test_scales or min(self.test_scales) <= 0:
            raise ConfigError(f"test_scales is {self.test_scales}; use numbers of pixels.")
        if list(self.drops) != sorted(set(self.drops)):
            raise ConfigError(f"drops is {self.drops}; use ascending steps.")


def paper_variant(given: dict) -> tuple[dict, int]:
    """See `protocols`."""
    return _PAPER_ALL if given.get("tune") == "all" else {}, _PAPER_IMAGES


def run(request, protocol: Protocol) -> tuple[dict, str]:
    """Runs the task; see `tasks`."""
    splits = open_voc(request, (protocol.train_split, protocol.test_split))
    workers = request.world.size
    if protocol.batch_size % workers:
        raise ConfigError(
            f"{workers} workers cannot share a batch of {protocol.batch_size} images evenly; set "
            f"batch_size to a multiple of {workers}."
        )
    frozen = request.frozen_model()
    request.announce(lambda: work(frozen, *splits, protocol))
    with _folder(request, protocol) as folder:
        own = evaluate(frozen, *splits, protocol, os.path.join(folder, "model"), request.cluster)
        untrained = None
        if request.random_init:
            baseline = random_init(frozen, request.seed)
            at = os.path.join(folder, "random_init")
            untrained = evaluate(baseline, *splits, protocol, at, request.cluster)
    result = {
        **own,
        "random_init": untrained,
        "paper_dataset": paper.data_of(protocol.paper, voc_facts(*splits), ("voc07",)),
        "advice": advice("the model", own["map"], untrained and untrained["map"], len(splits[1])),
        "tune": protocol.tune,
        "classes": splits[0].classes,
        "train_images": len(splits[0]),
        "test_images": len(splits[1]),
        "network": frozen.network,
    }
    return result, table(result, protocol)


def work(frozen, train, test, protocol: Protocol) -> Work:
    """The work, in units of one forward pass of a training image through the convolutions.

    Only the convolutions are timed, since building the detector would take too long for a sample;
    the other layers are added in proportion to their multiplications. A backward pass counts as two
    forward passes; with FC68 only the new layers have one.
    """
    # tf-models' vision is slow to import
    from dc_tf.evaluation.voc07.backbone import detection_trunk
    from dc_tf.evaluation.voc07.detector import padded_side, settings_of

    side = padded_side(frozen, protocol.train_scales[1])
    trunk = detection_trunk(settings_of(frozen))
    whole = _products(trunk, train, protocol, side, protocol.sampled_regions)
    trained = 3 * sum(whole) if protocol.tune == "all" else whole[0] + 3 * whole[1]
    passes = protocol.iterations * protocol.batch_size * trained / whole[0]
    for scale in protocol.test_scales:
        tested = _products(trunk, train, protocol, padded_side(frozen, scale), protocol.proposals)
        passes += len(test) * sum(tested) / whole[0]
    convolve = tf.function(lambda images: trunk.convolutions(images)[trunk.map_names[-1]])

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


def _products(trunk, split, protocol, side, regions):
    """Multiplications for an image of `side` pixels: (in the convolutions, in the new layers)."""
    settings = trunk.settings | ({"dilated": True} if trunk.dilated else {})
    convs = trunk.counts(**settings | {"resolution": side}).convs
    convolutions = sum(conv.kernel**2 * conv.inputs * conv.outputs * conv.side**2 for conv in convs)
    last = convs[-1]
    proposing = 9 * last.outputs * _RPN_CHANNELS * last.side**2 * _LEVELS_CELLS
    units = protocol.head_units
    region = 49 * last.outputs * units + units**2 + 5 * units * (len(split.classes) + 1)
    return convolutions, proposing + regions * region


def evaluate(frozen, train, test, protocol: Protocol, folder: str, cluster=None) -> dict:
    """Trains a detector on one split and evaluates it on another.

    Args:
        frozen: models.FrozenModel.
        train, test: VocSplit.
        protocol: Protocol.
        folder: folder for records and checkpoints, used by this detector only.
        cluster: the workers; None for a single process.

    Returns:
        The metrics of `voc_metrics` and `coco_metrics`; the same on all workers.
    """
    from dc_tf.evaluation.voc07 import detector  # tf-models' vision is slow to import

    with image_errors(train):
        model = detector.train(frozen, train, protocol, folder, cluster)
    world = cluster.world if cluster else None
    with image_errors(test):
        found = detector.detect(model, frozen, test, protocol, folder, world)
    return voc_metrics(test, found) | coco_metrics(test, found)


class _folder:
    """Context of the work folder: `workdir`, after a check of its settings, or a temporary one."""

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
                        f"workdir={self._path} has other settings, workers, data or another model, "
                        f"see {path}; use another folder."
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
    """Table of percentages, with the paper's results on its data."""
    lines = [
        f"voc07_detection {protocol.tune}, mAP in percent of {result['test_images']} images of "
        f"{protocol.test_split}, at an overlap of {OVERLAP:g} but for COCO's own",
        f"{'':24}" + "".join(f"{title:>11}" for title in _COLUMNS.values()),
    ]
    for name, found in {"model": result, "random init": result["random_init"]}.items():
        if found:
            lines.append(f"{name:24}" + "".join(f"{_percent(found[c]):>11}" for c in _COLUMNS))
    if result["paper_dataset"]:
        metrics = paper.VOC07_DETECTION[protocol.tune]
        lines += [f"paper: {name:17}{value:11.2f}" for name, value in metrics.items()]
        lines.append("the paper's: Fast R-CNN on VOC07's test; this is Faster R-CNN")
    if result["advice"]:
        lines.append(result["advice"])
    return "\n".join(lines)


def _percent(share):
    return "-" if share is None else f"{100 * share:.2f}"
