"""Checks all-reduce over the connected workers: correctness and bandwidth.

rates = check_sums(report, cluster, groups)
rates[tuple(range(cluster.size))].seconds(size)
"""

import contextlib
import dataclasses
import json
import os
import threading
import time
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from dc_tf.distributed.blocks import MESSAGE_BYTES
from dc_tf.memory import size

_SMALL = 2  # float32 of the message that measures latency
_REPEATS = 3


@dataclasses.dataclass(frozen=True)
class Rate:
    """How fast a group sums.

    Attributes:
        small_s: seconds of the sum of a few numbers.
        bytes_per_s: of a large message, from a worker's call to its result.
    """

    small_s: float
    bytes_per_s: float

    def seconds(self, count: float) -> float:
        """Seconds of the sum of `count` bytes in one message."""
        return self.small_s + count / self.bytes_per_s


def groups_of(plan) -> list[list[tuple[int, ...]]]:
    """For each kind of group that a plan's stages need: all its groups, which sum concurrently."""
    kinds = {tuple(ranks for ranks, _ in stage.groups) for stage in plan.stages}
    proper = [kind for kind in kinds if 1 < len(kind[0]) < plan.workers]
    return [list(kind) for kind in sorted(proper)]


def check_sums(report, cluster, kinds) -> Rate:
    """Sums over the world, then over each kind of group; returns the rate of the world."""
    world = tuple(range(cluster.size))
    rate = _check_group(report, cluster, "all workers", world)
    for kind in kinds:
        own = next(ranks for ranks in kind if cluster.rank in ranks)
        _check_group(report, cluster, f"groups of {len(own)}", own)
        cluster.world.barrier()
    return rate


def _check_group(report, cluster, name, ranks):
    comm = cluster.group(ranks)
    wrong = _wrong_numbers(comm)
    if wrong:
        report.fail(
            "all-reduce",
            f"over {name}: {wrong} elements of the sum are wrong on worker {cluster.rank}",
            "check the network, set NCCL_DEBUG=INFO, try NCCL_P2P_DISABLE=1",
        )
    rate = Rate(_fastest(comm, _SMALL), MESSAGE_BYTES / _fastest(comm, MESSAGE_BYTES // 4))
    sent = rate.bytes_per_s * 2 * (comm.size - 1) / comm.size
    report.ok(
        "all-reduce",
        f"over {name}: {1e6 * rate.small_s:,.0f} us for a few bytes; {size(MESSAGE_BYTES)} at "
        f"{size(rate.bytes_per_s)}/s, each worker sends {size(sent)}/s",
        shared=True,
    )
    return rate


def _wrong_numbers(comm):
    """Number of wrong elements in a sum of small integers, which is exact in float32."""
    pattern = np.arange(100_003) % 7
    total = comm.all_sum(tf.constant(((comm.rank + 1) * pattern).astype(np.float32))).numpy()
    return int(np.sum(total != pattern * (comm.size * (comm.size + 1) // 2)))


def _fastest(comm, numbers):
    values = tf.zeros([numbers])
    seconds = []
    for _ in range(_REPEATS + 1):  # the first opens connections
        comm.barrier()
        started = time.monotonic()
        comm.all_sum(values).numpy()
        seconds.append(time.monotonic() - started)
    return min(seconds[1:])


@contextlib.contextmanager
def deadline(report, timeout_s) -> Iterator[None]:
    """Ends the process with the results so far if the body is late; nothing can interrupt it."""

    def expire():
        report.fail(
            "all-reduce",
            f"TensorFlow did not join the workers and sum over them within {timeout_s:g} s",
            "a firewall may drop gRPC or NCCL; NCCL uses other ports than TF_CONFIG's: open all "
            "between workers; NCCL_SOCKET_IFNAME names the network",
        )
        print(json.dumps(report.as_dict()), flush=True)
        os._exit(1)

    timer = threading.Timer(timeout_s, expire)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
