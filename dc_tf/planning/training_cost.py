"""Predicts the cost of training a stage on one worker: weights, messages and memory.

Plain arithmetic on counts; `dc_tf.clustering.cost.model` predicts the clustering between epochs.
Weights and messages are exact; the memory of activations is a lower bound.

    size = StageSize.of(experiment, stage, workers=64)
    size.weights, size.sent_bytes, size.device_bytes
"""

import dataclasses
import math

from dc_tf.clustering.cost.model import TEMPORARIES, Problem
from dc_tf.distributed.topology import Topology
from dc_tf.nn.trunk import Counts
from dc_tf.nn.trunks import feature_dim, settings_of, trunk_class
from dc_tf.planning.exchange import (
    dense_layers,
    factored,
    gradient_bytes,
    head_shapes,
    machine_of,
    own_in_blocks,
    ring,
    updated_in_blocks,
)

# Variables that an optimizer keeps per weight; those not listed keep two.
_SLOTS = {"SGD": 1, "LARS": 1, "Adagrad": 1, "RMSprop": 1, "Lion": 1, "NovoGrad": 1}
_OTHER_SLOTS = 2
_FLOAT = 4
_HALF = 2
# Batches of images decoded ahead of the step.
_BATCHES_AHEAD = 4
# Bytes per row of the data set on every worker, for clusters and draws of an epoch. 15 to 24 were
# measured (benchmarks/results/sampler.md).
_ROW_BYTES = 24


