"""Linear classifiers on the frozen features of each layer, the paper's linear evaluation.

Features are taken after ReLU and average-pooled without padding to under 10,000 dimensions. One
forward pass of the network serves the classifiers of all layers.

    results = evaluate(frozen, train, test, ["conv13"], Protocol())

With `train_split` and `test_split`, `--train` is a VOC development kit, whose images may have
several classes: the classifiers are logistic regressions, measured by mean average precision.

With `augment` the network processes new random crops in every epoch. Without it, features of centre
crops are computed once and cached. Test images are always centre crops.

Reference: Caron et al. 2019, Figure 2 and Table 4; docs/reference.md, section 5.
"""

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import tensorflow as tf

from dc_tf.distributed.collectives import ALONE
from dc_tf.errors import ConfigError, DataError
from dc_tf.evaluation.average_precision import classes_of
from dc_tf.evaluation.cost import Part, Work
from dc_tf.evaluation.frozen import by_layer
from dc_tf.evaluation.frozen.features import (
    Extractor,
    FeatureCache,
    extract,
    item_shape,
    own_batches,
)
from dc_tf.evaluation.frozen.pooling import MAX_FEATURES, PAPER_KERNELS, grid_average
from dc_tf.evaluation.frozen.probes import Probes
from dc_tf.evaluation.metrics import accuracy, classes_above, mean_class_accuracy
from dc_tf.evaluation.paper import (
    AUTO,
    LINEAR_DATA,
    by_convolution,
    check_setting,
    data_of,
    labelled_data,
)
from dc_tf.evaluation.voc07.images import MultiLabelSplit, open_voc, voc_facts
from dc_tf.evaluation.work import forward_part, text_of, wait
from dc_tf.nn.trunks import TRUNKS, all_layer_names
from dc_tf.progress import Progress

# Initial learning rates of the paper's classifiers on ImageNet.
IMAGENET_RATES = by_convolution(
    (0.005, 0.01, 0.03, 0.03, 0.03, 0.03, 0.02, 0.03, 0.03, 0.03, 0.02, 0.02, 0.02)
)
OTHER_RATE = 0.02  # conv13's; the paper has no classifiers on fc6 and fc7, and no ResNets
_FIRST_SEED = 1 << 20  # of augmentation; keeps it distinct from the seed of the order

# Takes minutes on a CPU: features of centre crops are computed once, standardised and cached.
SMALL = {
    "epochs": 10,
    "augment": False,
    "standardize": True,
    "learning_rate": 2.0,
    "max_features": 2500,
}
_IMAGENET_IMAGES, _VOC07_IMAGES = 1_281_167, 5_011
_PAPER_VOC07 = {"epochs": 60, "batch_size": 128, "learning_rate": 0.02}


