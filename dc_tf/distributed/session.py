"""Workers that start together and end together."""

import contextlib

from dc_tf.distributed import heartbeat
from dc_tf.distributed.cluster import connect
from dc_tf.distributed.watchdog import Watchdog
from dc_tf.errors import ConfigError, RaisedOnAll

# How long TensorFlow may take to join workers that are there. Starting a GPU takes some of that.
_JOIN_S = 60.0


@contextlib.contextmanager
def watched(setting, heartbeats, stacks, task, timeout_s):
    """Inside, a `Watchdog`.

    Args:
        setting: the flag that names the folder of the others, for messages: "--workdir=/runs/mine".
        heartbeats, stacks, task, timeout_s: as of `Watchdog`.

    Raises:
        ConfigError: the folder cannot be made or written.
    """
    with contextlib.ExitStack() as stack:
        with writable(setting):
            watchdog = stack.enter_context(Watchdog(heartbeats, task, timeout_s, stacks))
        yield watchdog


@contextlib.contextmanager
def writable(setting):
    """Inside, what cannot be made or written in the folder that a setting names is a ConfigError.

    Args:
        setting: as of `watched`.
    """
    try:
        yield
    except OSError as error:
        what = f"{error.strerror} ({error.filename})" if error.filename else error.strerror
        raise ConfigError(
            f"{setting} cannot be written: {what}; use a folder that all workers can write, with "
            "space left."
        ) from error


def join(watchdog):
    """The cluster of all workers, which wait for one another first; see `Watchdog.rendezvous`."""
    with heartbeat.slow_operation("joining the others"):
        watchdog.rendezvous()
        cluster = connect(within_s=_JOIN_S)
    watchdog.joined()
    return cluster


@contextlib.contextmanager
def leaving(cluster, tidy=None):
    """At its end the workers leave the cluster together, unless this one fails by itself.

    Args:
        cluster: `distributed.cluster.Cluster`.
        tidy: called on every worker then, once all have come to the end.
    """
    try:
        yield
    except RaisedOnAll:
        _leave(cluster, tidy)
        raise
    _leave(cluster, tidy)


def _leave(cluster, tidy):
    if tidy:
        cluster.world.barrier()
        tidy()
    cluster.leave()
