"""Fine-tunes all layers of a network on labels, with an untrained network as a baseline.

Sobel is folded into conv1 (5x5 of 3x3), which is trained like every other layer; fully connected
layers and the classifier are initialised at random.

    result, table = run(request, Protocol(epochs=100))

Workers share every batch, the test images, and the folder `workdir`, from which an interrupted call
resumes. `train` trains one network.

Reference: Caron et al. 2019, Table 2; docs/reference.md, section 5.
"""

import dataclasses

import numpy as np
import tensorflow as tf

from dc_tf.errors import ConfigError
from dc_tf.evaluation import paper
from dc_tf.evaluation.comparison import advice
from dc_tf.evaluation.cost import Work
from dc_tf.evaluation.finetune.checkpoint import refuse_foreign_on_all
from dc_tf.evaluation.finetune.train import fine_tune, one_step
from dc_tf.evaluation.models import random_init
from dc_tf.evaluation.work import forward_part, steps_part, text_of
from dc_tf.exporting.weights import weights_digest

# Takes minutes on a CPU for a small network and a few thousand small images. With the paper's
# initial deviation the new layers would hardly change in so few steps.
SMALL = {
    "epochs": 15,
    "batch_size": 50,
    "learning_rate": 0.02,
    "drops": (8, 12),
    "init_deviation": 0.04,
    "init_bias": 0.0,
    "min_crop_area": 0.3,
}
_PAPER_IMAGES = 1_281_167


