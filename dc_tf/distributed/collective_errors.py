"""Parts of a program that all workers get through, or none: no one is left waiting for the others.

    with all_or_none(cluster.world):
        look_at_own_files()                      # one worker's error of the user ends all

The error says `of_all` then, so that whoever ends the program knows that all workers get there.
"""

import contextlib

import numpy as np

from dc_tf.distributed.collectives import all_gather
from dc_tf.errors import ConfigError, DataError

_KINDS = (None, ConfigError, DataError)


@contextlib.contextmanager
def all_or_none(world):
    """Inside, workers exchange nothing, or raise together.

    Args:
        world: Communicator of the workers.

    Raises:
        ConfigError, DataError: as `refuse_together`.
    """
    refusal = None
    try:
        yield
    except (ConfigError, DataError) as error:
        refusal = error
    refuse_together(refusal, world)


def refuse_together(refusal, world):
    """Ends all workers when one of them cannot go on.

    Args:
        refusal: this worker's ConfigError or DataError, or None.
        world: Communicator of the workers.

    Raises:
        The refusal, or on a worker without one, one like that of the first worker that has one.
    """
    kind = 0 if refusal is None else 1 if isinstance(refusal, ConfigError) else 2
    kinds = all_gather(kind, world)
    refused = np.flatnonzero(kinds)
    if not refused.size:
        return
    first = refused[0]
    error = refusal or _KINDS[kinds[first]](f"worker {first} cannot go on; see what it says.")
    error.of_all = True
    raise error
