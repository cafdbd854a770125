"""Rendezvous of workers by plain TCP, before TensorFlow joins them, to exchange facts as JSON.

    with Rendezvous(task.addresses, task.rank, timeout_s=60) as rendezvous:
        found = rendezvous.exchange({"gpus": 8})      # {rank: facts of that worker}
        found = rendezvous.exchange({"failed": 0})    # and again

TensorFlow waits for a silent peer and does not say for which. Here every worker listens on its own
port of TF_CONFIG and asks every other, so each silent peer is named, and each pair that a
firewall separates. Workers may start in any order within the time.

A message carries the worker's facts and its level: it has the facts of some (0) or of all (1), or
knows that all workers have those of all (2). A worker leaves a round at level 2, once each peer has
received that level; a peer that is still in the round then needs nothing more from it.

Like TensorFlow's own connections, these have no authentication: messages are bounded in size and
parsed as JSON, and others are dropped, but anyone who reaches the port can pose as a worker.
"""

import concurrent.futures
import contextlib
import dataclasses
import json
import socket
import socketserver
import struct
import threading
import time

_MAGIC = b"dc_tf doctor 1\n"
MAX_MESSAGE_BYTES = 1 << 20
_TRY_S = 2.0  # for one connection; the other side may drop packets
_PAUSE_S = 0.1
_THREADS = 32
# How a connection fails when the other side is silent, another program, or gone.
_GONE = (OSError, ValueError, KeyError, TypeError)


class PortTaken(Exception):
    """Another process listens on this worker's own port."""


class RendezvousFailed(Exception):
    """Not all workers were reached in time.

    Attributes:
        silent: {rank: why it could not be talked to}.
        apart: {rank: ranks that it has not heard of}, of those that answer themselves.
    """

    def __init__(self, silent, apart):
        super().__init__(f"silent: {silent}, apart: {apart}")
        self.silent = silent
        self.apart = apart


@dataclasses.dataclass
class _Peer:
    """What is known about another worker in a round."""

    facts: dict | None = None
    level: int = 0
    missing: tuple = ()
    level_sent: int = -1  # highest level of this worker that it has received
    busy_at: float = 0.0  # when it last reported that it is not in this round yet
    trouble: str = "it did not answer"


class Rendezvous:
    """This worker's side of a rendezvous; it listens until it is closed.

    Args:
        addresses: "host:port" of all workers by rank; this one listens on the port of its own.
        rank: of this worker.
        timeout_s: for each exchange.

    Raises:
        PortTaken: another process listens there, such as a training that still runs.
    """

    def __init__(self, addresses, rank, timeout_s=60.0):
        self._addresses = addresses
        self._rank = rank
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._rounds = []  # of each round: (own facts, {rank: _Peer})
        self._server = _listen(_port(addresses[rank]), self._answer)

    def exchange(self, facts: dict) -> dict[int, dict]:
        """{rank: facts} of all workers, once all workers have those of all.

        Raises:
            RendezvousFailed: not within the time.
        """
        others = [rank for rank in range(len(self._addresses)) if rank != self._rank]
        peers = {rank: _Peer() for rank in others}
        with self._lock:
            self._rounds.append((facts, peers))
        number, started = len(self._rounds) - 1, time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(min(_THREADS, max(1, len(others)))) as pool:
            while unfinished := [rank for rank in others if _needs(peers[rank])]:
                list(pool.map(lambda rank: self._ask(number, rank), unfinished))
                active = max(started, *(peers[rank].busy_at for rank in unfinished))
                if time.monotonic() > active + self._timeout_s:
                    break  # at level 2 this worker has all facts; only peers lack some
                time.sleep(_PAUSE_S)
        if _level(peers) < 2:
            raise _failure(peers)
        return {self._rank: facts} | {rank: peer.facts for rank, peer in peers.items()}

    def close(self) -> None:
        """Stops listening, which frees the port for TensorFlow."""
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _ask(self, number, rank):
        """Sends a peer this worker's facts and level, and notes its answer."""
        with self._lock:
            message, level = self._message(number)
        peer = self._rounds[number][1][rank]
        try:
            answer = _talk(self._addresses[rank], message)
        except _GONE as error:
            if peer.level >= 1 and level == 2:
                peer.level_sent = 2  # it has all that it needs and has left
            peer.trouble = _reason(error)
            return
        with self._lock:
            if answer.get("rank") != rank:
                peer.trouble = f"worker {answer.get('rank')} answers there; see its TF_CONFIG"
            elif answer.get("workers") != len(self._addresses):
                peer.trouble = (
                    f"its TF_CONFIG has {answer.get('workers')} workers, not {len(self._addresses)}"
                )
            elif isinstance(answer.get("facts"), dict):
                self._note(number, answer)
                peer.level_sent = max(peer.level_sent, level)
            else:
                peer.busy_at = time.monotonic()
                peer.trouble = "it has not reached this check"

    def _answer(self, request):
        """The answer to a peer's message, which is noted as well."""
        number = request["round"]
        with self._lock:
            if not 0 <= number < len(self._rounds):
                return {"rank": self._rank, "workers": len(self._addresses), "facts": None}
            message, level = self._message(number)
            peer = self._rounds[number][1].get(request["rank"])
            if peer is not None and request["workers"] == len(self._addresses):
                self._note(number, request)
                message, level = self._message(number)
                peer.level_sent = max(peer.level_sent, level)
            return message

    def _message(self, number):
        facts, peers = self._rounds[number]
        level = _level(peers)
        missing = [rank for rank, peer in peers.items() if peer.facts is None]
        message = {"rank": self._rank, "workers": len(self._addresses), "round": number}
        return message | {"level": level, "missing": missing, "facts": facts}, level

    def _note(self, number, message):
        """Records the facts and level of a peer's message."""
        peer = self._rounds[number][1][message["rank"]]
        if isinstance(message.get("facts"), dict):
            peer.level = max(peer.level, int(message["level"]))
            peer.missing = tuple(message["missing"])
            peer.facts = message["facts"]


