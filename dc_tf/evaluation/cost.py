"""What an evaluation will cost, from some seconds of the same work on the machine at hand.

    work = Work("1,334 images at 48 pixels", (Part("features", 1334, sample, most=256),))
    seconds = estimate(work, networks=2, world=Solo())
    print(f"knn: {work.text}: {about(seconds)} on this machine")

A task says what it does to one network as parts: how many units there are, and a function that does
some of them with the network and images of the task itself. Samples of a part grow until `SECONDS`
have passed; a sample of one, which traces the network, comes first and is not timed. The rate is by
what the last sample does and takes more than the first, so that what a call costs anyway, such as
the start of an input pipeline, hardly counts. A part takes at most twice `SECONDS` and a unit,
after the tracing, and no more memory than a batch of the task. On several workers all of them
measure at the same time, and their rates are added.

Of the work of a task the parts count what takes most of the time; the estimate is meant to be
within a factor of two.
"""

import dataclasses
import math
import time
from collections.abc import Callable

import numpy as np

from dc_tf.distributed.collective_errors import raise_on_all

SECONDS = 2.0  # for one part
_GROWTH = 8  # of samples


@dataclasses.dataclass(frozen=True)
class Part:
    """Work of one kind.

    Attributes:
        name: of the work.
        count: units of it, for one network.
        sample: function of a number of units that does so many or somewhat more, and returns how
            many.
        most: units of the largest sample.
    """

    name: str
    count: float
    sample: Callable[[int], int]
    most: int


@dataclasses.dataclass(frozen=True)
class Work:
    """What a task does to one network.

    Attributes:
        text: the amount of it for people.
        parts: of it.
    """

    text: str
    parts: tuple[Part, ...]


def estimate(work: Work, networks: int, world, clock=time.monotonic) -> float:
    """Seconds that the work takes for some networks of one shape.

    Args:
        networks: number of them.
        world: Communicator of the workers that share the work; all make the same call.
        clock: function to seconds.

    Raises:
        ConfigError, DataError: what the work itself would raise.
    """
    with raise_on_all(world):
        rates = [rate(part, clock=clock) for part in work.parts]
    rates = world.all_sum(np.array(rates, np.float64)).numpy()
    return networks * sum(part.count / per_s for part, per_s in zip(work.parts, rates))


def rate(part: Part, seconds=SECONDS, clock=time.monotonic) -> float:
    """Units a second on this worker."""
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
    """Of two samples: by what the larger one does and takes more, as far as that can be told."""
    more, longer = (b - a for a, b in zip(first, last))
    average = last[1] / last[0]
    return max(longer / more, average / _GROWTH) if more > 0 else average


def about(seconds: float) -> str:
    """A duration in one unit and one or two digits: "about 2 min"."""
    for unit, length, next_length in (
        ("s", 1, 100),
        ("min", 60, 100 * 60),
        ("h", 3600, 48 * 3600),
    ):
        if seconds < next_length:
            return f"about {max(1, round(seconds / length))} {unit}"
    return f"about {round(seconds / 86400):,} days"


def spread(rows: int, count: int) -> np.ndarray:
    """(count,) places of [0, rows), spread over all of them; repeated if there are fewer."""
    return np.arange(count) * rows // count if count <= rows else np.arange(count) % rows
