"""The workers of a command that share work through a folder.

    with joined("--output=OUT", "OUT") as comm:      # alone without TF_CONFIG
        comm.rank, comm.size

TensorFlow, which takes seconds to import, is imported inside `with`.
"""

import contextlib
import functools
import os
import shutil
import typing
from collections.abc import Iterator

from dc_tf import atomic
from dc_tf.distributed import stop_request
from dc_tf.distributed.task import task_from_environment

if typing.TYPE_CHECKING:
    from dc_tf.distributed.collectives import Communicator

TIMEOUT_S = 600.0  # that a worker may be silent


@contextlib.contextmanager
def joined(setting, folder, timeout_s=TIMEOUT_S) -> Iterator["Communicator"]:
    """Inside, the workers that TF_CONFIG names have joined, and signals request a stop.

    Several workers watch one another by files in FOLDER.workers, which is removed at the end, or by
    a worker alone that finishes what they began. Call it before any other use of TensorFlow, unless
    the process is alone.

    Args:
        setting: flag that names the folder, for messages: "--output=/data/features".
        folder: that all workers see; it need not exist. "" for a process that is alone.
        timeout_s: seconds that a worker may be silent before the others end; 0: for ever.

    Raises:
        ConfigError: TF_CONFIG is wrong, or the folder cannot be used.
        Preempted: the process was asked to stop before all workers had joined.
    """
    task = task_from_environment()
    watch = f"{os.path.abspath(folder)}.workers"
    remove = functools.partial(shutil.rmtree, watch, ignore_errors=True)  # all do it at once
    if task.size == 1:
        from dc_tf.distributed.collectives import ALONE

        with stop_request.signals_handled():
            yield ALONE
        if folder:
            remove()  # what several workers have left that were stopped
        return
    from dc_tf.distributed.session import join, leaving, watched, writable

    atomic.require_mounted(folder, setting)
    heartbeats, stacks = (os.path.join(watch, name) for name in ("heartbeats", "stacks"))
    with (
        contextlib.ExitStack() as end,
        watched(setting, heartbeats, stacks, task, timeout_s) as watchdog,
    ):
        if task.rank == 0:
            with writable(setting):
                end.enter_context(atomic.locked(os.path.join(watch, "lock"), setting))
        cluster = join(watchdog)
        with leaving(cluster, watchdog, remove):
            yield cluster.world
