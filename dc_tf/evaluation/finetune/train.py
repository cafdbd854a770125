"""Fine-tunes a copy of a network on labelled images, on one or more workers, and evaluates it.

    metrics = fine_tune(frozen, train, test, task.Protocol(), Solo(), seed=0)
    metrics["top1"]
    fine_tuner, position = trained(frozen, train, task.Protocol(), Solo(), seed=0)

The images of a batch, their crops and dropout depend only on the seed, the epoch and the step, so
neither interruptions nor the number of workers change the result, up to rounding.
"""

import dataclasses
import os
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from dc_tf.data.input.draws import LabelledDraws
from dc_tf.data.input.pipeline import training_batches
from dc_tf.data.storage.reader import data_errors
from dc_tf.distributed import stop_request
from dc_tf.distributed.blocks import row_block
from dc_tf.distributed.collectives import ALONE
from dc_tf.errors import DataError, Preempted
from dc_tf.evaluation.finetune.checkpoint import FineTuneCheckpoints, Position
from dc_tf.evaluation.finetune.step import SUMS, FineTuner
from dc_tf.exporting.fold_sobel import fold
from dc_tf.exporting.weights import copy_weights
from dc_tf.nn.trunk import Trunk
from dc_tf.progress import Progress
from dc_tf.seeds import derive

NOT_FINITE = "the logits of the fine-tuned network are not finite; lower learning_rate."
_CHECK_EVERY = 20  # steps between checks of the loss, each of which waits for the device


def fine_tune(frozen, train, test, protocol, world, seed, name="model") -> dict:
    """Trains a copy of a network on a training split and evaluates it on a test split.

    Args:
        frozen: models.FrozenModel; not modified.
        train, test: splits.Split.
        protocol: Protocol.
        world: Communicator of the workers.
        seed: seed of the new layers, the order of images, crops and dropout.
        name: prefix of its folder in `workdir`.

    Returns:
        {"top1", "top5", "mean_class": of the test split, "train_accuracy": over the last epoch, all
        shares in [0, 1]; "train_loss": in nats, over the last epoch}.

    Raises:
        DataError: the loss is not finite, or an image cannot be read.
        Preempted: as of `trained`.
    """
    fine_tuner, position = trained(frozen, train, protocol, world, seed, name)
    return measure(fine_tuner, frozen, test, protocol, world) | {
        "train_loss": position.last["loss"],
        "train_accuracy": position.last["hits"],
    }


def trained(frozen, train, protocol, world, seed, name="model") -> tuple[FineTuner, Position]:
    """Trains a copy of a network on a training split.

    Args:
        As of `fine_tune`.

    Returns:
        The FineTuner after the last epoch, and its Position, with means over that epoch.

    Raises:
        DataError: as of `fine_tune`.
        Preempted: this process, or another worker, was asked to stop; `workdir` has the state.
    """
    fine_tuner = FineTuner(starting_point(frozen), train.classes, protocol, world, seed)
    folder = os.path.join(protocol.workdir, f"{name}-seed{seed}") if protocol.workdir else ""
    if folder and world.rank == 0:
        os.makedirs(folder, exist_ok=True)
    checkpoints = FineTuneCheckpoints(folder, world)
    position = checkpoints.restore(fine_tuner) or Position()
    steps = len(train.rows) // protocol.batch_size
    shown = Progress(
        protocol.epochs * steps,
        f"{frozen.name}: fine-tuning",
        "steps",
        enabled=world.rank == 0,
        done=position.global_step,
    )
    with data_errors(), shown as progress:
        while position.epoch < protocol.epochs:
            batches = _epoch(train, protocol, frozen.resolution, world, seed, position)
            position = _train_epoch(
                fine_tuner, batches, steps, protocol, position, checkpoints, progress, world
            )
    return fine_tuner, position


def one_step(frozen, train, protocol) -> Callable:
    """A function that runs a training step in this process only, on a copy of the network."""
    fine_tuner = FineTuner(starting_point(frozen), train.classes, protocol, ALONE, seed=0)
    state = {"batches": iter(())}

    def step():
        with data_errors():
            batch = next(state["batches"], None)
            if batch is None:
                epoch = _epoch(train, protocol, frozen.resolution, ALONE, 0, Position())
                state["batches"] = iter(epoch)
                batch = next(state["batches"])
            return fine_tuner.step(batch["image"], batch["label"], tf.constant(0, tf.int32))

    return step


def starting_point(frozen) -> Trunk:
    """A trainable copy of the network, with a Sobel stage, if any, folded into conv1."""
    trunk = frozen.trunk
    if trunk.settings["sobel"] and not trunk.folded:
        return fold(trunk, frozen.compute_dtype)
    copy = trunk.fresh(frozen.compute_dtype)
    copy_weights(trunk, into=copy)
    return copy


