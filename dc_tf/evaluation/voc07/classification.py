"""Multi-label classification on VOC 2007 by fine-tuning: FC68 and ALL.

FC68 trains newly initialised fc6, fc7 and fc8 (of a ResNet: fc8) on frozen convolutions; ALL trains
all layers. Batch norm uses its running statistics. Training and evaluation ignore a class of which
an image has only difficult objects. The score of an image is the sum of its logits over random
crops.

    dc_tf evaluate --config_file=voc07_classification_fc68 \
        --model=MODEL --train=VOCdevkit

`--train` is the development kit; `train_split` and `test_split` are the lists for training and
evaluation. Given several learning rates or weight decays, the task selects the best pair on two
other lists, by default trained on `train` and evaluated on `val`.

Reference: Caron et al. 2019, Table 1; docs/reference.md, section 5.
"""

import dataclasses
import functools
import itertools

import numpy as np
import tensorflow as tf

from dc_tf.distributed.blocks import gather_rows, row_block
from dc_tf.distributed.collectives import Solo
from dc_tf.errors import ConfigError, DataError
from dc_tf.evaluation import paper
from dc_tf.evaluation.average_precision import classes_of
from dc_tf.evaluation.comparison import advice
from dc_tf.evaluation.cost import Part, Work, spread
from dc_tf.evaluation.models import at_resolution, random_init
from dc_tf.evaluation.voc07.images import image_errors, open_voc, random_crops, voc_facts
from dc_tf.evaluation.voc07.network import TUNES, MultiLabelNetwork
from dc_tf.evaluation.work import steps_part, wait
from dc_tf.progress import Progress
from dc_tf.seeds import derive

_CHECK_EVERY = 100  # steps between checks of the loss
_MEASURES = ("map", "map_11_points")


# FC68 in minutes on a CPU, for small networks and small data sets.
# Results: benchmarks/results/voc_cells.md.
SMALL = {
    "iterations": 500,
    "learning_rates": (0.01, 0.05),
    "weight_decays": (1e-5,),
    "drop_every": 350,
    "deviation": 0.05,
    "resolution": 128,
    "seeds": 2,
}
_PAPER_IMAGES = 5_011
_PAPER_ALL = {"weight_decays": (1e-4,)}
_TRIED_STEPS = 64  # of one pipeline, to estimate the cost


