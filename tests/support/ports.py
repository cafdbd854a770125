"""Another process that listens on a port.

with held_port() as (port, process_id): ...
"""

import contextlib
import subprocess
import sys

_HOLD = """
import socket, sys
with socket.create_server(("", 0)) as held:
    print(held.getsockname()[1], flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def held_port():
    """Yields (port, id of the process that listens on it)."""
    command = [sys.executable, "-c", _HOLD]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield int(process.stdout.readline()), process.pid
        finally:
            process.kill()