def measure(fine_tuner, frozen, split, protocol, world) -> dict:
    """Accuracies in [0, 1] on the centre crops of a split, which the workers share."""
    own = row_block(len(split.rows), world.rank, world.size)
    counts = np.zeros((4, split.classes))  # images, top-1 hits, top-5 hits, not finite; by class
    batch_size = max(1, protocol.batch_size // world.size)
    share = dataclasses.replace(split, rows=split.rows[own], labels=split.labels[own])
    done = 0
    title = f"{frozen.name}: test images"
    with data_errors(), Progress(len(own), title, "images", enabled=world.rank == 0) as progress:
        images = share.images(batch_size, frozen.resolution, frozen.short_side)
        for batch in images if len(own) else ():
            logits = fine_tuner.logits(batch).numpy()
            labels = share.labels[done : done + len(logits)]
            above = (logits > logits[np.arange(len(labels)), labels][:, None]).sum(1)
            hits = logits.argmax(1) == labels
            broken = ~np.isfinite(logits).all(1)
            np.add.at(counts, (slice(None), labels), [hits >= 0, hits, above < 5, broken])
            done += len(logits)
            progress.update(len(logits))
    counts = world.all_sum(counts).numpy()
    images, hits, hits5, broken = counts
    if broken.any():
        raise DataError(NOT_FINITE)
    seen = images > 0
    return {
        "top1": float(hits.sum() / images.sum()),
        "top5": float(hits5.sum() / images.sum()),
        "mean_class": float((hits[seen] / images[seen]).mean()),
    }


def _epoch(split, protocol, resolution, world, seed, position):
    """This worker's remaining batches of an epoch."""
    order = np.random.default_rng((seed, position.epoch)).permutation(len(split.rows))
    share = protocol.batch_size // world.size
    order = order[: len(order) // protocol.batch_size * protocol.batch_size]
    own = order.reshape(-1, world.size, share)[:, world.rank].reshape(-1)
    zeros = np.zeros(len(own), np.int32)
    crops = np.full(len(own), derive("fine-tuning crops", seed, position.epoch))
    draws = LabelledDraws(
        row=split.rows[own],
        rotation=zeros,
        label=split.labels[own],
        seed=np.stack([crops, own], 1).astype(np.int32),
    )
    return training_batches(
        split.reader,
        draws,
        share,
        resolution,
        min_area=protocol.min_crop_area,
        flip=protocol.flip,
        start_step=position.step,
    )


def _train_epoch(
    fine_tuner, batches, steps, protocol, position, checkpoints, progress, world
) -> Position:
    """Runs the rest of an epoch; returns the position after it."""
    fine_tuner.set_rate(protocol.rate(position.epoch))
    step, number = position.step, position.global_step
    sums, stop = tf.constant(position.sums), False
    for batch in batches:
        sums += fine_tuner.step(batch["image"], batch["label"], tf.constant(number, tf.int32))
        step, number = step + 1, number + 1
        progress.update(1)
        stop = _asked_to_stop(number, world)
        save = step < steps and (stop or number % protocol.save_every == 0)
        if save or number % _CHECK_EVERY == 0:
            progress.update(0, epoch=position.epoch + 1, **_means(sums, number))
        if save:
            total = tuple(sums.numpy().tolist())
            here = Position(position.epoch, step, number, total, position.last)
            _save(fine_tuner, here, checkpoints)
        if stop and step < steps:
            raise _stopped(number)
    means = _means(sums, number)
    progress.update(0, epoch=position.epoch + 1, **means)
    position = Position(position.epoch + 1, 0, number, last=means)
    _save(fine_tuner, position, checkpoints)
    if stop and position.epoch < protocol.epochs:
        raise _stopped(number)
    return position


def _stopped(step):
    return Preempted(f"was asked to stop, after step {step} of fine-tuning")


def _asked_to_stop(number, world) -> bool:
    """Whether any worker was asked to stop; the same on all, which exchange it every few steps."""
    if world.size == 1:
        return stop_request.requested()
    if number % _CHECK_EVERY:
        return False
    return int(world.all_sum(np.int64(stop_request.requested()))) > 0


def _save(fine_tuner, position, checkpoints):
    # The last loss is that of the weights before the last step, so check the weights too.
    if not fine_tuner.is_finite():
        raise _diverged("a weight is not finite", position.global_step)
    checkpoints.save(fine_tuner, position)


def _means(sums, number) -> dict:
    """{"loss", "hits"} means over images; raises on all workers if the loss is not finite."""
    total = dict(zip(SUMS, sums.numpy().tolist(), strict=True))
    if not np.isfinite(total["loss"]):
        raise _diverged(f"the loss is {total['loss']}", number)
    return {name: total[name] / total["images"] for name in ("loss", "hits")}


def _diverged(what, step):
    return DataError(
        f"fine-tuning has diverged: {what} at step {step}; lower learning_rate. Earlier "
        "checkpoints in workdir are finite."
    )
