"""The learning rate of every step, a function of settings and position alone.

    rates = epoch_rates(stage, epoch=3, start_step=0, steps_per_epoch=1000)

A resumed run therefore continues with the rates that an uninterrupted one has.

Reference: cosine, Loshchilov & Hutter 2017, Eq. 5 without restarts; warm-up, Goyal et al. 2017,
section 2.2.
"""

import math


def learning_rate(stage, epoch: int, step: int, steps_per_epoch: int) -> float:
    """The learning rate of a step.

    With `step` it is constant except for the drops, with `cosine` it falls from the end of the
    warm-up to `final_learning_rate` at the end of the stage. In the warm-up it is multiplied by the
    share of the warm-up's steps that have been started, so the first step is not lost.

    Args:
        stage: experiment.Stage.
        epoch: of the stage, from 0.
        step: of the epoch, in [0, steps_per_epoch).
        steps_per_epoch: at least 1.
    """
    optimizer = stage.optimizer
    if optimizer.schedule == "cosine":
        rate = _cosine(optimizer, stage.epochs, epoch + step / steps_per_epoch)
    else:
        drops = sum(epoch >= drop for drop in optimizer.drops)
        rate = optimizer.learning_rate * optimizer.drop_factor**drops
    warmup_steps = optimizer.warmup_epochs * steps_per_epoch
    started = epoch * steps_per_epoch + step + 1
    return rate * started / warmup_steps if started < warmup_steps else rate


def epoch_rates(stage, epoch: int, start_step: int, steps_per_epoch: int) -> list[float]:
    """The learning rates of the steps of an epoch, from `start_step` on."""
    steps = range(start_step, steps_per_epoch)
    return [learning_rate(stage, epoch, step, steps_per_epoch) for step in steps]


def _cosine(optimizer, epochs, position):
    """The rate at `position`, in epochs; that of the stage's begin until the warm-up ends."""
    begin, end = optimizer.warmup_epochs, optimizer.final_learning_rate
    share = max(0.0, position - begin) / (epochs - begin)
    return end + (optimizer.learning_rate - end) * (1 + math.cos(math.pi * share)) / 2
