"""This process's phase and last progress, which its watchdog publishes.

    heartbeat.beat("extract")                            # another piece is done
    with heartbeat.slow_operation("first step"): ...     # may take long without a beat
    with heartbeat.waiting("sums of gradients"): ...     # for other workers

All work beats, on one worker or many; `distributed/watchdog.py` reads. A process has one heartbeat.
This module needs no TensorFlow, so commands use it before they import that.
"""

import contextlib
import threading
import time
from collections.abc import Iterator

_lock = threading.Lock()  # several threads may wait at the same time


class _State:
    phase = "start"
    beat_at = time.monotonic()
    waits = 0
    slow_operations = 0


def beat(phase: str | None = None) -> None:
    """Records progress; `phase` names the work in a few words."""
    _State.beat_at = time.monotonic()
    if phase is not None:
        _State.phase = phase


def not_idle(seconds: float) -> None:
    """Takes off the idle time `seconds` in which the whole process was suspended, as by Ctrl-Z."""
    _State.beat_at = min(time.monotonic(), _State.beat_at + seconds)


@contextlib.contextmanager
def slow_operation(phase: str) -> Iterator[None]:
    """Inside, a long time without a beat is expected: a compilation, a large file."""
    with _counted("slow_operations", phase):
        yield


@contextlib.contextmanager
def waiting(phase: str | None = None) -> Iterator[None]:
    """Inside, this process may be waiting for other workers."""
    with _counted("waits", phase):
        yield


@contextlib.contextmanager
def _counted(name, phase):
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
    """JSON-ready: `phase`; `idle_s` since the last beat; `waits`, `slow`: true inside these."""
    return {
        "phase": _State.phase,
        "idle_s": round(time.monotonic() - _State.beat_at, 3),
        "waits": _State.waits > 0,
        "slow": _State.slow_operations > 0,
    }


def reset() -> None:
    """Restores the state of a new process, for tests."""
    _State.phase, _State.beat_at = "start", time.monotonic()
    _State.waits = _State.slow_operations = 0