@dataclasses.dataclass(frozen=True)
class Protocol:
    """Settings; the defaults are the paper's.

    Attributes:
        epochs: passes over the training split.
        batch_size: images per step, and per batch through the network.
        learning_rate: initial learning rate of all layers; None to use `rates`.
        rates: initial learning rates by layer; OTHER_RATE for layers not listed.
        paper: the paper's data set whose results are shown beside: "auto" to recognise it, see
            `paper`; "imagenet", "places205" or "voc07"; "" for none.
        train_split, test_split: lists of a VOC development kit; "" for data sets with one label
            per image.
        augment: use a new random crop and flip in each epoch; otherwise features are cached.
        standardize: shift each dimension to mean 0 and scale vectors to length about 1, by the
            statistics of an epoch of training images. The paper does not do this; a learning rate
            of 2 (stable up to 7) then fits all layers, and few epochs are enough.
        max_features: bound on a classifier's input dimensions.
        scratch: folder for features that do not fit memory; None for the system's temporary folder.
        momentum, weight_decay: of SGD.
        seed: of the order of the images and of augmentation.
    """

    epochs: int = 100
    batch_size: int = 256
    learning_rate: float | None = None
    rates: dict = dataclasses.field(default_factory=lambda: dict(IMAGENET_RATES))
    paper: str = AUTO
    train_split: str = ""
    test_split: str = ""
    momentum: float = 0.9
    weight_decay: float = 1e-5
    augment: bool = True
    standardize: bool = False
    max_features: int = MAX_FEATURES
    seed: int = 0
    scratch: str | None = None

    def __post_init__(self):
        for name in ("epochs", "batch_size", "max_features"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; use at least 1.")
        check_setting(self.paper, LINEAR_DATA)
        if bool(self.train_split) != bool(self.test_split):
            raise ConfigError("only one of train_split and test_split is set; set both or neither.")
        known = all_layer_names()
        unknown = sorted(set(self.rates) - set(known))
        if unknown:
            raise ConfigError(f"rates has {', '.join(unknown)}; use {', '.join(known)}.")
        for rate in (*self.rates.values(), self.learning_rate):
            if rate is not None and not (isinstance(rate, int | float) and rate > 0):
                raise ConfigError(f"learning_rate or a rate is {rate!r}; use positive ones.")

    def rate(self, layer: str) -> float:
        """Initial learning rate of a layer's classifier."""
        if self.learning_rate is not None:
            return self.learning_rate
        return self.rates.get(layer, OTHER_RATE)


def paper_variant(given: dict) -> tuple[dict, int]:
    """See `protocols`. Learning rates are those for ImageNet, or for conv13 on VOC 2007."""
    if given.get("train_split"):
        return _PAPER_VOC07, _VOC07_IMAGES
    return {}, _IMAGENET_IMAGES


def run(request, protocol: Protocol) -> tuple[dict, str]:
    """Runs the task; see `tasks`."""
    if request.features is not None:
        _check_given(protocol)
    return by_layer.run(
        evaluate,
        request,
        protocol,
        work,
        open_splits=_open_voc if protocol.train_split else None,
        paper_data=_paper_data,
    )


def work(frozen, train, test, layers, protocol: Protocol) -> Work:
    """The work: features, once or of new crops in each epoch, and all training steps."""
    pools = _pools(frozen.trunk, layers, protocol.max_features)
    extractor = Extractor(frozen.trunk, pools)
    batch_size = min(protocol.batch_size, len(train.rows))
    # Standardisation adds a pass over the images before the first epoch.
    passes = protocol.epochs + protocol.standardize if protocol.augment else 1
    images = passes * len(train.rows) + len(test.rows)
    steps = protocol.epochs * (len(train.rows) // batch_size)
    return Work(
        text_of(frozen, train, test, f"{protocol.epochs} epochs"),
        (
            forward_part(extractor, frozen, train, images, batch_size),
            Part("steps", steps, _steps(extractor.dims, train, batch_size, protocol), steps),
        ),
    )


def _steps(dims, train, batch_size, protocol):
    """A function that runs training steps of the classifiers on random features."""
    random = np.random.default_rng(0)
    rows = min(len(train.rows), 4 * batch_size)
    shapes = {layer: (rows, dim) for layer, dim in dims.items()}
    features = {layer: random.random(shape, np.float32) for layer, shape in shapes.items()}
    features = {layer: values.astype(np.float16) for layer, values in features.items()}
    labels = train.labels[:rows]
    rates = dict.fromkeys(dims, 1e-6)
    probes = Probes(dims, train.classes, rates, protocol.momentum, protocol.weight_decay)

    def sample(steps):
        for _ in range(steps):
            rows = np.sort(random.choice(len(labels), batch_size, replace=False))
            own = {layer: values[rows] for layer, values in features.items()}
            wait(probes.step(own, labels[rows]))
        return steps

    return sample


def _check_given(protocol):
    """Refuses what needs images rather than features."""
    if protocol.augment:
        raise ConfigError(
            "augment is true, but features have no crops to draw; use --protocol=small, or set "
            "augment=false."
        )
    if protocol.train_split:
        raise ConfigError("train_split is of a development kit; --features needs data sets.")


def _open_voc(request, protocol):
    splits = open_voc(request, (protocol.train_split, protocol.test_split))
    return [MultiLabelSplit.of(split) for split in splits]


def _paper_data(protocol, train, test) -> str:
    if protocol.train_split:
        facts = voc_facts(train.split, test.split)
    else:
        facts = labelled_data(train.classes, len(train.rows), len(test.rows))
    return data_of(protocol.paper, facts, LINEAR_DATA)


def evaluate(frozen, train, test, layers, protocol: Protocol, world=ALONE) -> dict:
    """Trains the classifiers on a training split and evaluates them on a test split.

    Args:
        frozen: models.FrozenModel.
        train, test: splits.Split, or MultiLabelSplit.
        layers: names of layers.
        world: Communicator of the workers that share the layers.

    Returns:
        {own layer: {"top1", "top5", "mean_class": shares in [0, 1], "train_loss": in nats, over the
        last epoch, "dimensions": int}}; with several labels per image, "map" and "map_11_points"
        instead of the first three.

    Raises:
        ConfigError: a setting has an invalid value.
        DataError: the loss is not finite.
    """
    pools = _pools(frozen.trunk, layers, protocol.max_features)
    extractor = Extractor(frozen.trunk, pools, world)
    rates = {layer: protocol.rate(layer) for layer in extractor.layers}
    probes = Probes(
        extractor.dims,
        train.classes,
        rates,
        protocol.momentum,
        protocol.weight_decay,
        protocol.seed,
    )
    with FeatureCache(protocol.scratch) as cache:
        if protocol.augment:
            epoch_batches = _streamed(frozen, extractor, train, protocol, world)
        else:
            what = f"{frozen.name}: features of train images"
            arrays = extract(extractor, frozen, train, cache, protocol.batch_size, "float16", what)
            epoch_batches = _cached(arrays, train.labels, protocol)
        if protocol.standardize:
            _standardize(probes, (features for features, _ in epoch_batches(0)))
        losses = _train(probes, epoch_batches, train, protocol, frozen.name, world.rank == 0)
    results = _test(probes, extractor, frozen, test, protocol)
    for layer, metrics in results.items():
        metrics.update(train_loss=losses[layer], dimensions=extractor.dims[layer])
    return results


def _pools(trunk, layers, max_features):
    resolution = trunk.settings["resolution"]
    shapes = trunk(tf.zeros([1, *item_shape(trunk)]))
    kernels = PAPER_KERNELS if trunk.kind == "vgg16" else {}
    found = {}
    for layer in layers:
        shape = shapes[layer].shape[1:]
        # Vectors of other networks are features as they are, not before a ReLU.
        as_it_is = len(shape) == 1 and trunk.kind not in TRUNKS
        pool = grid_average(layer, shape, resolution, max_features, kernels)
        found[layer] = tf.identity if as_it_is else pool
    return found


def _streamed(frozen, extractor, split, protocol, world):
    """A function that yields an epoch's batches of (features, labels), augmented."""
    rows = len(split.rows)
    batch_size = min(protocol.batch_size, rows)

    def batches(epoch):
        order = np.random.default_rng((protocol.seed, epoch)).permutation(rows)
        order = order[: rows - rows % batch_size]
        own = order[own_batches(len(order), batch_size, world)]
        images = _augmented(frozen, split, own, batch_size, _FIRST_SEED + protocol.seed + epoch)
        for number, features in enumerate(extractor.in_turn(images, len(order), batch_size)):
            start = number * batch_size
            yield features, split.labels[order[start : start + batch_size]]

    return batches


def _augmented(frozen, split, places, batch_size, seed):
    """Batches of random crops of a split's rows, given by their indices."""
    if not len(places):  # there are fewer batches than workers
        return iter(())
    seeds = np.stack([np.full(len(places), seed), places], 1).astype(np.int32)
    return split.augmented(places, seeds, batch_size, frozen.resolution)


def _cached(arrays, labels, protocol):
    """A function that yields an epoch's batches of (features, labels), with one prefetched."""
    batch_size = min(protocol.batch_size, len(labels))

    def gather(chosen):
        chosen = np.sort(chosen)  # read memory and disk sequentially
        return {layer: array[chosen] for layer, array in arrays.items()}, labels[chosen]

    def batches(epoch):
        order = np.random.default_rng((protocol.seed, epoch)).permutation(len(labels))
        steps = len(labels) // batch_size
        parts = [order[i * batch_size : (i + 1) * batch_size] for i in range(steps)]
        with ThreadPoolExecutor(1) as ahead:
            waiting = ahead.submit(gather, parts[0])
            for following in [*parts[1:], None]:
                ready = waiting.result()
                if following is not None:
                    waiting = ahead.submit(gather, following)
                yield ready

    return batches


def _standardize(probes, batches):
    """Sets each classifier's input statistics from float64 sums per dimension."""
    count, sums, squares = 0, {}, {}
    for batch in batches:
        for layer, x in batch.items():
            total, square = _moments(x)
            sums[layer] = sums.get(layer, 0) + total.numpy().astype(np.float64)
            squares[layer] = squares.get(layer, 0) + square.numpy().astype(np.float64)
        count += len(x)
    for layer in sums:
        mean = sums[layer] / count
        variance = np.maximum(squares[layer] / count - mean**2, 0)
        # Rounding errors of a constant dimension must not be scaled up to unit variance.
        variance[variance <= 1e-6 * mean**2] = 0
        probes.standardize(layer, mean.astype(np.float32), np.sqrt(variance).astype(np.float32))


@tf.function(reduce_retracing=True, autograph=False)
def _moments(x):
    x = tf.cast(x, tf.float32)
    return tf.reduce_sum(x, 0), tf.reduce_sum(x * x, 0)


def _train(probes, epoch_batches, split, protocol, name, shown):
    """Runs all epochs; returns the mean loss by layer over the last one."""
    what, total = f"{name}: probes", protocol.epochs * len(split.rows)
    with split.errors(), Progress(total, what, "images", shown) as progress:
        for epoch in range(protocol.epochs):
            total, steps = {}, 0
            for features, labels in epoch_batches(epoch):
                for layer, loss in probes.step(features, labels).items():
                    total[layer] = total.get(layer, 0.0) + loss
                steps += 1
                progress.update(len(labels))
            losses = {layer: float(loss) / steps for layer, loss in total.items()}
            _check_finite(losses, protocol)
            deepest = list(losses)[-1:]  # empty if this worker has no layer
            progress.update(
                0, epoch=epoch + 1, **{f"loss_{layer}": losses[layer] for layer in deepest}
            )
    return losses


def _check_finite(losses, protocol):
    for layer, loss in losses.items():
        if not np.isfinite(loss):
            raise DataError(
                f"the loss of the classifier on {layer} is {loss} at a learning rate of "
                f"{protocol.rate(layer)}; lower learning_rate, or set standardize."
            )


def _test(probes, extractor, frozen, split, protocol):
    kept = {layer: [] for layer in extractor.layers}
    what = f"{frozen.name}: features of test images"
    for start, features in extractor.over(frozen, split, protocol.batch_size, what):
        for layer, logits in probes.logits(features).items():
            labels = split.labels[start : start + len(logits)]
            kept[layer].append(_needed(logits.numpy(), labels))
    return {layer: _metrics(np.concatenate(parts), split.labels) for layer, parts in kept.items()}


def _needed(logits, labels):
    """Reduces the logits of a batch to what the metrics need.

    Returns:
        With one label per image, (b, 2) int64: the predicted class and the number of classes above
        the label. With several labels, the (b, classes) float32 logits, for average precision.
    """
    if labels.ndim == 2:
        return logits
    return np.stack([logits.argmax(1), classes_above(logits, labels)], axis=1)


def _metrics(needed, labels):
    if labels.ndim == 2:
        found = classes_of(needed, labels)
        names = {"map": "area", "map_11_points": "eleven_points"}
        return {name: float(np.nanmean(found[kind])) for name, kind in names.items()}
    predicted, above = needed.T
    return {
        "top1": accuracy(predicted, labels),
        "top5": float(np.mean(above < 5)),
        "mean_class": mean_class_accuracy(predicted, labels),
    }
