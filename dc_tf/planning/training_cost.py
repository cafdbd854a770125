"""Predicts the cost of training a stage on one worker: weights, messages and memory.

Plain arithmetic on counts; `dc_tf.clustering.cost.model` predicts the clustering between epochs.
Weights and messages are exact; the memory of activations is a lower bound.

    size = StageSize.of(experiment, stage, workers=64)
    size.weights, size.exchanged_bytes, size.memory_bytes
"""

import dataclasses
import math

from dc_tf.clustering.cost.model import TEMPORARIES, Problem
from dc_tf.distributed.topology import Topology
from dc_tf.nn.vgg16 import channels, final_map_size

# Variables that an optimizer of Keras keeps for each weight; two, where it is not listed.
_SLOTS = {"SGD": 1, "Adagrad": 1, "RMSprop": 1, "Lion": 1}
_OTHER_SLOTS = 2
_FLOAT = 4
_HALF = 2
# Batches of images that are decoded ahead of the step.
_BATCHES_AHEAD = 4
# Of a row of the data set, on every worker: its clusters and the draws of an epoch. 15 to 24 were
# measured (benchmarks/results/sampler.md).
_ROW_BYTES = 24


@dataclasses.dataclass(frozen=True)
class StageSize:
    """Counts and bytes of one worker while a stage is trained.

    Attributes:
        trunk_weights: trainable numbers of the trunk.
        statistics: its running means and variances.
        head_weights: numbers of the super head and of the sub heads that this worker holds.
        all_head_weights: the same over all super-classes, each once, as a checkpoint has them.
        slots: variables of the optimizer for each weight.
        exchanged_bytes: that a worker puts into the sums of one step.
        sent_bytes: that it sends for them in a ring.
        activation_bytes: of one part of a batch, kept from the forward for the backward pass; at
            the least.
        input_bytes: of decoded images waiting, in host memory.
        row_bytes: of what is known about each row, in host memory.
    """

    trunk_weights: int
    statistics: int
    head_weights: int
    all_head_weights: int
    slots: int
    exchanged_bytes: int
    sent_bytes: float
    activation_bytes: int
    input_bytes: int
    row_bytes: int

    @classmethod
    def of(cls, experiment, stage, workers, rows=0):
        """The size of a stage on some workers.

        Args:
            experiment: experiment.Experiment.
            stage: one of its stages.
            workers: W, which fits the stage.
            rows: N of the data set.
        """
        model = experiment.model
        topology = Topology(workers, stage.super_classes)
        super_head, sub_head = _heads(model, stage)
        world, own = _messages(model, stage, topology)
        sharers = topology.workers_per_super_class
        return cls(
            trunk_weights=trunk_weights(model),
            statistics=2 * sum(map(sum, channels(model.width))),
            head_weights=super_head + sub_head * topology.super_classes_per_worker,
            all_head_weights=super_head + sub_head * stage.super_classes,
            slots=slots(stage.optimizer),
            exchanged_bytes=world + own,
            sent_bytes=_ring(world, workers) + _ring(own, sharers),
            activation_bytes=_activation_bytes(model, stage, workers),
            input_bytes=_BATCHES_AHEAD
            * (stage.batch_size // workers)
            * 3
            * _FLOAT
            * model.resolution**2,
            row_bytes=_ROW_BYTES * rows,
        )

    @property
    def weights(self) -> int:
        """Trainable numbers that this worker holds."""
        return self.trunk_weights + self.head_weights

    @property
    def state_bytes(self) -> int:
        """Weights, their gradients and what the optimizer keeps, with the running statistics."""
        return _FLOAT * (self.weights * (2 + self.slots) + self.statistics)

    @property
    def device_bytes(self) -> int:
        """On the GPU, or where there is none, in host memory."""
        return self.state_bytes + self.activation_bytes

    @property
    def host_bytes(self) -> int:
        """In host memory in any case, without Python and TensorFlow themselves."""
        return self.input_bytes + self.row_bytes

    @property
    def checkpoint_bytes(self) -> int:
        """Of one checkpoint, on the disk that the workers share."""
        numbers = self.trunk_weights + self.all_head_weights
        return _FLOAT * (numbers * (1 + self.slots) + self.statistics)


def problem_of(experiment, stage, rows, workers) -> Problem | None:
    """The clustering of a stage, or None where it has none."""
    if not stage.clustered:
        return None
    settings, fc = stage.clustering, experiment.model.fc
    return Problem(
        rows=rows,
        dim=settings.whitening_dim or fc,
        clusters=stage.clusters,
        sub_clusters=stage.sub_clusters,
        workers=workers,
        iterations=settings.iterations,
        # Until it is measured what "auto" is: the one that takes more of everything.
        precision="float32" if settings.precision == "auto" else settings.precision,
        store_dtype=settings.store_dtype,
        raw_dim=fc,
        memory_bytes=TEMPORARIES[False],  # at the least: a GPU takes more only if it has it
        cache_bytes=settings.cache_bytes,
    )


def trunk_weights(model) -> int:
    """Trainable numbers of the VGG-16 that `experiment.Model` describes."""
    total, below = 0, 2 if model.sobel else 3
    for block in channels(model.width):
        for c in block:
            total += 9 * below * c + c + 2 * c  # kernel, bias, scale and shift
            below = c
    flat = final_map_size(model.resolution) ** 2 * below
    return total + (flat + 1) * model.fc + (model.fc + 1) * model.fc


def slots(optimizer) -> int:
    """Variables that an optimizer with its usual options keeps for each weight."""
    return _SLOTS.get(optimizer.name, _OTHER_SLOTS)


def _heads(model, stage):
    """Numbers of the super head, and of one sub head."""
    inputs, classes = model.fc + 1, stage.super_classes
    if stage.loss == "product":
        return inputs * classes * stage.sub_clusters, 0
    return inputs * classes, inputs * stage.sub_clusters


def _messages(model, stage, topology):
    """Bytes into the sums of one step over the world, and over those who share a super-class."""
    super_head, sub_head = _heads(model, stage)
    sharers = topology.workers_per_super_class
    world = _FLOAT * (trunk_weights(model) + super_head) if topology.workers > 1 else 0
    own = _FLOAT * sub_head * topology.super_classes_per_worker if sharers > 1 else 0
    if topology.workers > 1:
        # Who asks for the end; in float16 also whether the heads' gradients are finite.
        world += _FLOAT * (2 if model.compute_dtype == "float16" else 1)
    # A count and two numbers a channel, forward and backward, for each part of a batch.
    statistics = [2 * c + 1 for block in channels(model.width) for c in block]
    normalization = 2 * _FLOAT * stage.accumulate * sum(statistics)
    if model.sync_batch_norm == "world" and topology.workers > 1:
        world += normalization
    if model.sync_batch_norm == "group" and sharers > 1:
        own += normalization
    return world, own


def _activation_bytes(model, stage, workers):
    """What convolutions and their batch norm put out, kept for the backward pass."""
    numbers, side = 0, model.resolution + 2
    for block in channels(model.width):
        numbers += sum(2 * side * side * c for c in block)
        side //= 2
        numbers += side * side * block[-1]
    numbers += 3 * model.fc
    images = math.ceil(stage.batch_size / workers / stage.accumulate)
    return images * numbers * (_FLOAT if model.compute_dtype in ("float32", "auto") else _HALF)


def _ring(size, members):
    return 2 * size * (members - 1) / members
