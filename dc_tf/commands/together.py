"""Workers that start together and end together."""

import contextlib

from dc_tf import pulse
from dc_tf.distributed.cluster import connect
from dc_tf.errors import ConfigError, DataError

# How long TensorFlow may take to join workers that are there. Starting a GPU takes some of that.
_JOIN_S = 60.0


def join(watchdog):
    """The cluster of all workers, once they have met; see `Watchdog.meet`."""
    with pulse.patient("joining the others"):
        watchdog.meet()
        cluster = connect(within_s=_JOIN_S)
    watchdog.joined()
    return cluster


@contextlib.contextmanager
def leaving(cluster, tidy=None):
    """At its end the workers leave the cluster together, unless this one fails and others do not.

    Args:
        cluster: `distributed.cluster.Cluster`.
        tidy: called on every worker then, once all have come to the end.
    """
    try:
        yield
    except (ConfigError, DataError) as error:
        if error.of_all:
            _leave(cluster, tidy)
        raise
    _leave(cluster, tidy)


def _leave(cluster, tidy):
    if tidy:
        cluster.world.barrier()
        tidy()
    cluster.leave()
