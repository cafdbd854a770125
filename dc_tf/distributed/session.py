"""Workers that start together and end together."""

import contextlib
from collections.abc import Iterator

from dc_tf.distributed import heartbeat
from dc_tf.distributed.cluster import Cluster, connect
from dc_tf.distributed.watchdog import Watchdog
from dc_tf.errors import ConfigError, RaisedOnAll

# How long TensorFlow may take to join workers that are running, GPU start-up included.
_JOIN_S = 60.0


@contextlib.contextmanager
def watched(setting, heartbeats, stacks, task, timeout_s) -> Iterator[Watchdog]:
    """Inside, a `Watchdog`.

    Args:
        setting: the flag that names the shared folder, for messages: "--workdir=/runs/mine".
        heartbeats, stacks, task, timeout_s: as of `Watchdog`.

    Raises:
        ConfigError: the folder cannot be made or written.
    """
    with contextlib.ExitStack() as stack:
        with writable(setting):
            watchdog = stack.enter_context(Watchdog(heartbeats, task, timeout_s, stacks))
        yield watchdog


@contextlib.contextmanager
def writable(setting) -> Iterator[None]:
    """Turns a failure to write the folder that a setting names into a ConfigError.

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


def join(watchdog) -> Cluster:
    """The cluster of all workers, after their rendezvous (`Watchdog.rendezvous`)."""
    with heartbeat.slow_operation("joining the others"):
        watchdog.rendezvous()
        cluster = connect(within_s=_JOIN_S)
    watchdog.joined()
    return cluster


@contextlib.contextmanager
def leaving(cluster, watchdog=None, tidy=None) -> Iterator[None]:
    """At its end all workers leave the cluster together, unless this one fails alone.

    Args:
        cluster: `distributed.cluster.Cluster`.
        watchdog: `Watchdog`, where there is something to tidy.
        tidy: called on every worker once all have finished and none writes heartbeats any more, so
            that it may remove their folder.
    """
    try:
        yield
    except RaisedOnAll:
        _leave(cluster, watchdog, tidy)
        raise
    _leave(cluster, watchdog, tidy)


def _leave(cluster, watchdog, tidy):
    if tidy:
        cluster.world.barrier()  # watched, since others may still be at work
        watchdog.end()
        cluster.world.barrier()
        tidy()
    cluster.leave()
