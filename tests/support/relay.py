"""A switch that takes its time, for kernels without netem: frames come out later than they came in.

    python tests/support/relay.py SECONDS INTERFACE INTERFACE ...   # between these, until killed
    python tests/support/relay.py --plain INTERFACE                 # no offloading of checksums

Frames are read from one interface and sent from the others, so their checksums must be there, and
none may be longer than the interface's MTU; `--plain` sees to that where they are made.
"""

import ctypes
import fcntl
import heapq
import itertools
import select
import socket
import struct
import sys
import time

_ALL_PROTOCOLS = 3
_OUTGOING = 4
_ETHTOOL = 0x8946
# Checksums, scatter-gather, segmentation in either layer, and joining what arrives.
_OFFLOADS = (0x17, 0x19, 0x1F, 0x24, 0x2C)


def relay(seconds, names):
    sockets = {}
    for name in names:
        one = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL_PROTOCOLS))
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        one.bind((name, 0))
        sockets[one.fileno()] = one
    waiting, count = [], itertools.count()
    while True:
        pause = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        for number in select.select(list(sockets), [], [], pause)[0]:
            frame, address = sockets[number].recvfrom(1 << 16)
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


def make_plain(name):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for command in _OFFLOADS:
            value = ctypes.create_string_buffer(struct.pack("II", command, 0))
            request = struct.pack("16sP", name.encode(), ctypes.addressof(value))
            fcntl.ioctl(any_socket, _ETHTOOL, request.ljust(40, b"\0"))


if __name__ == "__main__":
    if sys.argv[1] == "--plain":
        make_plain(sys.argv[2])
    else:
        relay(float(sys.argv[1]), sys.argv[2:])