@dataclasses.dataclass(frozen=True)
class Protocol:
    """Settings; the defaults are the paper's.

    Attributes:
        epochs: number of epochs of (images // batch_size) steps.
        batch_size: images per step over all workers.
        learning_rate: learning rate of the first epoch.
        drops: epochs after which the learning rate is multiplied by `drop_factor`.
        weight_decay: L2 coefficient; `weight_decay * weight` is added to the gradients.
        dropout: dropout rate of fc6 and fc7; ResNets have none.
        init_deviation, init_bias: fc6, fc7 and the classifier have weights from N(0, deviation) and
            this bias.
        min_crop_area: smallest share of an image's area that a random crop covers.
        momentum: of SGD.
        flip: whether to mirror half of the images.
        seeds: number of runs; metrics are means, with deviations for more than one run.
        seed: seed of the first run; the others have the following numbers.
        workdir: folder shared by all workers, from which an interrupted call resumes; "" for none.
        save_every: steps between checkpoints; one is also written at the end of every epoch.
        paper: results of the paper that are shown beside: "auto" for those after 100 or 90 epochs
            if the data are ImageNet's, see `paper`; "imagenet100" or "imagenet90"; "" for none.
    """

    epochs: int = 100
    batch_size: int = 256
    learning_rate: float = 0.1
    drops: tuple[int, ...] = (30, 60, 90)
    drop_factor: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    dropout: float = 0.5
    init_deviation: float = 0.01
    init_bias: float = 0.1
    min_crop_area: float = 0.08
    flip: bool = True
    seeds: int = 1
    seed: int = 0
    workdir: str = ""
    save_every: int = 1000
    paper: str = paper.AUTO

    def __post_init__(self):
        for name in ("epochs", "batch_size", "seeds", "save_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; use at least 1.")
        for name in ("learning_rate", "drop_factor", "init_deviation"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; use a positive number.")
        for name in ("momentum", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; use 0 or more, less than 1.")
        if self.weight_decay < 0 or self.seed < 0:
            raise ConfigError(
                f"weight_decay is {self.weight_decay} and seed is {self.seed}; use 0 or more."
            )
        if not 0 < self.min_crop_area <= 1:
            raise ConfigError(f"min_crop_area is {self.min_crop_area}; use more than 0, up to 1.")
        if list(self.drops) != sorted(set(self.drops)) or any(d < 1 for d in self.drops):
            raise ConfigError(f"drops is {self.drops}; use ascending epochs of at least 1.")
        paper.check_setting(self.paper, paper.FINETUNE)

    def rate(self, epoch: int) -> float:
        """Learning rate of an epoch, counted from 0."""
        return self.learning_rate * self.drop_factor ** sum(epoch >= drop for drop in self.drops)


def paper_variant(given: dict) -> tuple[dict, int]:
    """See `protocols`. With 90 epochs the last drop is not reached, as in the paper."""
    del given
    return {}, _PAPER_IMAGES


def run(request, protocol: Protocol) -> tuple[dict, str]:
    """Runs the task; see `tasks`."""
    train, test = request.splits()
    check(protocol, train, request.world)
    frozen = request.frozen_model()
    request.announce(lambda: work(frozen, train, test, protocol))
    about = about_of(frozen, train, test, protocol)
    refuse_foreign_on_all(protocol.workdir, about, request.world)
    seeds = range(protocol.seed, protocol.seed + protocol.seeds)
    runs = {"metrics": [], "random_init": []}
    for seed in seeds:
        metrics = fine_tune(frozen, train, test, protocol, request.world, seed, "model")
        runs["metrics"].append(metrics)
        if request.random_init:
            untrained = random_init(frozen, seed)
            metrics = fine_tune(
                untrained, train, test, protocol, request.world, seed, "random_init"
            )
            runs["random_init"].append(metrics)
    result = summary(runs, frozen, train, test)
    result["paper_dataset"] = _paper_results(protocol, train, test)
    return result, table(result, protocol)


def work(frozen, train, test, protocol: Protocol) -> Work:
    """The work: for each seed, all training steps and the test images."""
    batch_size = protocol.batch_size
    steps = protocol.epochs * (len(train.rows) // batch_size)
    feature = frozen.trunk.feature_layer
    forward = tf.function(lambda images: frozen.trunk(images, training=False)[feature])
    tests = forward_part(forward, frozen, test, protocol.seeds * len(test.rows), batch_size)

    def prepare(size):
        return one_step(frozen, train, dataclasses.replace(protocol, batch_size=size))

    count = protocol.seeds * steps * batch_size
    seeds = f", {protocol.seeds} seeds" if protocol.seeds > 1 else ""
    return Work(
        text_of(frozen, train, test, f"{protocol.epochs} epochs{seeds}"),
        (steps_part(count, batch_size, prepare, tests), tests),
    )


def _paper_results(protocol, train, test) -> str:
    """A key of paper.FINETUNE, or ""."""
    if protocol.paper != paper.AUTO:
        return protocol.paper
    facts = paper.labelled_data(train.classes, len(train.rows), len(test.rows))
    data = paper.data_of(paper.AUTO, facts, ("imagenet",))
    name = f"{data}{protocol.epochs}"
    return name if name in paper.FINETUNE else ""


def check(protocol, train, world) -> None:
    """Checks that fine-tuning is possible.

    Raises:
        ConfigError: the workers cannot share a batch evenly, the training split is smaller than a
            batch, or it has one class only.
    """
    if protocol.batch_size % world.size:
        raise ConfigError(
            f"batch_size is {protocol.batch_size}, which {world.size} workers cannot share evenly; "
            f"use a multiple of {world.size}."
        )
    if len(train.rows) < protocol.batch_size:
        raise ConfigError(
            f"batch_size is {protocol.batch_size}, but {train.path!r} has {len(train.rows)} "
            "labelled images; use a smaller batch."
        )
    classes = np.unique(train.labels)
    if len(classes) < 2:
        raise ConfigError(
            f"all labelled images of {train.path!r} are of class {classes[0]}; use data with at "
            "least two classes."
        )


def summary(runs, frozen, train, test) -> dict:
    """Summarises the metrics of all seeds.

    Returns:
        JSON-serialisable dict: `metrics` and `random_init` (None if not measured), each with means,
        sample standard deviations over seeds (0 for one seed) and the metrics of each seed; `top1`,
        `top5`, `random_init_top1`, `random_init_top5`; the network and the sizes of the data.
    """
    result = {name: _over_seeds(metrics) for name, metrics in runs.items()}
    for metric in ("top1", "top5"):
        result[metric] = result["metrics"][metric]
        untrained = result["random_init"]
        result[f"random_init_{metric}"] = untrained[metric] if untrained else None
    shares = result["top1"], result["random_init_top1"]
    result["advice"] = advice("the model", *shares, len(test.rows))
    return result | {
        "network": frozen.network,
        "short_side": frozen.short_side,
        "classes": train.classes,
        "train_rows": len(train.rows),
        "test_rows": len(test.rows),
    }


def table(result, protocol) -> str:
    """Table of percentages, with the paper's results on its data."""
    lines = [
        f"finetune, percent of {result['test_rows']} test images; {protocol.epochs} epochs on "
        f"{result['train_rows']}; seeds: {protocol.seeds}",
        f"{'start':24}{'top-1':>16}{'top-5':>16}{'class mean':>16}",
    ]
    for name, label in (("metrics", "model"), ("random_init", "random init")):
        if found := result[name]:
            cells = [_percent(found[f], found[f"{f}_std"], protocol.seeds) for f in _METRICS]
            lines.append(f"{label:24}" + "".join(f"{cell:>16}" for cell in cells))
    metrics = paper.FINETUNE.get(result["paper_dataset"], {})
    for method, percents in metrics.items():
        cells = ["-" if p is None else f"{p:.1f}" for p in (*percents, None)]
        lines.append(f"{'paper: ' + method:24}" + "".join(f"{cell:>16}" for cell in cells))
    if metrics:
        lines.append("paper: on ImageNet")
    if result["advice"]:
        lines.append(result["advice"])
    return "\n".join(lines)


_METRICS = ("top1", "top5", "mean_class")


def about_of(frozen, train, test, protocol) -> dict:
    """What a checkpoint depends on; the model by its weights, the data sets by their contents."""
    settings = dataclasses.asdict(protocol)
    for name in ("workdir", "seed", "seeds", "save_every", "paper"):
        del settings[name]
    return {
        **{k: list(v) if isinstance(v, tuple) else v for k, v in settings.items()},
        "weights": weights_digest(frozen.trunk),
        "compute_dtype": frozen.compute_dtype,
        "train": train.reader.dataset.fingerprint(),
        "test": test.reader.dataset.fingerprint(),
    }


def _over_seeds(metrics) -> dict | None:
    if not metrics:
        return None
    values = {name: [one[name] for one in metrics] for name in metrics[0]}
    means = {name: float(np.mean(v)) for name, v in values.items()}
    deviations = {
        f"{name}_std": float(np.std(v, ddof=1)) if len(v) > 1 else 0.0 for name, v in values.items()
    }
    return means | deviations | {"seeds": metrics}


def _percent(share, deviation, seeds):
    text = f"{100 * share:.2f}"
    return f"{text} +- {100 * deviation:.2f}" if seeds > 1 else text
