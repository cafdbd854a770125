"""Commands on a terminal of their own.

code, shown = terminals.run([sys.executable, "-m", "dc_tf", "inspect", folder])
"""

import fcntl
import os
import pty
import struct
import termios


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
