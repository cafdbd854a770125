"""Keeps the log lines of TensorFlow's C++ code off the terminal, and in a file if there is one.

    begin()                # before TensorFlow is imported
    send_to("RUN/logs/worker-00000.log")
    end()

C++ code writes these lines to file descriptor 2, some of them before any log level is read. So
descriptor 2 becomes a pipe, and `sys.stderr` a duplicate of the original: Python's lines, progress
bars and tracebacks go to the terminal directly. A child process reads the pipe. It
appends TensorFlow's and gRPC's lines to the file, and passes all others on to the terminal: of C
libraries, of processes that this one starts. It outlives this process, so nothing is lost when C++
code aborts: the fatal line, the last lines before it and all later ones are shown.
`show_last` shows them before the traceback of an unexpected error.

DC_TF_TENSORFLOW_LOG=FILE names a file for any command; with - the lines stay on the terminal.
"""

import collections
import contextlib
import os
import re
import select
import signal
import socket
import sys

from absl import logging

VARIABLE = "DC_TF_TENSORFLOW_LOG"
_SHOWN_AT_A_CRASH = 10
_KEPT_LINES = 2000  # until the file is known
_END_S = 2.0
# What the process asks of the reader beside paths, which have neither.
_CATCH_UP, _SHOW = b"", b"\0"

_NATIVE = re.compile(
    rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+: ([IWEF]) \S+:\d+\] "  # TensorFlow
    # absl, which XLA and gRPC use; the same format with a .py file is absl's Python logging.
    rb"|([IWEF])\d{4} [\d:]+\.\d+ +\d+ \S+\.(?:cc|cpp|cu|h|c|inc):\d+\] "
    rb"|WARNING: All log messages before absl::InitializeLog\(\) is called"
)


class _State:
    control = None  # socket to the reader, which takes paths, and answers the other orders
    screen = None  # duplicate of the original descriptor 2
    reader = None  # process id


def begin() -> bool:
    """Diverts descriptor 2 of this process; returns whether it did.

    Call it before any thread runs, since it forks.
    """
    place = os.environ.get(VARIABLE, "")
    if place == "-" or _State.reader is not None:
        return False
    try:
        sys.stderr.flush()
        _State.screen = os.dup(2)
    except (AttributeError, OSError):  # no standard error, or its disk is full
        return False
    lines, writes = _packets()
    _State.control, orders = socket.socketpair()
    _State.reader = os.fork()
    if not _State.reader:
        _read_until_all_writers_end(lines, orders.fileno(), _State.screen)
    os.close(lines)
    orders.close()
    os.dup2(writes, 2)
    os.close(writes)
    old = sys.stderr
    sys.stderr = sys.__stderr__ = open(
        _State.screen, "w", buffering=1, encoding=old.encoding, errors=old.errors, closefd=False
    )
    logging.get_absl_handler().python_handler.stream = sys.stderr
    if place:
        send_to(place)
    return True


def send_to(path) -> None:
    """Appends the lines to a file, those kept so far included.

    Has no effect where nothing is diverted, or DC_TF_TENSORFLOW_LOG names another file.
    """
    named = os.environ.get(VARIABLE) or path
    if _State.control is not None:
        _send_to_reader(os.fsencode(os.path.abspath(os.path.expanduser(named))))


def _send_to_reader(line) -> bool:
    try:
        _State.control.sendall(line + b"\n")
        return True
    except OSError as error:  # it was killed
        logging.debug("the reader of descriptor 2 is gone: %s", error)
        return False


def end() -> None:
    """Restores descriptor 2, once all that was written to it has arrived."""
    if _State.reader is None:
        return
    os.dup2(_State.screen, 2)
    # Do not wait for the end of the pipe: a child process may still hold it.
    _ask_reader(_CATCH_UP)
    _State.control.close()
    _State.control = _State.reader = None


def show_last() -> None:
    """Shows the last lines that were kept off the terminal, and names the file of all, if any."""
    if _State.reader is not None:
        _ask_reader(_SHOW)


