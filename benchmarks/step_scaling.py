"""Measures training steps over slow wires beside the cost model of a step, `planning/step_cost.py`.

    python benchmarks/step_scaling.py                  # all parts: the JSON and docs/scaling.md
    python benchmarks/step_scaling.py --parts=tables   # the tables, from saved results

constants  seconds and CPU seconds of a byte, and latencies of short sums, on 2 and 4 workers; steps
           of workers that exchange nothing.
points     steps of 1, 2 and 4 workers with small and large heads at several rates and latencies.
full       steps with fc layers of full width and a head of 20,000 at 1 Gb/s, before and after, with
           the all-reduce of `tf.distribute` as a yardstick.
alone      one worker, before and after, in turns.
latency    what the exchanges of batch norm cost at several latencies.
tables     rewrites the tables of a step in docs/scaling.md.

Workers are processes of one thread on hosts in network namespaces (`wire.py`); all share this
machine's cores. So what a worker computes is measured with as many workers at the same time that
exchange nothing. Nothing is fitted to the measured points.
"""

import json
import os
import sys

import scaling_tables
import step_tables
import wire
from absl import app, flags
from processes import show

FLAGS = flags.FLAGS
PARTS = ("constants", "points", "full", "alone", "latency", "tables")
HERE = os.path.dirname(os.path.abspath(__file__))
flags.DEFINE_list("parts", list(PARTS), "What to do.")
flags.DEFINE_integer("steps", 5, "Measured steps of each kind.")
flags.DEFINE_list("workers", ["1", "2", "4"], "Numbers of workers.")
flags.DEFINE_string("output", os.path.join(HERE, "results", "step_scaling.json"), "All results.")
flags.DEFINE_string("docs", os.path.join(HERE, "..", "docs", "scaling.md"), "Gets the tables.")
flags.DEFINE_bool("tiny", False, "Tiny networks and few steps, to try the program.")

SMALL = dict(resolution=96, batch=8, width=0.5, fc=2048, sub_classes=1000, rotations=1)
LARGE = {**SMALL, "sub_classes": 8000}
FULL = dict(resolution=96, batch=8, width=1.0, fc=4096, sub_classes=20_000, rotations=1)
TINY = dict(resolution=32, batch=4, width=1 / 16, fc=32, sub_classes=10, rotations=1)
FULL_KINDS = ("alone", "before", "tf.distribute, packs", "gradients", "factors, at the end")
FULL_KINDS += ("factors", "factors, bfloat16")
LATENCIES = (None, 20e-6, 200e-6, 1e-3)


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
    """Of messages {W: seconds}, and of computing {W: {sub-classes: seconds of a step}}."""
    messages, computing = {}, {}
    for workers in numbers():
        computing[str(workers)] = {}
        for task in (SMALL, LARGE):
            (found,) = on_hosts(task, ["alone"], workers, [""])
            seconds = found["kinds"]["alone"]["seconds"]
            computing[str(workers)][str(task["sub_classes"])] = seconds
        if workers > 1:
            (found,) = on_hosts({"steps": 3 * steps()}, [], workers, [""])
            messages[str(workers)] = constants_of(workers, found["kinds"])
        show({"workers": workers, **computing[str(workers)], **messages.get(str(workers), {})})
    return {"messages": messages, "computing": computing}


def constants_of(workers, kinds) -> dict:
    """Seconds and CPU seconds of a byte that is sent, seconds of a short sum."""
    sent = wire.LARGE_BYTES * 2 * (workers - 1) / workers
    of = {name: kind["seconds"] / wire.SHORT_TIMES for name, kind in kinds.items()}
    return {
        "byte_s": kinds["large"]["seconds"] / sent,
        "byte_cpu_s": kinds["large"]["cpu_seconds"] / sent,
        "direct_alone_s": of["directly"],
        "ring_alone_s": of["in rings"],
        "direct_s": of["direct between products"] - of["products"],
        "ring_s": of["rings between products"] - of["products"],
    }


def measure_points(_) -> list[dict]:
    """Lines of measured steps; `step_tables.predicted` predicts them."""
    lines = []
    for workers in numbers():
        kinds = ["factors"] if workers == 1 else ["before", "factors"]
        for task in (SMALL, LARGE):
            lines += points(task, workers, kinds, [""] if workers == 1 else list(wire.RATES), None)
        if workers == 2:
            lines += points(SMALL, workers, kinds, ["1gbit"], LATENCIES[-1])
    return lines


def points(task, workers, kinds, rates, latency_s) -> list[dict]:
    result = []
    for line in on_hosts(task, kinds, workers, rates, latency_s):
        for kind, measured in line.pop("kinds").items():
            result.append({**line, "kind": kind, "task": TINY if FLAGS.tiny else task})
            result[-1] |= {"measured_s": measured["seconds"], "sent_mb": measured["sent_mb"]}
            show(result[-1])
    return result


def measure_full(_) -> list[dict]:
    """Each kind in processes of its own, for memory."""
    result = []
    for workers in several_workers():
        line = {"workers": workers, "rate": "1gbit", "kinds": {}}
        for kind in FULL_KINDS:
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
