"""Tables of a training step in docs/scaling.md, from measurements and from the cost model."""

import dataclasses

import wire
from scaling_tables import duration, join, short

from dc_tf.clustering.cost.hardware import CORE, P4D, Machine
from dc_tf.distributed.topology import Topology
from dc_tf.experiment import Model, Stage, load
from dc_tf.planning.exchange import dense_layers, factored
from dc_tf.planning.step_cost import A100, H100, StepCost, step_cost

# Of the machine that measured.
CORES = 2
# Share of a limited rate that is no header, as one TCP connection measures it.
PAYLOAD = 0.95

# (workers, images of a step): the paper's batch, and as many images a worker as on 64.
PAPER = ((1, 3072), (8, 3072), (64, 3072), (256, 3072), (256, 12_288))


def constants_table(results) -> str:
    lines = ["| | 2 workers | 4 workers |", "|---|---|---|"]
    found = [results["constants"]["messages"][workers] for workers in ("2", "4")]
    for title, name, scale in (
        ("a byte that is sent (ns)", "byte_s", 1e-9),
        ("CPU time of it (ns)", "byte_cpu_s", 1e-9),
        ("a short sum, all to all (ms)", "direct_alone_s", 1e-3),
        ("a short sum in a ring (ms)", "ring_alone_s", 1e-3),
        ("the same between products (ms): `wire_latency_s`", "direct_s", 1e-3),
        ("in a ring between products (ms)", "ring_s", 1e-3),
    ):
        values = (short(one[name] / scale) for one in found)
        lines.append(f"| {title} | " + " | ".join(values) + " |")
    return join(lines)


def points_table(results) -> str:
    lines = [
        "| W | head | wire | added latency | exchange | MB sent | computing alone, s "
        "| a step, s | predicted | ratio |",
        "|---" * 10 + "|",
    ]
    for line in results["points"]:
        cost = predicted(results["constants"], line)
        measured, guess = line["measured_s"], cost.step_s
        lines.append(
            f"| {line['workers']} | {line['task']['sub_classes']:,} | {_rate(line['rate'])} "
            f"| {duration(line['latency_s']) if line['latency_s'] else '-'} | {line['kind']} "
            f"| {line['sent_mb']:.1f} | {short(cost.compute_s)} | {short(measured)} "
            f"| {short(guess)} | {measured / guess:.2f} |"
        )
    return join(lines)


def predicted(constants, line, machine=None) -> StepCost:
    """The cost of a point of `step_scaling.py`.

    Args:
        constants: as measured there.
        line: of its points.
        machine: `hardware.Machine` of a worker; None: with the constants of messages.
    """
    workers, task, kind = line["workers"], line["task"], wire.KINDS[line["kind"]]
    shape = {name: task[name] for name in ("width", "resolution", "fc")}
    model = Model(**shape, **kind.model)
    stage = Stage(clusters=1, rotations=1, sub_clusters=task["sub_classes"])
    stage = stage.replace(batch_size=workers * task["batch"])
    topology = Topology(workers, 1)
    names = frozenset()
    if kind.model["exchange"] == "factors":
        names = frozenset(layer.name for layer in dense_layers(model, stage, topology, CORE))
    compute_s = constants["computing"][str(workers)][str(task["sub_classes"])]
    if machine is None and workers > 1:
        machine = machine_of(constants["messages"][str(workers)], line["rate"], line["latency_s"])
    cost = step_cost(model, stage, topology, machine or CORE, compute_s, names)
    if workers > 1 and not kind.direct:
        ring_s = constants["messages"][str(workers)]["ring_s"]
        ring_s += 2 * (workers - 1) * line["latency_s"]
        cost = dataclasses.replace(cost, statistics_s=wire.SHORT_TIMES * ring_s)
    return cost if kind.overlaps else cost.without_overlap()


def gbps(rate) -> float:
    """1e9 bits a second of what a message has at one of `wire.RATES`."""
    return PAYLOAD * wire.RATES[rate] / 1e9


