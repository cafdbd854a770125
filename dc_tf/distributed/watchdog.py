"""Ends this process when a peer dies or hangs, and names the peer; handles signals to stop.

    with Watchdog(run.heartbeats, task, timeout_s=600, stacks=run.stacks) as watchdog:
        watchdog.rendezvous()
        cluster = connect(within_s=60)
        watchdog.joined()
        ...

Every worker writes its heartbeat to a small file (`heartbeat_files`). The chief reads all of them
and diagnoses (`diagnosis`); the others read the file of the chief, for its diagnosis and to see
that it is alive. Time in which all of a process was suspended counts neither as its silence nor as
its idleness. A worker that cannot continue writes the stacks of its threads and exits at once:
it is blocked in a call that no exception can interrupt.

SIGTERM, SIGUSR1 as SLURM sends it, and Ctrl-C request a stop of this worker (`stop_request`), and
through its heartbeat file of all.
"""

import contextlib
import faulthandler
import math
import os
import signal
import socket
import sys
import threading
import time

import tensorflow as tf
from absl import logging

from dc_tf.distributed import heartbeat, stop_request
from dc_tf.distributed.diagnosis import GONE_S, answers, diagnose, diagnose_chief, name
from dc_tf.distributed.heartbeat_files import LONGEST_LOOK, HeartbeatFiles
from dc_tf.errors import HELD_UP, PREEMPTED, Preempted

# What TensorFlow raises on a worker when a peer is lost.
_OF_PEERS = (
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
    tf.errors.UnavailableError,
    tf.errors.UnknownError,
)
# After so many seconds a worker logs which peers it waits for.
_LOG_MISSING_AFTER_S = 10.0


