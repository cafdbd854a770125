"""Measures training steps over slow wires beside the cost model of a step, `planning/step_cost.py`.

    python benchmarks/step_scaling.py                  # all parts: the JSON and docs/scaling.md
    python benchmarks/step_scaling.py --parts=tables   # the tables, from saved results

constants  seconds and CPU seconds of a byte, and latencies of short sums, on 2 and 4 workers.
points     steps of 1, 2 and 4 workers with small and large heads at several rates and latencies,
           measured and predicted.
full       steps with fc layers of full width and a head of 20,000 at 1 Gb/s, before and after.
alone      one worker, before and after, in turns.
latency    what the exchanges of batch norm cost at several latencies.
tables     rewrites the tables of a step in docs/scaling.md.

Workers are processes of one thread on hosts in network namespaces (`wire.py`); all share this
machine's cores. So what a worker computes is measured with as many workers at the same time that
exchange nothing. Nothing is fitted to the measured points.
"""

import dataclasses
import json
import os
import sys

import scaling_tables
import step_tables
import wire
from absl import app, flags
from processes import show

from dc_tf.clustering.cost.hardware import CORE
from dc_tf.distributed.topology import Topology
from dc_tf.experiment import Model, Stage
from dc_tf.planning.exchange import dense_layers
from dc_tf.planning.step_cost import step_cost

FLAGS = flags.FLAGS
PARTS = ("constants", "points", "full", "alone", "latency", "tables")
HERE = os.path.dirname(os.path.abspath(__file__))
flags.DEFINE_list("parts", list(PARTS), "What to do.")
flags.DEFINE_integer("steps", 5, "Measured steps of each kind.")
flags.DEFINE_list("workers", ["1", "2", "4"], "Numbers of workers.")
flags.DEFINE_string("output", os.path.join(HERE, "results", "step_scaling.json"), "All results.")
flags.DEFINE_string("docs", os.path.join(HERE, "..", "docs", "scaling.md"), "Gets the tables.")
flags.DEFINE_bool("tiny", False, "Tiny networks and few steps, to try the program.")

RATES = {"200mbit": 200e6, "1gbit": 1e9, "4gbit": 4e9}
# Share of a limited rate that is no header, as one TCP connection measures it.
PAYLOAD = 0.95
SMALL = dict(resolution=96, batch=8, width=0.5, fc=2048, sub_classes=1000, rotations=1)
LARGE = {**SMALL, "sub_classes": 8000}
FULL = dict(resolution=96, batch=8, width=1.0, fc=4096, sub_classes=20_000, rotations=1)
TINY = dict(resolution=32, batch=4, width=1 / 16, fc=32, sub_classes=10, rotations=1)
LATENCIES = (None, 200e-6, 1e-3)


def main(_) -> None:
    unknown = set(FLAGS.parts) - set(PARTS)
    if unknown:
        sys.exit(f"--parts has {', '.join(unknown)}; there are {', '.join(PARTS)}.")
    results = {}
    if os.path.exists(FLAGS.output):
        with open(FLAGS.output, encoding="utf-8") as file:
            results = json.load(file)
    for part in FLAGS.parts:
        if part == "tables":
            scaling_tables.write(FLAGS.docs, results, step_tables.TABLES)
            continue
        results[part] = globals()[f"measure_{part}"](results)
        with open(FLAGS.output, "w", encoding="utf-8") as file:
            json.dump(results, file, indent=1)
            file.write("\n")


def measure_constants(_) -> dict:
    """{W: seconds and CPU seconds of a byte that is sent, seconds of a short sum}."""
    result = {}
    for workers in several_workers():
        (found,) = on_hosts({"steps": 3 * steps()}, [], workers, [""])
        kinds = found["kinds"]
        sent = wire.LARGE_BYTES * 2 * (workers - 1) / workers
        of = {name: kind["seconds"] / wire.SHORT_TIMES for name, kind in kinds.items()}
        result[str(workers)] = {
            "byte_s": kinds["large"]["seconds"] / sent,
            "byte_cpu_s": kinds["large"]["cpu_seconds"] / sent,
            "direct_alone_s": of["directly"],
            "ring_alone_s": of["in rings"],
            "direct_s": of["direct between products"] - of["products"],
            "ring_s": of["rings between products"] - of["products"],
        }
        show(result[str(workers)])
    return result


def measure_points(results) -> list[dict]:
    """Lines of measured and predicted seconds of a step."""
    lines = []
    for workers in numbers():
        kinds = ["alone", "factors"] if workers == 1 else ["alone", "before", "factors"]
        for task in (SMALL, LARGE):
            rates = [""] if workers == 1 else list(RATES)
            lines += points(results, task, workers, kinds, rates, None)
        if workers == 2:
            lines += points(results, SMALL, workers, kinds, ["1gbit"], LATENCIES[-1])
    return lines