@dataclasses.dataclass(frozen=True)
class Protocol:
    """Settings; the defaults are the paper's, for FC68.

    Attributes:
        tune: "fc68" or "all".
        train_split, test_split: lists in ImageSets/Main.
        learning_rates, weight_decays: if there are several, all pairs are tried.
        selection_train_split, selection_test_split: the lists on which pairs are tried.
        drop_every: the learning rate is multiplied by drop_factor after every so many iterations.
        iterations: steps of `batch_size` images.
        batch_size: images of a step.
        momentum: of SGD.
        clip_norm: largest norm of the gradient.
        deviation: standard deviation of the new weights; 0.01 suits 4096 units, narrower networks
            need more.
        resolution: side of the crops in pixels; 0 for the network's training resolution.
        crops: number of random crops per test image, whose logits are summed.
        seeds: number of runs; mean and deviation are reported.
        seed: seed of the first run.
        paper: the paper's data set whose results are shown beside: "auto" to recognise it, see
            `paper`; "voc07"; "" for none.
    """

    tune: str = "fc68"
    train_split: str = "trainval"
    test_split: str = "test"
    selection_train_split: str = "train"
    selection_test_split: str = "val"
    learning_rates: tuple[float, ...] = (0.002,)
    weight_decays: tuple[float, ...] = (1e-5,)
    iterations: int = 150_000
    batch_size: int = 16
    drop_every: int = 20_000
    drop_factor: float = 0.1
    momentum: float = 0.9
    clip_norm: float = 10.0
    deviation: float = 0.01
    resolution: int = 0
    crops: int = 10
    seeds: int = 5
    seed: int = 0
    paper: str = paper.AUTO

    def __post_init__(self):
        if self.tune not in TUNES:
            raise ConfigError(f"tune is {self.tune!r}; use {' or '.join(TUNES)}.")
        positive = ("iterations", "batch_size", "drop_every", "crops", "seeds")
        if self.resolution != 0 and self.resolution < 30:
            raise ConfigError(f"resolution is {self.resolution}; use 0, or at least 30 pixels.")
        for name in (*positive, "clip_norm", "deviation"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; use more than 0.")
        if not self.learning_rates or min(self.learning_rates) <= 0:
            raise ConfigError(f"learning_rates is {self.learning_rates}; use positive ones.")
        if not self.weight_decays or min(self.weight_decays) < 0:
            raise ConfigError(f"weight_decays is {self.weight_decays}; use at least one, from 0.")
        paper.check_setting(self.paper, ("voc07",))

    @property
    def pairs(self) -> list[tuple[float, float]]:
        """All pairs (learning rate, weight decay)."""
        return list(itertools.product(self.learning_rates, self.weight_decays))


def paper_variant(given: dict) -> tuple[dict, int]:
    """See `protocols`."""
    return _PAPER_ALL if given.get("tune") == "all" else {}, _PAPER_IMAGES


def run(request, protocol: Protocol) -> tuple[dict, str]:
    """Runs the task; see `tasks`."""
    names = [protocol.train_split, protocol.test_split]
    if len(protocol.pairs) > 1:
        names += [protocol.selection_train_split, protocol.selection_test_split]
    splits = open_voc(request, names)
    if protocol.batch_size < request.world.size:
        raise ConfigError(
            f"{request.world.size} workers cannot share a batch of {protocol.batch_size} images; "
            f"use at most {protocol.batch_size} workers, or a larger batch_size."
        )
    frozen = request.frozen_model()
    frozen = at_resolution(frozen, protocol.resolution or frozen.resolution)
    request.announce(lambda: work(frozen, splits, protocol))
    result = evaluate(frozen, splits, protocol, request.world)
    untrained = None
    if request.random_init:
        untrained = evaluate(random_init(frozen, request.seed), splits, protocol, request.world)
    result = {
        **result,
        "random_init": untrained,
        "paper_dataset": paper.data_of(protocol.paper, voc_facts(*splits[:2]), ("voc07",)),
        "advice": advice(
            "the model",
            result["map"],
            untrained and untrained["map"],
            len(splits[1]),
        ),
        "tune": protocol.tune,
        "classes": splits[0].classes,
        "train_images": len(splits[0]),
        "test_images": len(splits[1]),
        "network": frozen.network,
    }
    return result, table(result, protocol)


def work(frozen, splits, protocol: Protocol) -> Work:
    """The work: all training runs, and the crops of the test images after each."""
    trained = protocol.seeds
    crops = protocol.seeds * protocol.crops * len(splits[1])
    if len(protocol.pairs) > 1:
        trained += len(protocol.pairs)
        crops += len(protocol.pairs) * protocol.crops * len(splits[3])
    forward = tf.function(lambda images: frozen.trunk.convolve(images, training=False)[1])

    def sample(images):
        places = spread(len(splits[1]), images)
        batches = _try_crops(splits[1], places, protocol.batch_size, frozen.resolution)
        for batch in batches:
            wait(forward(batch))
        return images

    tests = Part("crops through the network", crops, sample, protocol.batch_size)
    count = trained * protocol.iterations * protocol.batch_size
    prepare = functools.partial(_one_step, frozen, splits[0], protocol)
    text = (
        f"{trained} trainings of {protocol.iterations:,} steps of {protocol.batch_size} images at "
        f"{frozen.resolution} pixels, {protocol.crops} crops of {len(splits[1]):,} test images"
    )
    return Work(text, (steps_part(count, protocol.batch_size, prepare, tests), tests))


def _try_crops(split, places, batch_size, resolution):
    with image_errors(split):
        keys = np.zeros((len(places), 2), np.int32)
        yield from random_crops(split, places, keys, batch_size, resolution)


def _one_step(frozen, split, protocol, batch_size):
    """A function that runs a step in this process only and then restores the network."""
    network = _network(frozen, split, protocol, Solo())
    labels = split.presence()
    key, zero = np.zeros(2, np.int32), np.float32(0)
    places = spread(len(split), batch_size)

    def endless():
        while True:  # as in training, where building a pipeline is no part of a step
            many = np.tile(places, _TRIED_STEPS)
            yield from _try_crops(split, many, batch_size, frozen.resolution)

    crops = endless()

    def step():
        images = next(crops)
        try:
            # A learning rate of zero, but the full computation of a step.
            return network.step(images, labels[places], np.int32(0), batch_size, key, zero, zero)
        finally:
            network.restore()

    return step


def _network(frozen, split, protocol, world):
    return MultiLabelNetwork(
        frozen.trunk,
        len(split.classes),
        protocol.tune,
        protocol.momentum,
        protocol.clip_norm,
        protocol.deviation,
        world,
    )


def evaluate(frozen, splits, protocol: Protocol, world=None) -> dict:
    """Selects learning rate and weight decay, then trains and evaluates once per seed.

    Args:
        frozen: models.FrozenModel; its trunk is restored at the end.
        splits: VocSplit for training and for testing; with several pairs, two more to select on.
        protocol: Protocol.
        world: Communicator of the workers that share the work; all get the same result.

    Returns:
        JSON-serialisable dict: `map` and `map_11_points`, means over seeds in [0, 1], with sample
        standard deviations as `_std` (0 for one seed); `per_class`, area by class; `runs`, the
        metrics of each seed; `tried`, the pairs with their `map`; the selected `learning_rate` and
        `weight_decay`.
    """
    world = world or Solo()
    network = _network(frozen, splits[0], protocol, world)
    job = _Job(network, frozen, protocol, world)
    try:
        tried, best = [], protocol.pairs[0]
        if len(protocol.pairs) > 1:
            for rate, decay in protocol.pairs:
                found = job.measure(*splits[2:], rate, decay, protocol.seed)["map"]
                tried.append({"learning_rate": rate, "weight_decay": decay, "map": found})
            best = protocol.pairs[int(np.argmax([one["map"] for one in tried]))]
        seeds = range(protocol.seed, protocol.seed + protocol.seeds)
        runs = [job.measure(*splits[:2], *best, seed) for seed in seeds]
    finally:
        network.restore()
    per_class = np.mean([one.pop("per_class") for one in runs], 0)
    return {
        **_mean_and_deviation(runs),
        "per_class": dict(zip(splits[0].classes, per_class.tolist(), strict=True)),
        "runs": runs,
        "tried": tried,
        "learning_rate": best[0],
        "weight_decay": best[1],
    }


@dataclasses.dataclass(frozen=True)
class _Job:
    """Trains and evaluates the network once per call of `measure`."""

    network: MultiLabelNetwork
    frozen: object
    protocol: Protocol
    world: object

    def measure(self, train, test, rate, decay, seed) -> dict:
        self.network.reset(seed)
        loss = self._train(train, rate, decay, seed)
        metrics = classes_of(self._logits(test, seed), test.presence())
        return {
            "seed": seed,
            "train_loss": loss,
            "map": float(np.nanmean(metrics["area"])),
            "map_11_points": float(np.nanmean(metrics["eleven_points"])),
            "per_class": metrics["area"],
        }

    def _train(self, split, rate, decay, seed):
        """Trains the network; returns the loss, averaged over the last checks."""
        protocol, size = self.protocol, self.protocol.batch_size
        own = row_block(size, self.world.rank, self.world.size)
        order = _order(len(split), protocol.iterations * size, seed)
        keys = np.stack(
            [np.full(len(order), derive("voc07 train", seed)), np.arange(len(order))], 1
        )
        mine = np.arange(len(order)).reshape(-1, size)[:, own].ravel()
        resolution = self.frozen.resolution
        images = random_crops(split, order[mine], keys[mine], len(own), resolution)
        labels = split.presence()[order[mine]].reshape(protocol.iterations, len(own), -1)
        dropout = derive("voc07 dropout", seed)
        what = f"{self.frozen.name}: {protocol.tune} on {split.name}"
        losses = []
        with image_errors(split), self._progress(protocol.iterations, what, "steps") as progress:
            for step, batch in enumerate(images):
                now = rate * protocol.drop_factor ** (step // protocol.drop_every)
                key = np.array([dropout, step], np.int32)
                rates = np.float32(now), np.float32(decay)
                loss = self.network.step(
                    batch, labels[step], np.int32(own.start), size, key, *rates
                )
                if (step + 1) % _CHECK_EVERY == 0 or step + 1 == protocol.iterations:
                    losses.append(_finite(float(loss), rate))
                    progress.update(0, loss=losses[-1])
                progress.update(1)
        return float(np.mean(losses[-10:]))

    def _logits(self, split, seed):
        """(n, classes) sums of logits over crops; workers share the images, all get the result."""
        count, crops, world = len(split), self.protocol.crops, self.world
        own = row_block(count, world.rank, world.size)
        mine = np.arange(own.start * crops, own.stop * crops)
        keys = np.stack([np.full(len(mine), derive("voc07 test", seed)), mine], 1)
        size, resolution = self.protocol.batch_size, self.frozen.resolution
        sums = np.zeros((len(own), len(split.classes)), np.float32)
        what = f"{self.frozen.name}: crops of {split.name}"
        with image_errors(split), self._progress(len(mine), what, "crops") as progress:
            for batch in random_crops(split, mine // crops, keys, size, resolution):
                places = mine[progress.done : progress.done + len(batch)] // crops - own.start
                np.add.at(sums, places, self.network.logits(batch).numpy())
                progress.update(len(batch))
        return gather_rows(sums, own, count, world)

    def _progress(self, total, what, unit):
        return Progress(total, what, unit, enabled=self.world.rank == 0)


def _order(images, count, seed):
    """(count,) image indices: concatenated random permutations."""
    random = np.random.default_rng(derive("voc07 order", seed))
    return np.concatenate([random.permutation(images) for _ in range(-(-count // images))])[:count]


def _finite(loss, rate):
    if not np.isfinite(loss):
        raise DataError(f"the loss is {loss} at a learning rate of {rate}; lower learning_rates.")
    return loss


def _mean_and_deviation(runs):
    metrics = {}
    for name in _MEASURES:
        values = [one[name] for one in runs]
        metrics[name] = float(np.mean(values))
        metrics[f"{name}_std"] = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return metrics


def table(result: dict, protocol: Protocol) -> str:
    """Table of percentages, with the paper's results on its data."""
    lines = [
        f"voc07_classification {protocol.tune}, mAP in percent of {result['test_images']} images "
        f"of {protocol.test_split}, {protocol.seeds} runs",
        f"{'':24}  area     +-  11 points     +-",
    ]
    for name, found in {"model": result, "random init": result["random_init"]}.items():
        if found:
            a, b, c, d = (100 * found[f"{m}{end}"] for m in _MEASURES for end in ("", "_std"))
            lines.append(f"{name:24} {a:5.2f}  {b:5.2f}      {c:5.2f}  {d:5.2f}")
    if result["paper_dataset"]:
        metrics = paper.VOC07_CLASSIFICATION[protocol.tune]
        lines += [f"paper: {name:17} {value:5.2f}" for name, value in metrics.items()]
    if result["advice"]:
        lines.append(result["advice"])
    return "\n".join(lines)
