"""Hosts on this one machine: network namespaces on a switch, each with an address of its own.

    with Hosts(3) as hosts:
        process = hosts.start(1, ["python", ...], environment)
        hosts.cut(1)                        # its cable is out
        hosts.shape(0, "1mbit")             # its cable is slow

With `latency_s` everything takes so long from host to host; the switch is `relay.py` then.

Needs the right to make namespaces (root), and `ip` and `tc`.
"""

import os
import pathlib
import subprocess
import sys

import fork_server

PREFIX = "10.231.7."
RELAY = pathlib.Path(__file__).with_name("relay.py")
# Nothing listens at this port, but who says so can be reached.
_REACH = """
import errno, socket, sys, time
until = time.monotonic() + 20
while time.monotonic() < until:
    with socket.socket() as one:
        one.settimeout(5)
        if one.connect_ex((sys.argv[1], 9)) == errno.ECONNREFUSED:
            sys.exit()
    time.sleep(0.05)
sys.exit(f"{sys.argv[1]} does not answer")
"""


class Unavailable(Exception):
    """Namespaces cannot be made here."""


class Hosts:
    """Everything is removed on the way out, also what runs in the namespaces."""

    def __init__(self, count, latency_s=None):
        self.count = count
        self._latency_s = latency_s
        self._relay = None
        self._name = f"dctf{os.getpid() % 100_000}"

    def address(self, host) -> str:
        return f"{PREFIX}{host + 1}"

    def __enter__(self):
        try:
            self._run("ip", "link", "add", self._name, "type", "bridge")
            self._run("ip", "link", "set", self._name, "up")
            for host in range(self.count):
                self._add(host)
            if self._latency_s:
                self._put_relay_between()
        except (OSError, subprocess.CalledProcessError) as error:
            self.__exit__()
            raise Unavailable(f"{error}: {getattr(error, 'stderr', '')}") from error
        return self

    def __exit__(self, *_):
        if self._relay:
            self._relay.kill()
            self._relay.wait()
        for host in range(self.count):
            pids = self._try("ip", "netns", "pids", self._space(host)).split()
            if pids:
                self._try("kill", "-KILL", *pids)
            # A namespace is removed some time later, and with it a cable that has not been.
            self._try("ip", "link", "del", self._outside(host))
            self._try("ip", "netns", "del", self._space(host))
        self._try("ip", "link", "del", self._name)

    def start(self, host, command, **options) -> subprocess.Popen:
        return subprocess.Popen(["ip", "netns", "exec", self._space(host), *command], **options)

    def namespace(self, host) -> str:
        """File of a host's network namespace."""
        return f"/run/netns/{self._space(host)}"

    def cut(self, host):
        """Nothing reaches the host any more."""
        self._run("ip", "link", "set", self._outside(host), "down")

    def mend(self, host):
        """Returns once the host and all others reach each other.

        An address that does not answer is asked for three times, a second apart, and after the last
        all connections fail that waited for it: also those begun when the cable was in again.
        """
        self._run("ip", "link", "set", self._outside(host), "up")
        for other in set(range(self.count)) - {host}:
            for a, b in ((host, other), (other, host)):
                look = [sys.executable, "-c", _REACH, self.address(b)]
                self._run("ip", "netns", "exec", self._space(a), *look)

    def shape(self, host, rate):
        """What goes to the host goes at most at `rate`, e.g. "20mbit"."""
        limits = ("rate", rate, "burst", "64kb", "latency", "400ms")
        self._run("tc", "qdisc", "add", "dev", self._outside(host), "root", "tbf", *limits)

    def _add(self, host):
        space, outside = self._space(host), self._outside(host)
        self._run("ip", "netns", "add", space)
        pair = ("type", "veth", "peer", "name", "eth0", "netns", space)
        self._run("ip", "link", "add", outside, *pair)
        self._run("ip", "link", "set", outside, "master", self._name, "up")
        inside = ("ip", "-n", space)
        self._run(*inside, "addr", "add", f"{self.address(host)}/24", "dev", "eth0")
        self._run(*inside, "link", "set", "eth0", "up")
        self._run(*inside, "link", "set", "lo", "up")

    def _put_relay_between(self):
        outsides = [self._outside(host) for host in range(self.count)]
        for outside in outsides:
            self._run("ip", "link", "set", outside, "nomaster")
        self._relay = subprocess.Popen(
            [sys.executable, str(RELAY), str(self._latency_s), *outsides],
            preexec_fn=fork_server.die_with_parent,
        )

    def _space(self, host):
        return f"{self._name}-{host}"

    def _outside(self, host):
        return f"{self._name}v{host}"

    def _run(self, *command):
        subprocess.run(command, check=True, capture_output=True, text=True)

    def _try(self, *command) -> str:
        return subprocess.run(command, capture_output=True, text=True).stdout
