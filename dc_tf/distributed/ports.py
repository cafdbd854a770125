"""Checks that this worker's own port is free, before gRPC would fail without naming it.

check_own_port(task_from_environment())
"""

import errno
import os
import pathlib
import socket
import time

from dc_tf.distributed.task import TaskSpec
from dc_tf.errors import ConfigError

# An earlier run of this worker may still be ending.
_WAITS_S = (0.1, 0.4, 1.5)
_LISTENS = "0A"  # state of a socket in /proc/net/tcp, include/net/tcp_states.h


def check_own_port(task: TaskSpec) -> None:
    """Refuses a port that another process has; a process alone needs none.

    Raises:
        ConfigError: names the port, and the process that has it where that can be seen.
    """
    if task.size == 1:
        return
    address = task.addresses[task.rank]
    port = int(address.rpartition(":")[2])
    for wait_s in (*_WAITS_S, None):
        try:
            listen(port).close()
            return
        except OSError as error:
            holders = _holders(port) if error.errno == errno.EADDRINUSE else {}
            if os.getpid() in holders:
                return  # this process has joined the cluster already
            if wait_s is None or error.errno != errno.EADDRINUSE:
                raise ConfigError(_sentence(address, port, error, holders)) from error
        time.sleep(wait_s)


def listen(port: int) -> socket.socket:
    """A socket that listens on a port of all interfaces, IPv4 and IPv6, as TensorFlow does."""
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    return socket.create_server(("", port), family=family, dualstack_ipv6=dual)


def _sentence(address, port, error, holders):
    if error.errno != errno.EADDRINUSE:
        return (
            f"port {port} of this worker, {address} in TF_CONFIG, cannot be used: "
            f"{error.strerror}; use a port above 1023 that is free."
        )
    has = f"a process that `ss -ltnp sport = :{port}` shows"
    if holders:
        has = " and ".join(f"process {process} ({name})" for process, name in holders.items())
    return (
        f"port {port} of this worker, {address} in TF_CONFIG, is in use by {has}; end it (an "
        "earlier run, or two workers with one index?), or change the port on all workers."
    )


def _holders(port) -> dict[int, str]:
    """{id: name} of the processes that listen on a port, as far as Linux shows them."""
    sockets, found = {f"socket:[{inode}]" for inode in _inodes(port)}, {}
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if any(os.readlink(file) in sockets for file in (process / "fd").iterdir()):
                found[int(process.name)] = (process / "comm").read_text().strip()
        except OSError:  # it has ended, or belongs to another user
            continue
    return found


def _inodes(port):
    for table in ("tcp", "tcp6"):
        try:
            lines = pathlib.Path("/proc/net", table).read_text().splitlines()[1:]
        except OSError:
            continue
        for fields in map(str.split, lines):
            if fields[3] == _LISTENS and int(fields[1].rpartition(":")[2], 16) == port:
                yield fields[9]
