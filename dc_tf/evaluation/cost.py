"""Estimates how long an evaluation takes, by timing samples of its work on this machine.

    work = Work("1,334 images at 48 pixels", (Part("features", 1334, sample, most=256),))
    seconds = estimate(work, networks=2, world=Solo())
    print(f"knn: {work.text}: {about(seconds)} on this machine")

A task describes its work on one network as parts: a number of units, and a function that performs
some of them with the task's own network and images. Samples of a part grow until `SECONDS` have
passed; a first sample of one unit, which traces the network, is not timed. The rate is the
difference in units between the last and the first timed sample over the difference in time, which
cancels the fixed cost of a call, such as starting an input pipeline. After tracing, measuring a
part takes at most twice `SECONDS` plus one unit, and no more memory than a batch of the task. All
workers measure at the same time, and their rates are added.

Parts cover only the work that takes most of the time; the estimate aims at a factor of two.
"""

import dataclasses
import math
import time
from collections.abc import Callable

import numpy as np

from dc_tf.distributed.blocks import all_sum_array
from dc_tf.distributed.collective_errors import raise_on_all

SECONDS = 2.0  # of sampling per part
_GROWTH = 8  # largest ratio of a sample to the one before


@dataclasses.dataclass(frozen=True)
class Part:
    """One kind of work.

    Attributes:
        name: name of the work.
        count: number of units for one network.
        sample: function that takes a number of units, performs at least that many, and returns how
            many it performed.
        most: number of units of the largest sample.
    """

    name: str
    count: float
    sample: Callable[[int], int]
    most: int


@dataclasses.dataclass(frozen=True)
class Work:
    """The work of a task on one network.

    Attributes:
        text: the amount of work, for messages.
        parts: the kinds of work it consists of.
    """

    text: str
    parts: tuple[Part, ...]


def estimate(work: Work, networks: int, world, clock=time.monotonic) -> float:
    """Estimates the seconds that the work takes on networks of one shape.

    Args:
        networks: number of networks.
        world: Communicator of the workers that share the work; all workers must call this.
        clock: function that returns seconds.

    Raises:
        ConfigError, DataError: the errors of the work itself.
    """
    with raise_on_all(world):
        rates = [rate(part, clock=clock) for part in work.parts]
    rates = all_sum_array(np.array(rates, np.float64), world)
    return networks * sum(part.count / per_s for part, per_s in zip(work.parts, rates, strict=True))


def rate(part: Part, seconds=SECONDS, clock=time.monotonic) -> float:
    """Units per second on this worker."""
    most = max(1, min(part.most, math.ceil(part.count)))
    part.sample(1)
    first = last = _timed(part, 1, clock)
    wanted, spent = 1, first[1]
    while wanted < most and spent < seconds:
        units, took = last
        fitting = units + int((seconds - took) / _seconds_per_unit(first, last))
        wanted = min(most, max(wanted + 1, min(_GROWTH * wanted, fitting)))
        last = _timed(part, wanted, clock)
        spent += last[1]
    return 1 / _seconds_per_unit(first, last)


def _timed(part, wanted, clock):
    """(units done, seconds)."""
    start = clock()
    done = part.sample(wanted)
    return done, max(clock() - start, 1e-9)


def _seconds_per_unit(first, last):
    """Difference in time over difference in units; the average of the last sample if equal."""
    more, longer = (b - a for a, b in zip(first, last, strict=True))
    average = last[1] / last[0]
    return max(longer / more, average / _GROWTH) if more > 0 else average


def about(seconds: float) -> str:
    """Formats a duration in a single unit: "about 2 min"."""
    for unit, length, next_length in (
        ("s", 1, 100),
        ("min", 60, 100 * 60),
        ("h", 3600, 48 * 3600),
    ):
        if seconds < next_length:
            return f"about {max(1, round(seconds / length))} {unit}"
    return f"about {round(seconds / 86400):,} days"


def spread(rows: int, count: int) -> np.ndarray:
    """(count,) evenly spaced indices in [0, rows); with repeats if `rows` is smaller."""
    return np.arange(count) * rows // count if count <= rows else np.arange(count) % rows