def points(results, task, workers, kinds, rates, latency_s) -> list[dict]:
    found = on_hosts(task, kinds, workers, rates, latency_s)
    result = []
    for line in found:
        compute_s = line["kinds"]["alone"]["seconds"]
        for kind in kinds[1:]:
            cost = predicted(results, task, workers, kind, line["rate"], latency_s, compute_s)
            measured = line["kinds"][kind]
            result.append(
                {"workers": workers, "sub_classes": task["sub_classes"], "rate": line["rate"]}
                | {"latency_s": latency_s or 0.0, "kind": kind, "compute_s": compute_s}
                | {"measured_s": measured["seconds"], "predicted_s": cost.step_s}
                | {"sent_mb": measured["sent_mb"], "parts": dataclasses.asdict(cost)}
            )
            show({k: v for k, v in result[-1].items() if k != "parts"})
    return result


def predicted(results, task, workers, kind, rate, latency_s, compute_s):
    """The StepCost of `planning.step_cost` for a kind of step of `wire.KINDS`."""
    task, kind = (TINY if FLAGS.tiny else task), wire.KINDS[kind]
    shape = {name: task[name] for name in ("width", "resolution", "fc")}
    model = Model(**shape, **kind.model)
    stage = Stage(clusters=1, rotations=1, sub_clusters=task["sub_classes"])
    stage = stage.replace(batch_size=workers * task["batch"])
    topology = Topology(workers, 1)
    names = frozenset()
    if kind.model["exchange"] == "factors":
        names = frozenset(layer.name for layer in dense_layers(model, stage, topology))
    machine = machine_of(results, workers, rate, latency_s or 0.0)
    cost = step_cost(model, stage, topology, machine, compute_s, names)
    if workers > 1 and not kind.direct:
        hops_s = results["constants"][str(workers)]["ring_s"] + 2 * (workers - 1) * (latency_s or 0)
        cost = dataclasses.replace(cost, statistics_s=wire.SHORT_TIMES * hops_s)
    return cost if kind.overlaps else cost.without_overlap()


def machine_of(results, workers, rate, latency_s):
    """`hardware.Machine` of a worker on one of these hosts."""
    if workers == 1:
        return CORE
    constants = results["constants"][str(workers)]
    wire_bytes = PAYLOAD * RATES[rate] / 8 if rate in RATES else 1 / constants["byte_s"]
    return dataclasses.replace(
        CORE,
        wire_bytes_per_s=wire_bytes,
        wire_latency_s=constants["direct_s"] + latency_s,
        message_cpu_s=constants["byte_s"],
    )


def measure_full(_) -> list[dict]:
    """Each kind in processes of its own, for memory."""
    result = []
    for workers in several_workers():
        line = {"workers": workers, "kinds": {}}
        for kind in ("alone", "before", "factors", "factors, bfloat16"):
            (found,) = on_hosts(FULL, [kind], workers, ["1gbit"])
            line["kinds"] |= found["kinds"]
            show({"workers": workers, kind: found["kinds"][kind]})
        result.append(line)
    return result


def measure_alone(_) -> dict:
    """{kind: seconds} of one worker, in turns."""
    kinds = ["before", "factors", "factors, bfloat16"]
    (found,) = on_hosts({**LARGE, "steps": 4 * steps()}, kinds, 1, [""])
    show(found)
    return found["kinds"]


def measure_latency(_) -> list[dict]:
    kinds = ["alone", "statistics in rings", "factors", "no shared statistics"]
    result = []
    for workers in several_workers():
        for latency_s in LATENCIES:
            (messages,) = on_hosts({"steps": steps()}, [], workers, [""], latency_s)
            (found,) = on_hosts({**SMALL, "steps": 2 * steps()}, kinds, workers, [""], latency_s)
            found["messages"] = messages["kinds"]
            result.append(found)
            show(found)
    return result


def on_hosts(task, kinds, workers, rates, latency_s=None) -> list[dict]:
    task = {"steps": steps(), **task, "kinds": kinds}
    if FLAGS.tiny:
        task |= {"steps": 1, **TINY}
    if not kinds:
        task = {"steps": task["steps"], "kinds": []}
    found = wire.over_hosts(task, workers, rates, latency_s)
    if "left out" in found[0]:
        sys.exit(f"this {found[0]['left out']}")
    return found


def numbers() -> list[int]:
    return list(map(int, FLAGS.workers))


def several_workers() -> list[int]:
    return [workers for workers in numbers() if workers > 1]


def steps() -> int:
    return FLAGS.steps


if __name__ == "__main__":
    app.run(main)