def _ask_reader(order):
    """Sends an order and waits for its answer."""
    if _send_to_reader(order) and select.select([_State.control], [], [], _END_S)[0]:
        # Without a writer left, it has read all and ended before it read the order.
        with contextlib.suppress(ConnectionResetError):
            _State.control.recv(1)


def _packets():
    """A pipe whose reads return single writes, where the system has that."""
    try:
        return os.pipe2(os.O_CLOEXEC | os.O_DIRECT)
    except OSError:
        return os.pipe()


def _read_until_all_writers_end(lines, orders, screen):
    """The child: ends with the last process that holds descriptor 2."""
    try:
        os.setsid()  # so that a signal to the process group leaves the last lines
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGPIPE):
            signal.signal(number, signal.SIG_IGN)
        nothing = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):  # so that a reader of stdout sees its end
            os.dup2(nothing, number)
        first = 3
        for number in sorted((lines, orders, screen)):
            os.closerange(first, number)
            first = number + 1
        os.closerange(first, os.sysconf("SC_OPEN_MAX"))
        sorter = Sorter(screen)
        watched = [lines, orders]
        while lines in watched:
            for ready in select.select(watched, [], [])[0]:
                data = os.read(ready, 1 << 16)
                if not data:
                    watched.remove(ready)
                elif ready == lines:
                    sorter.add(data)
                else:
                    for order in data.splitlines():
                        if order not in (_CATCH_UP, _SHOW):
                            sorter.log_to(order)
                            continue
                        _catch_up(lines, sorter)
                        if order == _SHOW:
                            sorter.show_last()
                        os.write(orders, b"\n")
        sorter.finish()
    finally:
        os._exit(0)


def _catch_up(lines, sorter):
    """Reads what is in the pipe."""
    while select.select([lines], [], [], 0)[0] and (data := os.read(lines, 1 << 16)):
        sorter.add(data)


class Sorter:
    """Splits what was written to descriptor 2 into lines, for the file and for the screen.

    Args:
        screen: file descriptor.
    """

    def __init__(self, screen):
        self._screen = screen
        self._log = None
        self._path = None
        self._early = collections.deque(maxlen=_KEPT_LINES)
        self._last = collections.deque(maxlen=_SHOWN_AT_A_CRASH)
        self._rest = b""
        self._is_native = False  # whether the line before was; a message may have several
        self._crashed = False

    def log_to(self, path) -> None:
        try:
            self._log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        except OSError as error:
            _write(
                self._screen, f"dc_tf: the log of TensorFlow cannot be written: {error}.\n".encode()
            )
            return
        self._path = path
        while self._early:
            _write(self._log, self._early.popleft())

    def add(self, data) -> None:
        """Adds the data of one write."""
        if not self._rest:
            self._is_native = False
        *whole, self._rest = (self._rest + data).split(b"\n")
        for line in whole:
            self._sort(line + b"\n")

    def finish(self) -> None:
        if self._rest:
            self._sort(self._rest + b"\n")

    def _sort(self, line):
        found = _NATIVE.match(line)
        if found:
            self._is_native = True
        if (found and b"F" in found.groups()) or line.startswith(b"Fatal Python error"):
            self._crash()
        if self._is_native:
            self._keep(line)
        if self._crashed or not self._is_native:
            _write(self._screen, line)

    def _keep(self, line):
        self._last.append(line)
        if self._log is None:
            self._early.append(line)
        else:
            _write(self._log, line)

    def show_last(self) -> None:
        """Shows the last lines that were kept off the screen, if there are any."""
        if self._last and not self._crashed:
            _write(self._screen, b"dc_tf: the last lines of TensorFlow itself:\n")
            self._show("")

    def _crash(self):
        """Shows the last lines; later ones are shown as they come."""
        if not self._crashed:
            self._crashed = True
            self._show("crashed; ")

    def _show(self, why):
        _write(self._screen, b"".join(self._last))
        if self._path:
            place = f"dc_tf: {why}TensorFlow's log is in {os.fsdecode(self._path)}.\n"
            _write(self._screen, place.encode())


def _write(descriptor, data):
    """Writes all of `data`; a full disk or closed terminal must not stop the reader."""
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    except OSError:
        return