@dataclasses.dataclass(frozen=True)
class StageSize:
    """Counts and bytes of one worker during the training of a stage.

    Attributes:
        trunk_weights: trainable values of the trunk.
        projection_weights: trainable values of the projection.
        rotation_map_weights: those of the linear maps of `prototype_rotation`.
        prototype_weights: values of the prototypes that this worker holds, which are not trained.
        statistics: running means and variances of trunk and projection.
        head_weights: values of the super head and of the sub heads that this worker holds.
        all_head_weights: those of all super-classes, as in a checkpoint.
        slots: variables of the optimizer for each shared weight.
        head_slots: those for each weight of a head.
        sent_bytes: what a worker sends in one step, in a ring.
        sent_as_gradients: what it would send without factors, in float32.
        factored: names of the dense layers whose gradients travel as factors.
        activation_bytes: of one micro-batch, kept from the forward for the backward pass; a lower
            bound.
        input_bytes: of decoded images waiting, in host memory.
        row_bytes: of clusters and draws of all rows, in host memory.
    """

    trunk_weights: int
    projection_weights: int
    rotation_map_weights: int
    prototype_weights: int
    statistics: int
    head_weights: int
    all_head_weights: int
    slots: int
    head_slots: int
    sent_bytes: float
    sent_as_gradients: float
    factored: tuple[str, ...]
    unformed_gradients: int
    activation_bytes: int
    input_bytes: int
    row_bytes: int

    @classmethod
    def of(cls, experiment, stage, workers, rows=0, on_gpu=False) -> "StageSize":
        """The size of a stage on some workers.

        Args:
            experiment: experiment.Experiment.
            stage: one of its stages.
            workers: W, which fits the stage.
            rows: N of the data set.
            on_gpu: whether the workers have GPUs.
        """
        model = experiment.model
        topology = Topology(workers, stage.super_classes)
        super_head, sub_head = _heads(model, stage)
        projection, maps = _projection(model, stage), _rotation_maps(stage)
        machine = machine_of(model, on_gpu)
        layers = dense_layers(model, stage, topology, machine)
        names = factored(model, stage, topology, machine)
        as_factors = [layer for layer in layers if layer.name in names]
        sums = Messages.of(model, stage, topology, machine, as_factors).sent(topology, machine)
        plain = model.replace(exchange_dtype="float32")
        return cls(
            trunk_weights=trunk_weights(model),
            projection_weights=projection,
            rotation_map_weights=maps,
            prototype_weights=_prototypes(stage, topology),
            statistics=2 * sum(conv.outputs for conv in counts_of(model).convs)
            + 2 * stage.projection.hidden,
            head_weights=super_head + sub_head * topology.super_classes_per_worker,
            all_head_weights=super_head + sub_head * stage.super_classes,
            slots=slots(stage.optimizer),
            head_slots=slots(stage.optimizer.of_heads),
            sent_bytes=sums + sum(layer.sent_as_factors for layer in as_factors),
            sent_as_gradients=Messages.of(plain, stage, topology, machine).sent(topology, machine),
            factored=tuple(layer.name for layer in as_factors),
            unformed_gradients=_unformed_gradients(model, stage, topology, names),
            activation_bytes=_activation_bytes(model, stage, workers),
            input_bytes=_BATCHES_AHEAD
            * (stage.batch_size // workers)
            * 3
            * _FLOAT
            * sum(count * side**2 for side, count in stage.views.sizes(model.resolution)),
            row_bytes=(_ROW_BYTES + 8 * (stage.clusterings - 1)) * rows,
        )

    @property
    def weights(self) -> int:
        """Trainable values that this worker holds."""
        return self.shared_weights + self.head_weights

    @property
    def shared_weights(self) -> int:
        """Trainable values that every worker holds, except the super head."""
        return self.network_weights + self.rotation_map_weights

    @property
    def network_weights(self) -> int:
        """Trainable values of trunk and projection, which make the features."""
        return self.trunk_weights + self.projection_weights

    @property
    def state_bytes(self) -> int:
        """Weights, gradients, variables of the optimizer, running statistics and prototypes."""
        trained = self.shared_weights * (2 + self.slots) + self.head_weights * (2 + self.head_slots)
        rest = self.statistics + self.prototype_weights - self.unformed_gradients
        return _FLOAT * (trained + rest)

    @property
    def device_bytes(self) -> int:
        """Bytes on the GPU, or without one, in host memory."""
        return self.state_bytes + self.activation_bytes

    @property
    def host_bytes(self) -> int:
        """Bytes in host memory in any case, without Python and TensorFlow."""
        return self.input_bytes + self.row_bytes

    @property
    def checkpoint_bytes(self) -> int:
        """Bytes of one checkpoint, on the disk that workers share."""
        shared = self.shared_weights * (1 + self.slots)
        heads = self.all_head_weights * (1 + self.head_slots)
        return _FLOAT * (shared + heads + self.statistics)


def problem_of(experiment, stage, rows, workers) -> Problem | None:
    """The clustering of a stage, or None where it has none."""
    if not stage.clustered:
        return None
    settings, dim = stage.clustering, stage.feature_dim(feature_dim(experiment.model))
    return Problem(
        rows=rows,
        dim=settings.whitening_dim or dim,
        clusters=stage.clusters,
        sub_clusters=stage.sub_clusters,
        clusterings=stage.clusterings,
        workers=workers,
        iterations=settings.iterations,
        # "auto" is not measured yet: assume the larger type.
        precision="float32" if settings.precision == "auto" else settings.precision,
        store_dtype=settings.store_dtype,
        raw_dim=dim if settings.whiten else 0,
        memory_bytes=TEMPORARIES[False],  # a lower bound: a GPU uses more if it has it
        cache_bytes=settings.cache_bytes,
    )


def counts_of(model, resolution: int | None = None) -> Counts:
    """Sizes of the network that `experiment.Model` describes, at another resolution if given."""
    settings = settings_of(model)
    return trunk_class(model.trunk).counts(
        **settings | {"resolution": resolution or model.resolution}
    )


def trunk_weights(model) -> int:
    """Its trainable values."""
    counts = counts_of(model)
    dense = sum((inputs + 1) * outputs for inputs, outputs in counts.dense)
    return sum(conv.weights for conv in counts.convs) + dense


def slots(optimizer) -> int:
    """Variables that an optimizer with default options keeps per weight."""
    return _SLOTS.get(optimizer.name, _OTHER_SLOTS) + bool(optimizer.wrapper)


def _heads(model, stage):
    """Values of the super head, and of one sub head."""
    shapes = head_shapes(model, stage)
    sizes = {name: (inputs + 1) * outputs for name, (inputs, outputs) in shapes.items()}
    return sizes["super head"], sizes.get("sub head", 0)


def _unformed_gradients(model, stage, topology, names):
    """Values of the gradients of heads that a worker updates from factors, some rows at a time."""
    own, total = own_in_blocks(model, stage, topology), 0
    for name, (inputs, outputs) in head_shapes(model, stage).items():
        of_sum = name in names and updated_in_blocks(inputs * outputs, stage.optimizer)
        if name in own or of_sum:
            of_sub = name == "sub head"
            held = topology.super_classes_per_worker if of_sub else 1
            rows = stage.batch_size * stage.views.count // (topology.super_classes if of_sub else 1)
            # The factors take the gradient's place.
            total += held * max(0, inputs * outputs - rows * (inputs + outputs))
    return total


def _projection(model, stage):
    """Trainable values of the projection; its hidden layer has a scale and a shift."""
    hidden, dim = stage.projection.hidden, stage.projection.dim
    if not dim:
        return 0
    inputs = feature_dim(model)
    return hidden * (inputs + 2) + ((hidden or inputs) + 1) * dim


def _rotation_maps(stage):
    """Values of the linear maps between features and prototypes."""
    mapped = stage.has_prototypes and stage.prototype_rotation == "mapped"
    return stage.rotations * stage.projection.dim**2 if mapped else 0


def _prototypes(stage, topology):
    """Values of the prototypes of the clusters that a worker serves, at most."""
    if not stage.has_prototypes:
        return 0
    ranks = range(0, topology.workers, topology.workers_per_super_class)
    clusters = max(len({s // stage.rotations for s in topology.served(rank)}) for rank in ranks)
    # A centroid, and whether it has rows.
    return clusters * stage.sub_classes * (stage.projection.dim + 1)


@dataclasses.dataclass(frozen=True)
class Messages:
    """Bytes that a worker puts into the sums of one step.

    Attributes:
        world: of gradients, over all workers.
        own: of gradients, over the workers that share its super-class.
        statistics: of batch norm.
        statistics_count: number of sums of batch norm.
        statistics_members: workers that share statistics.
        views: of the vectors that `Stage.contrast` compares, over the workers that share its
            super-class, in both passes.
    """

    world: int
    own: int
    statistics: int
    statistics_count: int
    statistics_members: int
    views: int

    @classmethod
    def of(cls, model, stage, topology, machine, without=()) -> "Messages":
        """Those of a step.

        Args:
            model: experiment.Model.
            stage: experiment.Stage.
            topology: Topology of the stage.
            machine: hardware.Machine of a worker.
            without: sequence of exchange.DenseLayer whose gradients travel in another way.
        """
        sharers = topology.workers_per_super_class
        world = own = 0
        super_head, sub_head = _heads(model, stage)
        shared = trunk_weights(model) + _projection(model, stage) + _rotation_maps(stage)
        if topology.workers > 1:
            # Whether a worker asks to stop; in float16 also whether the heads' are finite.
            flags = 2 if model.compute_dtype == "float16" else 1
            world = shared + super_head + flags
        if sharers > 1:
            own = sub_head * topology.super_classes_per_worker
        world -= sum(layer.weights for layer in without if layer.name != "sub head")
        own -= sum(layer.weights for layer in without if layer.name == "sub head")
        members = {"world": topology.workers, "group": sharers, "off": 1}[model.sync_batch_norm]
        statistics = _normalization(model, stage) if members > 1 else []
        return cls(
            world * gradient_bytes(model, topology.workers, machine),
            own * gradient_bytes(model, sharers, machine),
            2 * _FLOAT * sum(statistics),
            2 * len(statistics),
            members,
            2 * _FLOAT * _compared(stage) * stage.projection.dim if sharers > 1 else 0,
        )

    def sent(self, topology, machine) -> float:
        """Bytes that a worker sends."""
        sums = ring(self.world, topology.workers)
        sums += ring(self.own + self.views, topology.workers_per_super_class)
        if sums_directly(machine):
            return sums + (self.statistics_members - 1) * self.statistics
        return sums + ring(self.statistics, self.statistics_members)


def sums_directly(machine) -> bool:
    """Whether statistics travel by `distributed.collectives.direct_sum`: between CPUs."""
    return machine.device_bytes is None


def _normalization(model, stage) -> list[int]:
    """Values of each exchange of batch norm in the forward passes: a count, two a channel."""
    passes = stage.accumulate * stage.views.passes
    found = passes * [2 * conv.outputs + 1 for conv in counts_of(model).convs]
    if stage.projection.hidden:  # once over all views
        found += stage.accumulate * [2 * stage.projection.hidden + 1]
    return found


def _compared(stage):
    """Views of a super-class in a global batch that `Stage.contrast` compares."""
    views = stage.views.global_views if stage.contrast.weight else 0
    return views * stage.batch_size // stage.super_classes


def _activation_bytes(model, stage, workers):
    """Outputs of convolutions and batch norm of all views, kept for the backward pass."""
    sizes = stage.views.sizes(model.resolution)
    numbers = sum(count * counts_of(model, side).kept for side, count in sizes)
    images = math.ceil(stage.batch_size / workers / stage.accumulate)
    size = _FLOAT if model.compute_dtype in ("float32", "auto") else _HALF
    projected = 3 * stage.projection.hidden + 2 * stage.projection.dim
    # Cosines of each view of an image with those of its super-class, and their softmax.
    cosines = 2 * stage.views.global_views * _compared(stage) // stage.accumulate
    return images * (numbers * size + (stage.views.count * projected + cosines) * _FLOAT)
