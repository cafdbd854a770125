"""What a training step sends, and how long it takes over a slow wire; a part of `step.py`.

    python benchmarks/step.py --parts=wire --wire_rates=,200mbit --steps=5
    python benchmarks/step_scaling.py              # the cost model of a step against such steps

Bytes at the paper's size are those of the plan. Workers on hosts of their own (network namespaces
on a bridge, which needs root, `ip` and `tc`) take steps of a network, whose bytes are counted by
their network interfaces. A token bucket at each interface limits what a worker sends. `before`
sends float32 gradients after the backward pass and statistics of batch norm in rings. As a
yardstick, `tf.distribute` sums gradients by its own all-reduce, in packs of the size of its hint.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
import typing
import unittest.mock
from collections.abc import Callable

if typing.TYPE_CHECKING:
    pass

ROOT = pathlib.Path(__file__).resolve().parent.parent
PORT = 2222


@dataclasses.dataclass(frozen=True)
class Kind:
    """How a step exchanges.

    Attributes:
        model: settings of model.
        overlaps: whether messages leave while the backward pass runs.
        direct: whether statistics are summed by `direct_sum`.
        exchanges: whether anything is exchanged; else each worker steps by itself, with its share
            of the images, at the same time as the others.
        sums_own: whether batch norm then computes as on several workers, which takes longer than
            the fused kernel of one, with sums of its own images.
        pack_bytes: of the packs of `tf.distribute`, which then sums all gradients; 0: one pack.
    """

    model: dict
    overlaps: bool = True
    direct: bool = True
    exchanges: bool = True
    sums_own: bool = True
    pack_bytes: int | None = None


BFLOAT16 = {"exchange_dtype": "bfloat16"}
KINDS = {
    "alone": Kind({}, exchanges=False),
    "alone, fused": Kind({}, exchanges=False, sums_own=False),
    "before": Kind({"exchange": "gradients"}, overlaps=False, direct=False),
    "tf.distribute": Kind({"exchange": "gradients"}, overlaps=False, pack_bytes=0),
    "tf.distribute, packs": Kind({"exchange": "gradients"}, overlaps=False, pack_bytes=25 << 20),
    "gradients": Kind({"exchange": "gradients"}),
    "gradients, bfloat16": Kind({"exchange": "gradients", **BFLOAT16}),
    "factors, at the end": Kind({"exchange": "factors"}, overlaps=False),
    "factors": Kind({"exchange": "factors"}),
    "factors, bfloat16": Kind({"exchange": "factors", **BFLOAT16}),
    "statistics in rings": Kind({"exchange": "factors"}, direct=False),
    "no shared statistics": Kind({"exchange": "factors", "sync_batch_norm": "off"}),
}
# Bits a second of what `tc` limits.
RATES = {"200mbit": 200e6, "1gbit": 1e9, "4gbit": 4e9}
# Bytes that a token bucket lets through at once: what is sent in about a millisecond.
BURSTS = {"200mbit": "64kb", "1gbit": "128kb", "4gbit": "512kb"}


def paper_plans() -> list[dict]:
    """MB that a worker sends in a step of the paper's experiment, as planned for GPUs."""
    from dc_tf.experiment import load
    from dc_tf.planning.plan import make_plan

    result = []
    for workers in (4, 16, 64):
        for exchange in ("gradients", "auto", "factors"):
            for dtype in ("float32", "bfloat16"):
                model = [f"model.exchange={exchange}", f"model.exchange_dtype={dtype}"]
                experiment = load(["deepercluster_yfcc100m"], ["data.path=x", *model])
                size = make_plan(experiment, 96_000_000, workers, on_gpu=True).stages[0].size
                line = dict(workers=workers, exchange=exchange, exchange_dtype=dtype)
                line |= {"sent_mb": size.sent_bytes / 1e6, "factors": size.factored}
                result.append(line)
    return result


