"""What a training step sends, and how long it takes over a slow wire; a part of `step.py`.

    python benchmarks/step.py --parts=wire --wire_rates=,200mbit --steps=5

Bytes at the paper's size are those of the plan. Two workers on hosts of their own (network
namespaces on a bridge, which needs root, `ip` and `tc`) then take steps of a smaller network, whose
bytes are counted by their network interfaces. `before` sends float32 gradients after the backward
pass.
"""

import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
import unittest.mock

ROOT = pathlib.Path(__file__).resolve().parent.parent
PORT = 2222
# {name: (settings of model, whether messages leave while the backward pass runs)}.
KINDS = {
    "before": ({"exchange": "gradients"}, False),
    "gradients": ({"exchange": "gradients"}, True),
    "factors, at the end": ({"exchange": "factors"}, False),
    "factors": ({"exchange": "factors"}, True),
    "factors, bfloat16": ({"exchange": "factors", "exchange_dtype": "bfloat16"}, True),
    "gradients, bfloat16": ({"exchange": "gradients", "exchange_dtype": "bfloat16"}, True),
}


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


def over_hosts(task, rates) -> list[dict]:
    """{kind: seconds and MB of a step} at each rate of the wire, "" for an unlimited one."""
    sys.path.insert(0, str(ROOT / "tests" / "support"))
    from namespaces import Hosts, Unavailable

    result = []
    for rate in rates:
        try:
            with Hosts(2) as hosts:
                for host in range(2) if rate else ():
                    hosts.shape(host, rate)
                found = _on(hosts, task)
        except Unavailable as error:
            return [{"left out": f"needs root, ip and tc: {error}"}]
        kinds = {
            name: {unit: max(one[name][unit] for one in found) for unit in found[0][name]}
            for name in found[0]
        }
        result.append({"rate": rate or "unlimited", "kinds": kinds})
    return result


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


def wire(our_step, steps, **task) -> dict:
    """{kind: {"seconds", "sent_mb"} of a step} on this worker, the kinds in turns."""
    from dc_tf.distributed.cluster import connect

    cluster = connect()
    kinds = {name: _step_of(our_step, cluster, *kind, task) for name, kind in KINDS.items()}
    seconds, sent = ({name: [] for name in kinds} for _ in range(2))
    for turn in range(steps + 1):
        for name, step in kinds.items():
            cluster.world.barrier()
            bytes_before, begun = _sent_bytes(), time.perf_counter()
            step()
            if turn:  # the first traces
                seconds[name].append(time.perf_counter() - begun)
                cluster.world.barrier()
                sent[name].append((_sent_bytes() - bytes_before) / 1e6)
    cluster.leave()
    return {
        name: {
            "seconds": statistics.median(seconds[name]),
            "sent_mb": statistics.median(sent[name]),
        }
        for name in kinds
    }


def _step_of(our_step, cluster, changes, overlaps, task):
    """A step that is traced now, with or without messages during the backward pass."""
    from dc_tf.training.gradients.overlap import Overlap

    kept = Overlap._launch if overlaps else lambda _: None
    with unittest.mock.patch.object(Overlap, "_launch", kept):
        step = our_step(cluster, **task, **changes)
        step()
    return step


def _sent_bytes() -> int:
    return int(pathlib.Path("/sys/class/net/eth0/statistics/tx_bytes").read_text())