def machine_of(messages, rate, latency_s) -> Machine:
    """`hardware.Machine` of a worker on one of the hosts."""
    wire_bytes = PAYLOAD * wire.RATES[rate] / 8 if rate in wire.RATES else 1 / messages["byte_s"]
    return dataclasses.replace(
        CORE,
        wire_bytes_per_s=wire_bytes,
        wire_latency_s=messages["direct_s"] + latency_s,
        message_cpu_s=messages["byte_s"],
    )


def full_table(results) -> str:
    return wire.limits_table(results["full"], CORES)


def alone_table(results) -> str:
    lines = ["| one worker | a step, s | over `before`, median of turns |", "|---|---|---|"]
    kinds = results["alone"]
    before = kinds["before"]["all_seconds"]
    for name, kind in kinds.items():
        ratios = sorted(one / other for one, other in zip(kind["all_seconds"], before, strict=True))
        lines.append(f"| {name} | {short(kind['seconds'])} | {ratios[len(ratios) // 2]:.2f} |")
    return join(lines)


def latency_table(results) -> str:
    lines = [
        "| W | added latency | a TCP message, us | a short sum in a ring, ms | all to all, ms "
        "| step, rings, s | step, all to all, s | step without shared statistics, s "
        "| computing alone, s |",
        "|---" * 9 + "|",
    ]
    for line in results["latency"]:
        kinds, messages = line["kinds"], line["messages"]
        cells = [line["workers"], duration(line["latency_s"]) if line["latency_s"] else "-"]
        cells.append(short(line["one_way_s"] * 1e6))
        for name in ("in rings", "directly"):
            cells.append(short(messages[name]["seconds"] / 26 * 1e3))
        for name in ("statistics in rings", "factors", "no shared statistics", "alone"):
            cells.append(short(kinds[name]["seconds"]))
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return join(lines)


def paper_table(_) -> str:
    """The paper's experiment before and after, on assumed GPUs and networks."""
    lines = [
        "| GPU | network | W | images of a worker | computing, ms | before, images/s "
        "| efficiency | limit | after, images/s | efficiency | limit |",
        "|---" * 11 + "|",
    ]
    for gpu in (A100, H100):
        for gbps in (10, 100, 400):
            for workers, batch in PAPER:
                lines.append(_paper_line(gpu, gbps, workers, batch))
    return join(lines)


def _paper_line(gpu, gbps, workers, batch):
    machine = dataclasses.replace(P4D, wire_bytes_per_s=gbps * 1e9 / 8)
    cells = [gpu.name, f"{gbps} Gb/s", workers, batch // workers]
    for place, changes in enumerate((BEFORE, AFTER)):
        overrides = ["data.path=x", "model.compute_dtype=bfloat16"]
        overrides += [f"model.{name}={value}" for name, value in changes.items()]
        experiment = load(["deepercluster_yfcc100m"], overrides)
        stage = experiment.stages[0].replace(batch_size=batch)
        topology = Topology(workers, stage.super_classes)
        compute_s = gpu.compute_s(experiment.model, stage, workers)
        names = factored(experiment.model, stage, topology, P4D)  # as the step chooses
        cost = step_cost(experiment.model, stage, topology, machine, compute_s, names)
        if not place:
            cells.append(short(1e3 * compute_s))
            cost = cost.without_overlap()
        cells += [f"{batch / cost.step_s:,.0f}", f"{cost.efficiency:.0%}", cost.limit]
    return "| " + " | ".join(map(str, cells)) + " |"


BEFORE = {"exchange": "gradients"}
AFTER = {"exchange": "auto", "exchange_dtype": "bfloat16"}


def _rate(rate):
    return rate if rate == "unlimited" else rate.replace("mbit", " Mb/s").replace("gbit", " Gb/s")


TABLES = {
    "step constants": constants_table,
    "step points": points_table,
    "step full": full_table,
    "step alone": alone_table,
    "step latency": latency_table,
    "step of the paper": paper_table,
}
