"""Ends a worker that waits for one that is gone or hangs, and says which; hears signals to stop.

    with Watchdog(run.pulses, task, timeout_s=600, stacks=run.stacks) as watchdog:
        watchdog.meet()
        cluster = connect(within_s=60)
        watchdog.joined()
        ...

Every worker says in a small file what it is at (`pulses`). The first worker looks at all of them
and judges (`verdict`); the others look at its file, for its verdict and for whether it lives. A
worker that cannot go on writes the stacks of its threads and ends at once: what blocks it is a
call that no exception reaches.

SIGTERM, SIGUSR1 as SLURM sends it, and Ctrl-C ask the work to save and stop; one worker that was
asked tells the others.
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

from dc_tf import pulse
from dc_tf.distributed.diagnosis import GONE_S, answers, judge, judge_judge, name
from dc_tf.distributed.heartbeat_files import Pulses
from dc_tf.errors import HELD_UP, PREEMPTED, Preempted

# What TensorFlow raises on a worker when another one goes away.
_OF_PEERS = (
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
    tf.errors.UnavailableError,
    tf.errors.UnknownError,
)
# After so long a worker says for whom it waits.
_TELL_S = 10.0


class Watchdog:
    """Watches from `with` on; on the way out says how the work ended.

    Args:
        folder: of the pulses, shared by all workers; made if missing.
        task: cluster.TaskSpec of this worker.
        timeout_s: seconds that a worker may be silent or do nothing; ten times as long where it
            is known to take long (`pulse.patient`). 0 waits for ever for a worker that lives.
        stacks: folder for the stacks of a worker that was held up.
        period_s: seconds between two looks; by default 1, more for more than 32 workers.
    """

    def __init__(self, folder, task, timeout_s, stacks, period_s=None):
        self._task = task
        self._timeout_s = timeout_s or math.inf
        self._stacks = stacks
        self._period_s = period_s or max(1.0, task.size / 32)
        self._pulses = Pulses(folder, task, self._period_s)
        self._broken = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._listening, self._woken = socket.socketpair()
        self._handlers = {}

    def __enter__(self):
        pulse.beat()
        self._hear_signals()
        if self._task.rank == 0:
            self._pulses.remove_old()
        self._pulses.write(self._words())  # a folder that cannot be written is an error here
        self._thread.start()
        return self

    def __exit__(self, kind, error, trace):
        if isinstance(error, _OF_PEERS) and self._task.size > 1:
            # It says that a connection broke; the verdict will say whose, and end this process.
            logging.debug("an exchange failed: %s", error)
            self._broken = True
            with pulse.waiting():
                self._thread.join(min(GONE_S, self._timeout_s) + 10 * self._period_s)
        self._ended.set()
        self._thread.join()
        self._say(_last_words(error))
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(-1)
        self._listening.close()
        self._woken.close()

    def meet(self):
        """Waits until all workers are there; the watchdog ends those who wait for one in vain.

        While TensorFlow joins them this process is deaf, since it keeps the interpreter for itself,
        and it would wait up to an hour for one that never comes. So that is waited for here.

        Raises:
            Preempted: the process was told to stop before all were there.
        """
        tell_at = time.monotonic() + _TELL_S
        while not self._pulses.meets():
            if time.monotonic() >= tell_at:
                self._tell_who_is_awaited()
                tell_at = math.inf
            pulse.stop_if_asked("it was waiting for the other workers and had not begun")
            pulse.beat()  # who does not come is to blame, not who waits
            time.sleep(self._period_s / 10)
        self._pulses.all_are_here()

    def _tell_who_is_awaited(self):
        awaited = [name(rank, self._task.addresses) for rank in self._pulses.awaited()]
        if self._task.rank:
            logging.warning("waits until %s has met all workers", *awaited)
        elif awaited:
            logging.warning("waits for %s", ", ".join(awaited))

    def joined(self):
        """Call after `connect`, in which TensorFlow has taken SIGTERM for itself."""
        self._hear_signals()

    def _hear_signals(self):
        """Signals arrive in the watchdog's thread too: the main one may be held up in a call."""
        self._woken.setblocking(False)
        signal.set_wakeup_fd(self._woken.fileno(), warn_on_full_buffer=False)
        for number, before in pulse.hear_signals().items():
            self._handlers.setdefault(number, before)

    def _watch(self):
        self._listening.settimeout(self._period_s)
        while not self._ended.is_set():
            try:
                if set(self._listening.recv(16)) & set(map(int, pulse.SIGNALS)):
                    pulse.ask_to_stop()
            except TimeoutError:
                pass  # The period is over and nothing was heard.
            self._look()

    def _look(self):
        self._say({})
        verdict = self._verdict()
        if verdict and not self._ended.is_set():
            self._conclude(verdict)

    def _say(self, words):
        """A disk that is full or away keeps this worker from being heard, and from nothing else."""
        try:
            self._pulses.write(self._words() | words)
        except OSError as error:
            logging.log_first_n(logging.WARNING, "the watchdog is not heard: %s", 1, error)

    def _verdict(self) -> dict | None:
        """{"kind", "rank", "message"} of the reason to end, or None."""
        task, timeout_s = self._task, self._timeout_s
        ranks = range(task.size) if task.rank == 0 else (0,)
        seen = {rank: self._pulses.look(rank) for rank in ranks}
        if any((one.words or {}).get("stopping") for one in seen.values()):
            pulse.ask_to_stop()
        if task.rank == 0:
            found = judge(seen, task.addresses, timeout_s, answers)
            return found and vars(found)
        told = (seen[0].words or {}).get("verdict")
        if told:
            return told
        found = judge_judge(seen[0], task.addresses, timeout_s, answers)
        return found and vars(found)

    def _conclude(self, verdict):
        """Tells the others, shows what this process was at, and ends it."""
        self._say({"verdict": verdict})
        preempted = verdict["kind"] == "preempted"
        text = f"dc_tf: {verdict['message']}"
        if not preempted:
            text += f" This worker ({self._task.rank}) was at {pulse.read()['phase']!r}"
            text += f"{self._dump_stacks()}. Start all workers again: the work goes on where it was"
            text += " saved."
        with contextlib.suppress(OSError):  # the disk of the log is full, and this must end
            print(text, file=sys.stderr, flush=True)
        readers = self._task.size - 1 - (verdict["kind"] == "gone")
        if self._task.rank == 0 and readers:
            time.sleep(3 * self._period_s)  # until the others have read it
        with contextlib.suppress(OSError):
            logging.flush()
        os._exit(PREEMPTED if preempted else HELD_UP)

    def _dump_stacks(self) -> str:
        """What all threads are at, in a file; says where."""
        path = os.path.join(self._stacks, f"worker-{self._task.rank:05d}.txt")
        try:
            os.makedirs(self._stacks, exist_ok=True)
            with open(path, "w", encoding="utf-8") as file:
                faulthandler.dump_traceback(file, all_threads=True)
        except OSError as error:
            return f"; its stacks could not be kept ({error})"
        return f"; its stacks are in {path}"

    def _words(self):
        return {**pulse.read(), "stopping": pulse.stop_asked(), "broken": self._broken}


def _last_words(error) -> dict:
    if error is None:
        return {"end": "done"}
    if isinstance(error, Preempted):
        return {"end": "preempted"}
    return {"end": "failed", "message": f"{type(error).__name__}: {error}"[:1000]}
