"""A program on a pseudo-terminal of its own, as a user has it, and what is left of it.

with Terminal([sys.executable, "launch/quickstart.py"], limit_s=60) as terminal:
    terminal.wait_for("Training")
    terminal.interrupt()                 # Ctrl-C: the kernel signals the foreground group
    code = terminal.wait()
terminal.left_over()

code, shown = run([sys.executable, "-m", "dc_tf", "inspect", folder])   # to its end
"""

import fcntl
import os
import pathlib
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import threading
import time
import uuid

_MARK = "DC_TF_TEST_TERMINAL"
_POLL_S = 0.02


class Terminal:
    """A process that leads the foreground group of a pseudo-terminal.

    Args:
        command: list of str.
        limit_s: seconds that all of it may take.
        environment: dict, over that of this process.
    """

    def __init__(self, command, limit_s, environment=None):
        self._until = time.monotonic() + limit_s
        self._mark = uuid.uuid4().hex
        self._text = ""
        self._hung_up = False
        self._own, theirs = pty.openpty()
        # A new one has no columns, so that a progress bar would not show.
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        self.process = subprocess.Popen(
            command,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            # Users have buffers, which the shell that started the tests may not.
            env={**os.environ, "PYTHONUNBUFFERED": "", **(environment or {}), _MARK: self._mark},
            start_new_session=True,
            preexec_fn=_take_terminal,
        )
        os.close(theirs)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for pid in self._pids():
            os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self._reader.join(timeout=5)
        if not self._hung_up:
            os.close(self._own)

    @property
    def text(self):
        """All that was written, lines ending in a newline."""
        return self._text.replace("\r\n", "\n")

    def wait_for(self, pattern):
        """Waits until what was written matches; an AssertionError where it does not in time."""
        while not re.search(pattern, self.text):
            ended = self.process.poll() is not None
            if ended:
                self._reader.join(timeout=5)
            if time.monotonic() > self._until or ended and not re.search(pattern, self.text):
                how = "ended" if ended else "is late"
                raise AssertionError(f"{how} without {pattern!r}:\n{self.text[-4000:]}")
            time.sleep(_POLL_S)

    def interrupt(self):
        """A real Ctrl-C."""
        os.write(self._own, b"\x03")

    def hang_up(self):
        """Closes the terminal's window: SIGHUP, and nothing can be written any more."""
        self._hung_up = True
        self._reader.join(timeout=5)
        os.close(self._own)

    def wait(self):
        """The exit code; the output is complete then."""
        try:
            code = self.process.wait(max(0.1, self._until - time.monotonic()))
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"does not end:\n{self.text[-4000:]}") from error
        self._reader.join(timeout=5)
        return code

    def left_over(self, within_s=3.0):
        """Command lines of processes that were started inside and still run after so long."""
        until = time.monotonic() + within_s
        while self._pids() and time.monotonic() < until:
            time.sleep(_POLL_S)
        return [_command(pid) for pid in self._pids()]

    def _pids(self):
        return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if self._is(pid)]

    def _is(self, pid):
        mark = f"{_MARK}={self._mark}".encode()
        try:
            return mark in pathlib.Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:  # gone meanwhile, or of somebody else
            return False

    def _read(self):
        while not self._hung_up:
            try:
                ready, _, _ = select.select([self._own], [], [], _POLL_S)
                read = os.read(self._own, 65536) if ready else b""
            except OSError:  # nobody has the other end open
                return
            self._text += read.decode(errors="replace")


def _take_terminal():
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    for number in (signal.SIGINT, signal.SIGHUP):  # ignored in the background and under nohup
        signal.signal(number, signal.SIG_DFL)


def _command(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def run(command, environment=None, size=(40, 100)):
    """(exit code, all that it writes to the terminal, as str) of a command.

    Args:
        command: list of str.
        environment: dict; None is that of this process.
        size: lines and columns.
    """
    pid, terminal = pty.fork()
    if not pid:
        try:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
            os.execvpe(command[0], command, environment or os.environ)
        finally:
            os._exit(127)
    shown = b""
    while data := _read(terminal):
        shown += data
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), shown.decode(errors="replace")


def last_state(shown):
    """The lines that stand on the terminal in the end: of a line that moved, its last state."""
    lines = shown.replace("\r\n", "\n").split("\n")
    return [line.replace("\x1b[K", "").rstrip("\r").rpartition("\r")[2].rstrip() for line in lines]


def _read(terminal):
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # how a terminal ends
        return b""
