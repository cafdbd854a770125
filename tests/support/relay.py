"""A switch that takes its time, for kernels without netem: frames come out later than they came in.

    python tests/support/relay.py SECONDS INTERFACE INTERFACE ...   # between these, until killed

Frames are read from one interface and sent from the others with the kernel's own header, which says
what is left to do: so a frame may be as long as TCP makes them, and checksums come last.
"""

import contextlib
import heapq
import itertools
import os
import select
import socket
import sys
import time

_ALL_PROTOCOLS = 3
_OUTGOING = 4
_SOL_PACKET, _PACKET_VNET_HDR = 263, 15
_LONGEST = 1 << 17


def relay(seconds, names):
    sockets = {}
    for name in names:
        one = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL_PROTOCOLS))
        one.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 20)
        one.bind((name, 0))
        sockets[one.fileno()] = one
    waiting, count = [], itertools.count()
    while True:
        pause = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        for number in select.select(list(sockets), [], [], pause)[0]:
            frame, address = sockets[number].recvfrom(_LONGEST)
            if address[2] != _OUTGOING:
                heapq.heappush(waiting, (time.monotonic() + seconds, next(count), number, frame))
        while waiting and waiting[0][0] <= time.monotonic():
            *_, source, frame = heapq.heappop(waiting)
            for number, one in sockets.items():
                if number != source:
                    send(one, frame)


def send(one, frame):
    try:
        one.send(frame)
    except OSError as error:  # A cable that is out, or a full queue: switches drop frames.
        print(f"dropped {len(frame)} bytes: {error}", file=sys.stderr)


def run_before_others():
    """Frames are late by less where the machine computes at the same time."""
    with contextlib.suppress(PermissionError):  # then they are a little later
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))


if __name__ == "__main__":
    run_before_others()
    relay(float(sys.argv[1]), sys.argv[2:])
