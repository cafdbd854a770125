"""Workers that start together or not at all."""

import contextlib

import numpy as np

from dc_tf import pulse
from dc_tf.distributed.cluster import connect
from dc_tf.distributed.collectives import all_gather_counts
from dc_tf.errors import ConfigError, DataError

# How long TensorFlow may take to join workers that are there. Starting a GPU takes some of that.
_JOIN_S = 60.0

_KINDS = (None, ConfigError, DataError)


def join(watchdog):
    """The cluster of all workers, once they have met; see `Watchdog.meet`."""
    with pulse.patient("joining the others"):
        watchdog.meet()
        cluster = connect(within_s=_JOIN_S)
    watchdog.joined()
    return cluster


def refuse_together(refusal, cluster):
    """Ends all workers when one of them cannot go on, instead of letting the others wait.

    Args:
        refusal: this worker's ConfigError or DataError, or None.
        cluster: `distributed.cluster.Cluster`.

    Raises:
        The refusal, or on a worker without one, one like that of the first worker that has one.
    """
    kind = 0 if refusal is None else 1 if isinstance(refusal, ConfigError) else 2
    kinds = all_gather_counts(kind, cluster.world)
    refused = np.flatnonzero(kinds)
    if not refused.size:
        return
    cluster.leave()
    first = refused[0]
    raise refusal or _KINDS[kinds[first]](f"worker {first} cannot go on; see what it says.")


@contextlib.contextmanager
def all_or_none(cluster):
    """A part of a program in which errors of the user on any worker end all of them.

    Inside, workers exchange nothing, or raise together.
    """
    refusal = None
    try:
        yield
    except (ConfigError, DataError) as error:
        refusal = error
    refuse_together(refusal, cluster)
