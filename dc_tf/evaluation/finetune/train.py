"""Trains a copy of a network on labelled images, on one or more workers, and measures it.

    figures = fine_tune(subject, train, test, finetune.Protocol(), Solo(), seed=0)
    figures["top1"]

The images of a batch, their crops and dropout are those of seed, epoch and step alone, so that the
result does not depend on the number of workers, beyond rounding, nor on stops.
"""

import dataclasses
import os

import numpy as np
import tensorflow as tf

from dc_tf.data.input.draws import LabelledDraws
from dc_tf.data.input.pipeline import training_batches
from dc_tf.data.storage.reader import data_errors
from dc_tf.distributed.collectives import ALONE
from dc_tf.errors import DataError
from dc_tf.evaluation.finetune.checkpoint import Position, TuningStates
from dc_tf.evaluation.finetune.step import SUMS, Tuner
from dc_tf.export.fold_sobel import FoldedVGG16, fold
from dc_tf.export.weights import copy_weights
from dc_tf.progress import Progress
from dc_tf.seeds import derive

_LOOK_EVERY = 20  # steps between two looks at the loss, each of which waits for the device


def fine_tune(subject, train, test, protocol, world, seed, name="model") -> dict:
    """Trains a copy of a network on a training split and measures it on a test split.

    Args:
        subject: models.Subject; stays as it is.
        train, test: splits.Split.
        protocol: Protocol.
        world: Communicator.
        seed: of the new layers, the order of images, crops and dropout.
        name: of its folder in `workdir`.

    Returns:
        {"top1", "top5", "mean_class": of the test split, "train_accuracy": over the last epoch,
        shares in [0, 1]; "train_loss": nats, over the last epoch}.

    Raises:
        DataError: a loss that is not finite, or an image that cannot be read.
    """
    tuner = Tuner(starting_point(subject), train.classes, protocol, world, seed)
    folder = os.path.join(protocol.workdir, f"{name}-seed{seed}") if protocol.workdir else ""
    if folder and world.rank == 0:
        os.makedirs(folder, exist_ok=True)
    states = TuningStates(folder, world)
    position = states.restore(tuner) or Position()
    steps = len(train.rows) // protocol.batch_size
    shown = Progress(
        protocol.epochs * steps,
        f"{subject.name}: fine-tuning",
        "steps",
        enabled=world.rank == 0,
        done=position.global_step,
    )
    with data_errors(), shown as progress:
        while position.epoch < protocol.epochs:
            batches = _epoch(train, protocol, subject.resolution, world, seed, position)
            position = _train_epoch(tuner, batches, steps, protocol, position, states, progress)
    return measure(tuner, subject, test, protocol, world) | {
        "train_loss": position.last["loss"],
        "train_accuracy": position.last["hits"],
    }


def one_step(subject, train, protocol):
    """A function that takes a step of this process alone, of a network of its own, to try it."""
    tuner = Tuner(starting_point(subject), train.classes, protocol, ALONE, seed=0)
    state = {"batches": iter(())}

    def step():
        with data_errors():
            batch = next(state["batches"], None)
            if batch is None:
                epoch = _epoch(train, protocol, subject.resolution, ALONE, 0, Position())
                state["batches"] = iter(epoch)
                batch = next(state["batches"])
            return tuner.step(batch["image"], batch["label"], tf.constant(0, tf.int32))

    return step


def starting_point(subject):
    """A trainable copy of the network, with Sobel, if there is one, folded into conv1."""
    trunk = subject.trunk
    if trunk.settings["sobel"] and not isinstance(trunk, FoldedVGG16):
        return fold(trunk, subject.compute_dtype)
    settings = dict(trunk.settings)
    if isinstance(trunk, FoldedVGG16):
        settings.pop("sobel")
    copy = type(trunk)(**settings, compute_dtype=subject.compute_dtype).built_at_resolution()
    copy_weights(trunk, into=copy)
    return copy


def measure(tuner, subject, split, protocol, world) -> dict:
    """Accuracies in [0, 1] on the centre crops of a split, of which each worker takes its share."""
    own = np.array_split(np.arange(len(split.rows)), world.size)[world.rank]
    counts = np.zeros((4, split.classes))  # images, hits, hits among five, unusable; by class
    batch_size = max(1, protocol.batch_size // world.size)
    share = dataclasses.replace(split, rows=split.rows[own], labels=split.labels[own])
    done = 0
    title = f"{subject.name}: test images"
    with data_errors(), Progress(len(own), title, "images", enabled=world.rank == 0) as progress:
        images = share.images(batch_size, subject.resolution, subject.short_side)
        for batch in images if len(own) else ():
            logits = tuner.logits(batch).numpy()
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
        raise DataError(
            "the fine-tuned network gives logits that are not finite; lower learning_rate."
        )
    seen = images > 0
    return {
        "top1": float(hits.sum() / images.sum()),
        "top5": float(hits5.sum() / images.sum()),
        "mean_class": float((hits[seen] / images[seen]).mean()),
    }


def _epoch(split, protocol, resolution, world, seed, position):
    """This worker's batches of what is left of an epoch."""
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


def _train_epoch(tuner, batches, steps, protocol, position, states, progress) -> Position:
    """Runs the rest of an epoch; the position after it."""
    tuner.set_rate(protocol.rate(position.epoch))
    step, number = position.step, position.global_step
    sums = tf.constant(position.sums)
    for batch in batches:
        sums += tuner.step(batch["image"], batch["label"], tf.constant(number, tf.int32))
        step, number = step + 1, number + 1
        progress.update(1)
        save = step < steps and number % protocol.save_every == 0
        if save or number % _LOOK_EVERY == 0:
            progress.update(0, epoch=position.epoch + 1, **_means(sums, number))
        if save:
            total = tuple(sums.numpy().tolist())
            here = Position(position.epoch, step, number, total, position.last)
            _save(tuner, here, states)
    means = _means(sums, number)
    progress.update(0, epoch=position.epoch + 1, **means)
    position = Position(position.epoch + 1, 0, number, last=means)
    _save(tuner, position, states)
    return position


def _save(tuner, position, states):
    # The loss was that of the weights before the last step.
    if not tuner.is_finite():
        raise _diverged("a weight is not finite", position.global_step)
    states.save(tuner, position)


def _means(sums, number) -> dict:
    """{"loss", "hits"} means over images; the loss is equal on all workers, so all stop."""
    total = dict(zip(SUMS, sums.numpy().tolist()))
    if not np.isfinite(total["loss"]):
        raise _diverged(f"the loss is {total['loss']}", number)
    return {name: total[name] / total["images"] for name in ("loss", "hits")}


def _diverged(what, step):
    return DataError(
        f"fine-tuning has diverged: {what} at step {step}; lower learning_rate. What was saved in "
        "workdir is from before and finite."
    )