class Watchdog:
    """Watches inside `with`; its exit publishes how the work ended.

    Args:
        folder: of the heartbeat files, shared by all workers; made if missing.
        task: task.TaskSpec of this worker.
        timeout_s: seconds without a heartbeat or progress before a worker counts as lost; ten times
            as long in a `heartbeat.slow_operation`. 0 waits for ever for a live worker.
        stacks: folder for the stacks of a worker that the watchdog ends.
        period_s: seconds between two reads; by default 1, more for more than 32 workers.
    """

    def __init__(self, folder, task, timeout_s, stacks, period_s=None):
        self._task = task
        self._timeout_s = timeout_s or math.inf
        self._stacks = stacks
        self._period_s = period_s or max(1.0, task.size / 32)
        self._files = HeartbeatFiles(folder, task, self._period_s)
        self._broken = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._listening, self._woken = socket.socketpair()
        self._handlers = {}

    def __enter__(self):
        heartbeat.beat()
        self._install_handlers()
        if self._task.rank == 0:
            self._files.remove_old()
        self._files.write(self._status())  # an unwritable folder raises here
        self._thread.start()
        return self

    def __exit__(self, kind, error, trace):
        if isinstance(error, _OF_PEERS) and self._task.size > 1:
            # A connection broke; the diagnosis names the peer and ends this process.
            logging.debug("a collective failed: %s", error)
            self._broken = True
            with heartbeat.waiting():
                self._thread.join(min(GONE_S, self._timeout_s) + 10 * self._period_s)
        if not self._ended.is_set():
            self.end()
            self._publish(_last_status(error))
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(-1)
        self._listening.close()
        self._woken.close()

    def end(self) -> None:
        """Ends the watch: this worker no longer reads or writes heartbeat files."""
        self._ended.set()
        with contextlib.suppress(BlockingIOError):  # full of signals, which wake the thread too
            self._woken.send(b"\0")  # not a signal; the thread need not wait for its period
        self._thread.join()

    def rendezvous(self) -> None:
        """Waits until all workers are present; the watchdog ends this process if one is missing.

        TensorFlow would wait up to an hour for a missing worker, and it holds the interpreter
        meanwhile, so that neither signal handlers nor the watchdog run.

        Raises:
            Preempted: this process was asked to stop before all were present.
        """
        log_at = time.monotonic() + _LOG_MISSING_AFTER_S
        while not self._files.try_rendezvous():
            if time.monotonic() >= log_at:
                self._log_missing()
                log_at = math.inf
            stop_request.raise_if_requested(
                "it was waiting for the other workers and had not started"
            )
            heartbeat.beat()  # the missing worker is to blame, not this one
            time.sleep(self._period_s / 10)
        self._files.rendezvous_done()

    def _log_missing(self):
        missing = [name(rank, self._task.addresses) for rank in self._files.missing_ranks()]
        if self._task.rank:
            logging.warning("waiting for %s to complete the rendezvous of all workers", *missing)
        elif missing:
            logging.warning("waiting for %s", ", ".join(missing))

    def joined(self) -> None:
        """Restores the signal handlers; call it after `connect`, which replaces that of SIGTERM."""
        self._install_handlers()

    def _install_handlers(self):
        """Signals also wake the watchdog's thread: the main thread may be blocked in a call."""
        self._woken.setblocking(False)
        signal.set_wakeup_fd(self._woken.fileno(), warn_on_full_buffer=False)
        for number, before in stop_request.install_handlers().items():
            self._handlers.setdefault(number, before)

    def _watch(self):
        self._listening.settimeout(self._period_s)
        looked = time.monotonic()
        while not self._ended.is_set():
            try:
                if set(self._listening.recv(16)) & set(map(int, stop_request.SIGNALS)):
                    stop_request.request()
            except TimeoutError:
                pass  # the period passed without a signal
            now = time.monotonic()
            # As this thread, the others were kept from running.
            heartbeat.not_idle(max(0.0, now - looked - LONGEST_LOOK * self._period_s))
            looked = now
            self._look()

    def _look(self):
        self._publish({})
        diagnosis = self._diagnose()
        if diagnosis and not self._ended.is_set():
            self._end_process(diagnosis)

    def _publish(self, more):
        """Writes the heartbeat file; a full or missing disk is only logged."""
        try:
            self._files.write(self._status() | more)
        except OSError as error:
            logging.log_first_n(logging.WARNING, "heartbeat not written: %s", 1, error)

    def _diagnose(self) -> dict | None:
        """{"kind", "rank", "message"} of the reason to end, or None."""
        task, timeout_s = self._task, self._timeout_s
        ranks = range(task.size) if task.rank == 0 else (0,)
        seen = {rank: self._files.look(rank) for rank in ranks}
        if any((one.status or {}).get("stopping") for one in seen.values()):
            stop_request.request()
        if task.rank == 0:
            found = diagnose(seen, task.addresses, timeout_s, answers)
            return found and vars(found)
        published = (seen[0].status or {}).get("diagnosis")
        if published:
            return published
        found = diagnose_chief(seen[0], task.addresses, timeout_s, answers)
        return found and vars(found)

    def _end_process(self, diagnosis):
        """Publishes the diagnosis, prints it with this process's phase, and ends the process."""
        self._publish({"diagnosis": diagnosis})
        preempted = diagnosis["kind"] == "preempted"
        text = f"dc_tf: {diagnosis['message']}"
        if not preempted:
            phase = heartbeat.read()["phase"]
            text += f" This worker ({self._task.rank}) was in the phase {phase!r}"
            text += f"{self._dump_stacks()}. Start all workers again: the work resumes from what"
            text += " was saved."
        with contextlib.suppress(OSError):  # such as a full disk; the process must end
            print(text, file=sys.stderr, flush=True)
        readers = self._task.size - 1 - (diagnosis["kind"] == "gone")
        if self._task.rank == 0 and readers:
            time.sleep(3 * self._period_s)  # until the others have read it
        with contextlib.suppress(OSError):
            logging.flush()
        os._exit(PREEMPTED if preempted else HELD_UP)

    def _dump_stacks(self) -> str:
        """Writes the stacks of all threads to a file; returns a clause with the path."""
        path = os.path.join(self._stacks, f"worker-{self._task.rank:05d}.txt")
        try:
            os.makedirs(self._stacks, exist_ok=True)
            with open(path, "w", encoding="utf-8") as file:
                faulthandler.dump_traceback(file, all_threads=True)
        except OSError as error:
            return f"; its stacks could not be written ({error})"
        return f"; its stacks are in {path}"

    def _status(self):
        stopping = stop_request.requested()
        return {**heartbeat.read(), "stopping": stopping, "broken": self._broken}


def _last_status(error) -> dict:
    if error is None:
        return {"end": "done"}
    if isinstance(error, Preempted):
        return {"end": "preempted"}
    return {"end": "failed", "message": f"{type(error).__name__}: {error}"[:1000]}
