"""What this process is at, and whether it gets on; whether it was asked to stop.

    pulse.beat("extract")                        # another piece is done
    with pulse.patient("first step"): ...        # may take long without a beat
    with pulse.waiting("sums of gradients"): ... # for other workers
    if pulse.stop_asked(): ...                   # save, then raise Preempted
    with pulse.stoppable(): ...                  # where no watchdog hears the signals

Work beats, whoever it is for; the watchdog (`distributed/watchdog.py`) listens. There is one pulse
a process, as there is one signal handler.
"""

import contextlib
import signal
import threading
import time

from dc_tf.errors import Preempted

# What asks a process to save and end; SLURM sends the second before the time limit.
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)

_stop = threading.Event()
_lock = threading.Lock()  # several threads may wait at once


class _State:
    phase = "start"
    beat_at = time.monotonic()
    waits = 0
    patience = 0


def beat(phase=None):
    """Says that work goes on; `phase` names it, a few words."""
    _State.beat_at = time.monotonic()
    if phase is not None:
        _State.phase = phase


@contextlib.contextmanager
def patient(phase):
    """Inside, nothing beats though all is well: a compilation, a large file."""
    with _entered("patience", phase):
        yield


@contextlib.contextmanager
def waiting(phase=None):
    """Inside, this process may be waiting for other workers."""
    with _entered("waits", phase):
        yield


@contextlib.contextmanager
def _entered(name, phase):
    beat(phase)
    _add(name, 1)
    try:
        yield
    finally:
        _add(name, -1)
        beat()


def _add(name, amount):
    with _lock:
        setattr(_State, name, getattr(_State, name) + amount)


def read() -> dict:
    """JSON-ready: `phase`; `idle_s` since the last beat; `waits`, `patient`: true inside these."""
    return {
        "phase": _State.phase,
        "idle_s": round(time.monotonic() - _State.beat_at, 3),
        "waits": _State.waits > 0,
        "patient": _State.patience > 0,
    }


def ask_to_stop():
    """Asks the work to save and end at its next chance."""
    _stop.set()


def stop_asked() -> bool:
    return _stop.is_set()


def stop_if_asked(saved: str = "what is done is kept"):
    """Raises Preempted if the process was asked to stop, for work that has nothing to save."""
    if stop_asked():
        raise Preempted(f"was asked to stop; {saved}")


@contextlib.contextmanager
def stoppable():
    """Inside, `SIGNALS` ask the work to stop; for the main thread of a process that works alone."""
    before = {number: signal.signal(number, lambda *_: ask_to_stop()) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def forget():
    """As at the start of a process."""
    _stop.clear()
    _State.phase, _State.beat_at, _State.waits, _State.patience = "start", time.monotonic(), 0, 0
