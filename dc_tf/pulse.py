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
import os
import signal
import threading
import time

from dc_tf.errors import Preempted

# What asks a process to save and end; SLURM sends the second before the time limit, and a terminal
# the third at Ctrl-C.
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)

_stop = threading.Event()
_lock = threading.Lock()  # several threads may wait at once


class _State:
    phase = "start"
    beat_at = time.monotonic()
    waits = 0
    patience = 0
    interrupted = False


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


def hear_signals() -> dict:
    """From now on `SIGNALS` ask this process to stop, and a second Ctrl-C ends it at once.

    To be called by the main thread. What is started in the background of a script stays deaf to
    the Ctrl-C that is meant for the script.

    Returns:
        {signal: handler before} of those that are heard.
    """
    heard = [number for number in SIGNALS if number != signal.SIGINT or not _ignores_interrupts()]
    return {number: signal.signal(number, _hear) for number in heard}


def reset_signals():
    """`SIGNALS` do again what they do to any process, for work that has nothing to save."""
    for number in SIGNALS:
        if number != signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)
        elif not _ignores_interrupts():
            signal.signal(number, signal.default_int_handler)


def _ignores_interrupts():
    return signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def _hear(number, _):
    if number == signal.SIGINT:
        if _State.interrupted:
            raise KeyboardInterrupt
        _State.interrupted = True
        # Not `print`: what the signal broke into may be writing itself.
        os.write(2, b"\ndc_tf: saves and ends; Ctrl-C again ends it at once.\n")
    ask_to_stop()


@contextlib.contextmanager
def stoppable():
    """Inside, `SIGNALS` ask the work to stop; for the main thread of a process that works alone."""
    before = hear_signals()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def forget():
    """As at the start of a process."""
    _stop.clear()
    _State.phase, _State.beat_at, _State.waits, _State.patience = "start", time.monotonic(), 0, 0
    _State.interrupted = False
