"""Whether this process was asked to save and end, by a signal or by another worker.

    if stop_request.requested(): ...               # save, then raise Preempted
    stop_request.raise_if_requested("files that are complete are kept")
    with stop_request.signals_handled(): ...       # in a process without a watchdog

A process has one stop request, as it has one handler a signal. This module needs no TensorFlow, so
commands use it before they import that.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

from dc_tf.errors import Preempted

# Signals that ask a process to save and end. SLURM sends SIGUSR1 before the time limit, a terminal
# sends SIGINT at Ctrl-C.
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)

_stop = threading.Event()


class _State:
    interrupted = False


def request() -> None:
    """Asks the work to save and end at its next opportunity."""
    _stop.set()


def requested() -> bool:
    return _stop.is_set()


def raise_if_requested(saved: str = "what is done is kept") -> None:
    """Raises Preempted if the process was asked to stop, for work that has nothing to save."""
    if requested():
        raise Preempted(f"was asked to stop; {saved}")


def install_handlers() -> dict:
    """Makes `SIGNALS` request a stop, and a second Ctrl-C end this process at once.

    Call it in the main thread. Where Ctrl-C is ignored, as in a background job of a script, it
    stays ignored: it is meant for the script.

    Returns:
        {signal: earlier handler} of the signals that are handled now.
    """
    handled = [n for n in SIGNALS if n != signal.SIGINT or not _ignores_interrupts()]
    return {number: signal.signal(number, _handle) for number in handled}


def restore_default_handlers() -> None:
    """Makes `SIGNALS` end this process again, for work that has nothing to save."""
    for number in SIGNALS:
        if number != signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)
        elif not _ignores_interrupts():
            signal.signal(number, signal.default_int_handler)


@contextlib.contextmanager
def signals_handled() -> Iterator[None]:
    """Inside, `SIGNALS` request a stop; for the main thread of a process without a watchdog."""
    before = install_handlers()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ignores_interrupts():
    return signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def _handle(number, _):
    if number == signal.SIGINT:
        if _State.interrupted:
            raise KeyboardInterrupt
        _State.interrupted = True
        # Not `print`: the signal may have interrupted one.
        os.write(2, b"\ndc_tf: saving before it ends; Ctrl-C again ends it at once.\n")
    request()


def reset() -> None:
    """Restores the state of a new process: no stop is requested."""
    _stop.clear()
    _State.interrupted = False