def _needs(peer):
    """Whether something is left to receive from a peer or to send to it."""
    return peer.level_sent < 2 or peer.level < 1


def _level(peers):
    if any(peer.facts is None for peer in peers.values()):
        return 0
    return 2 if all(peer.level >= 1 for peer in peers.values()) else 1


def _failure(peers):
    silent = {rank: peer.trouble for rank, peer in peers.items() if peer.facts is None}
    heard = {rank: peer for rank, peer in peers.items() if peer.facts is not None}
    apart = {rank: peer.missing for rank, peer in heard.items() if peer.level < 1}
    return RendezvousFailed(silent, apart)


def _listen(port, answer):
    """A server in a thread of its own; messages of other programs are dropped."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self):
            self.request.settimeout(_TRY_S)
            with contextlib.suppress(*_GONE):
                _send(self.request, answer(_receive(self.request)))

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = True
        request_queue_size = 1024

        def server_bind(self):
            if self.address_family == socket.AF_INET6:  # IPv4 as well, as TensorFlow does
                self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            super().server_bind()

    if socket.has_dualstack_ipv6():
        Server.address_family = socket.AF_INET6
    try:
        server = Server(("", port), Handler)
    except OSError as error:
        raise PortTaken(f"port {port}: {error.strerror}") from error
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    return server


def _talk(address, message):
    """Sends a message to "host:port"; returns the answer.

    Raises:
        OSError: nothing listens there. ValueError: another program does.
    """
    host = address.rpartition(":")[0].strip("[]")
    with socket.create_connection((host, _port(address)), timeout=_TRY_S) as connection:
        connection.settimeout(_TRY_S)
        _send(connection, message)
        return _receive(connection)


def _send(connection, message):
    data = json.dumps(message).encode()
    connection.sendall(_MAGIC + struct.pack("<I", len(data)) + data)


def _receive(connection):
    head = _read(connection, len(_MAGIC) + 4)
    (length,) = struct.unpack("<I", head[len(_MAGIC) :])
    if not head.startswith(_MAGIC) or length > MAX_MESSAGE_BYTES:
        raise ValueError("another program answers there")
    message = json.loads(_read(connection, length))
    if not isinstance(message, dict):
        raise ValueError("its answer is not a JSON object")
    return message


def _read(connection, count):
    data = b""
    while len(data) < count:
        part = connection.recv(count - len(data))
        if not part:
            raise ValueError("another program answers there, or this one has just ended")
        data += part
    return data


def _port(address):
    return int(address.rpartition(":")[2])


def _reason(error):
    if isinstance(error, socket.gaierror):
        return "its host name cannot be resolved here"
    if isinstance(error, TimeoutError):
        return "no answer; a firewall may drop the packets"
    if isinstance(error, ConnectionRefusedError):
        return "nothing listens there"
    return str(error) or type(error).__name__