def over_hosts(task, workers=2, rates=("",), latency_s=None) -> list[dict]:
    """What `wire` measures on each of some workers' hosts, joined.

    Args:
        task: arguments of `wire`.
        workers: number of hosts, with a worker of one thread each.
        rates: of each worker's interface, as of `tc`; "" for an unlimited one.
        latency_s: added from host to host.

    Returns:
        list of {"workers", "rate", "latency_s", "one_way_s": measured before, "kinds": {kind:
        medians over steps: "seconds" of the slowest worker, "cpu_seconds" and "sent_mb" of the
        worker that has most, "all_cpu_seconds" of all workers}}, or of {"left out": the reason}.
    """
    sys.path.insert(0, str(ROOT / "tests" / "support"))
    from namespaces import Hosts, Unavailable

    try:
        with Hosts(workers, latency_s) as hosts:
            one_way_s = _one_way_s(hosts)
            found = _on(hosts, {**task, "rates": list(rates)})
    except Unavailable as error:
        return [{"left out": f"needs root, ip and tc: {error}"}]
    return [
        {
            "workers": workers,
            "rate": rate or "unlimited",
            "latency_s": latency_s or 0.0,
            "one_way_s": one_way_s,
            "kinds": {
                name: _joined([one[place][name] for one in found]) for name in found[0][place]
            },
        }
        for place, rate in enumerate(rates)
    ]


def _joined(of_workers):
    """Medians over steps; a step ends when the slowest worker's does."""
    seconds = [max(turn) for turn in zip(*(one["seconds"] for one in of_workers), strict=True)]
    result = {"seconds": statistics.median(seconds), "all_seconds": seconds}
    for name in ("cpu_seconds", "sent_mb"):
        result[name] = max(statistics.median(one[name]) for one in of_workers)
    of_all = [sum(turn) for turn in zip(*(one["cpu_seconds"] for one in of_workers), strict=True)]
    return result | {"all_cpu_seconds": statistics.median(of_all)}


