"""Workers that start together and end together."""

import contextlib

from dc_tf import pulse
from dc_tf.distributed.cluster import connect
from dc_tf.distributed.watchdog import Watchdog
from dc_tf.errors import ConfigError, DataError

# How long TensorFlow may take to join workers that are there. Starting a GPU takes some of that.
_JOIN_S = 60.0


@contextlib.contextmanager
def watched(setting, pulses, stacks, task, timeout_s):
    """Inside, a `Watchdog`.

    Args:
        setting: what names the folder that holds the others, for messages: "--workdir=/runs/mine".
        pulses, stacks, task, timeout_s: as of `Watchdog`.

    Raises:
        ConfigError: the folder cannot be made or written.
    """
    with contextlib.ExitStack() as stack:
        with writable(setting):
            watchdog = stack.enter_context(Watchdog(pulses, task, timeout_s, stacks))
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