def limits_table(lines, cores) -> str:
    """What limits a step: computing, the wire and the CPUs, as Markdown.

    Args:
        lines: of `over_hosts`, with the kind "alone" and a limited rate.
        cores: of the machine that measured, which all workers share.
    """
    rows = [
        "| W | exchange | MB sent | a step, s | computing alone, s | wire, s "
        "| CPU of all workers / cores, s | step / larger of computing and wire "
        "| step / largest of the three |",
        "|---" * 9 + "|",
    ]
    for line in lines:
        kinds = line["kinds"]
        for name in [name for name in kinds if name != "alone"]:
            cells = _limits(kinds[name], kinds["alone"], line["rate"], cores)
            rows.append(f"| {line['workers']} | {name} | {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def _limits(kind, alone, rate, cores):
    step_s, compute_s = kind["seconds"], alone["seconds"]
    wire_s = kind["sent_mb"] * 8e6 / RATES[rate]
    cpu_s = kind["all_cpu_seconds"] / cores
    yield f"{kind['sent_mb']:.0f}"
    yield from (f"{seconds:.2f}" for seconds in (step_s, compute_s, wire_s, cpu_s))
    yield f"{step_s / max(compute_s, wire_s):.2f}"
    yield f"{step_s / max(compute_s, wire_s, cpu_s):.2f}"


# Half the median time of a message of one byte there and back.
_PING = """
import socket, statistics, sys, time
address, sends = sys.argv[1], sys.argv[2] == "send"
if not sends:
    with socket.create_server((address, 9000)) as server:
        print(flush=True)
        one, _ = server.accept()
else:
    one = socket.create_connection((address, 9000))
one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
times = []
for _ in range(201):
    begun = time.perf_counter()
    if sends:
        one.send(b"x")
    if not one.recv(1):
        break
    if not sends:
        one.send(b"x")
    times.append(time.perf_counter() - begun)
print(statistics.median(times) / 2)
"""


def _one_way_s(hosts) -> float:
    """Seconds of a short TCP message from host 0 to host 1."""
    if hosts.count == 1:
        return 0.0
    command = [sys.executable, "-c", _PING, hosts.address(1)]
    server = hosts.start(1, [*command, "answer"], stdout=subprocess.PIPE, text=True)
    server.stdout.readline()  # it listens
    client = hosts.start(0, [*command, "send"], stdout=subprocess.PIPE, text=True)
    seconds = float(client.communicate(timeout=60)[0])
    server.communicate(timeout=60)
    return seconds


def _on(hosts, task):
    addresses = [f"{hosts.address(host)}:{PORT}" for host in range(hosts.count)]
    command = [sys.executable, str(ROOT / "benchmarks" / "step.py"), "--role=wire"]
    command.append(f"--task={json.dumps(task)}")
    children = []
    for host in range(hosts.count):
        config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": host}}
        added = {"TF_CONFIG": json.dumps(config)}
        added |= {"TF_NUM_INTRAOP_THREADS": "1", "OMP_NUM_THREADS": "1"}
        environment = os.environ | added
        children.append(
            hosts.start(host, command, env=environment, stdout=subprocess.PIPE, text=True)
        )
    outputs = [child.communicate(timeout=3600)[0] for child in children]
    if any(child.returncode for child in children):
        sys.exit("a worker failed; see above.")
    return [json.loads(output.splitlines()[-1]) for output in outputs]


def wire(our_step, kinds, rates, steps, **task) -> list[dict]:
    """Steps of some KINDS in turns on this worker, at each rate of its interface.

    With no kinds, the `messages` instead.

    Returns:
        for each rate {kind: {"seconds", "cpu_seconds", "sent_mb"}}, each a list over the steps.
    """
    from dc_tf.distributed.cluster import connect

    cluster = connect()
    if kinds:
        works = {name: step_of(our_step, cluster, KINDS[name], task) for name in kinds}
    else:
        works = messages(cluster)
    result = []
    for rate in rates:
        cluster.world.barrier()
        _limit(rate)
        result.append(_measured(cluster.world, works, steps))
    cluster.leave()
    return result


def _measured(world, works, steps):
    result = {name: {"seconds": [], "cpu_seconds": [], "sent_mb": []} for name in works}
    for turn in range(steps + 1):
        for name, work in works.items():
            world.barrier()
            sent, cpu, begun = _sent_bytes(), time.process_time(), time.perf_counter()
            work()
            seconds = time.perf_counter() - begun
            world.barrier()
            if turn:  # the first fills the token bucket, or traces
                found = result[name]
                found["seconds"].append(seconds)
                found["cpu_seconds"].append(time.process_time() - cpu)
                found["sent_mb"].append((_sent_bytes() - sent) / 1e6)
    return result


def step_of(our_step, cluster, kind, task) -> Callable:
    """A step that is traced now."""
    from dc_tf.training.gradients.overlap import Overlap

    init = Overlap.__init__

    def changed(self, comm, enabled=True, direct=False):
        init(self, comm, enabled and kind.overlaps, direct and kind.direct)

    with (
        unittest.mock.patch.object(Overlap, "__init__", changed),
        contextlib.nullcontext() if kind.overlaps else _convolutions_with_all_others(),
        contextlib.nullcontext() if kind.pack_bytes is None else _as_tf_distribute(kind.pack_bytes),
        _sums_of_own() if kind.sums_own and not kind.exchanges else contextlib.nullcontext(),
    ):
        step = our_step(cluster if kind.exchanges else _Alone(cluster), **task, **kind.model)
        step()
    return step


def _convolutions_with_all_others():
    """Their gradients have no messages of their own."""
    from dc_tf.training.gradients.exchange import Exchange

    init = Exchange.__init__

    def changed(self, weights, layers, comm, dtype="float32", early=(), early_convs=()):
        del early_convs
        init(self, weights, layers, comm, dtype, early)

    return unittest.mock.patch.object(Exchange, "__init__", changed)


@contextlib.contextmanager
def _as_tf_distribute(pack_bytes):
    """All gradients are summed by the all-reduce of `tf.distribute`, in packs.

    The launches of a pack wait for its gradients alone, so packs leave during the backward pass.
    """
    import tensorflow as tf

    from dc_tf.training.gradients import exchange

    init = exchange.Exchange.__init__
    options = tf.distribute.experimental.CommunicationOptions(bytes_per_pack=pack_bytes)

    def untapped(self, weights, layers, comm, *_, **__):
        if layers:
            raise ValueError("tf.distribute sums gradients; choose exchange: gradients.")
        init(self, weights, (), comm)

    def all_sum(tensors, comm, **_):
        context = tf.distribute.get_replica_context()
        if comm.size != context.num_replicas_in_sync:
            raise ValueError("tf.distribute sums over all workers; choose one super-class.")
        return context.all_reduce("SUM", list(tensors), options)

    with (
        unittest.mock.patch.object(exchange.Exchange, "__init__", untapped),
        unittest.mock.patch.object(exchange, "all_sum_packed", all_sum),
    ):
        yield


def _sums_of_own():
    """Batch norm computes as on several workers, from the worker's own images."""
    from dc_tf.training.measure import Twins
    from dc_tf.training.step import learner

    def own(model, cluster, topology):
        return Twins() if cluster.size > 1 else cluster.world

    return unittest.mock.patch.object(learner, "statistics_comm", own)


class _Alone:
    """A worker of a larger world that exchanges nothing, as of `training.measure`."""

    def __init__(self, cluster):
        from dc_tf.distributed.collectives import Solo

        self.rank, self.size = cluster.rank, cluster.size
        self.strategy = cluster.strategy
        self.world = Solo()

    def group(self, _):
        return self.world


# Bytes of the large message of `messages`, and values of one of batch norm's exchanges.
LARGE_BYTES, SHORT = 64 << 20, 1025
SHORT_TIMES = 26
# Side of the products that a worker computes between short sums, about ten milliseconds each.
PRODUCT = 800


def messages(cluster) -> dict:
    """{name: a large sum, SHORT_TIMES short sums in rings, direct ones, both between products}.

    Direct ones only where there is an all-to-all. Between products a sum also waits for the slower
    worker, and wakes threads that sleep.
    """
    import tensorflow as tf

    from dc_tf.distributed.collectives import all_sum_packed, direct_sum

    world = cluster.world
    large = [tf.zeros([LARGE_BYTES // 16]) for _ in range(4)]
    short, square = tf.zeros([SHORT]), tf.random.normal([PRODUCT, PRODUCT])

    @tf.function
    def of_large():
        return all_sum_packed(large, world, pack_bytes=LARGE_BYTES // 4)

    @tf.function
    def in_rings():
        return [world.all_sum(short) for _ in range(SHORT_TIMES)]

    @tf.function
    def directly():
        return [direct_sum(short, world) for _ in range(SHORT_TIMES)]

    def between_products(exchange):
        @tf.function
        def work():
            x = square
            for _ in range(SHORT_TIMES):
                x = tf.matmul(x, square) / PRODUCT**0.5
                x += 1e-3 * tf.tanh(exchange(x[0, 0] + short)[0])
            return x

        return work

    found = {
        "large": of_large,
        "in rings": in_rings,
        "products": between_products(lambda vector: vector),
        "rings between products": between_products(world.all_sum),
    }
    if world.has_all_to_all:
        found["directly"] = directly
        found["direct between products"] = between_products(lambda x: direct_sum(x, world))
    return found


def _limit(rate):
    """Limits what this worker's interface sends; "" removes the limit."""
    show = subprocess.run(
        ["tc", "qdisc", "show", "dev", "eth0"], check=True, capture_output=True, text=True
    )
    if "tbf" in show.stdout:
        subprocess.run(["tc", "qdisc", "del", "dev", "eth0", "root"], check=True)
    if rate:
        bucket = ["tbf", "rate", rate, "burst", BURSTS.get(rate, "128kb"), "latency", "400ms"]
        subprocess.run(["tc", "qdisc", "add", "dev", "eth0", "root", *bucket], check=True)


def _sent_bytes() -> int:
    return int(pathlib.Path("/sys/class/net/eth0/statistics/tx_bytes").read_text())
