"""Writes the tables of docs/scaling.md from `scaling.py`'s measurements and the cost model."""

import dataclasses
import operator

from dc_tf.clustering.cost import hardware
from dc_tf.clustering.cost import model as cost_model


def write(path, results, tables=None) -> None:
    """Replaces the tables of a document, each between two comments.

    Args:
        path: of the document.
        results: dict, the measurements of `scaling.py`.
        tables: {name: function from the results to lines of text}; None: TABLES.
    """
    with open(path, encoding="utf-8") as file:
        text = file.read()
    for name, table in (tables or TABLES).items():
        begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        before, rest = text.split(begin)
        text = before + begin + table(results) + end + rest.split(end)[1]
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def constants_table(results) -> str:
    here, core, p4d = machine_of(results), hardware.CORE, hardware.P4D
    lines = ["| constant | measured here | `CORE` | `P4D` |", "|---|---|---|---|"]
    for name, unit, scale in CONSTANTS:
        values = (operator.attrgetter(name)(machine) / scale for machine in (here, core, p4d))
        lines.append(f"| `{name}` ({unit}) | " + " | ".join(map(short, values)) + " |")
    return join(lines)


CONSTANTS = [
    ("float32.flops", "GFLOP/s", 1e9),
    ("float32.score_s", "ns", 1e-9),
    ("bfloat16.flops", "GFLOP/s", 1e9),
    ("bfloat16.score_s", "ns", 1e-9),
    ("double_flops", "GFLOP/s", 1e9),
    ("component_s", "ns", 1e-9),
    ("scattered_s", "ns", 1e-9),
    ("row_stats_s", "ns", 1e-9),
    ("entered_s", "ns", 1e-9),
    ("moved_s", "ns", 1e-9),
    ("centroid_s", "ns", 1e-9),
    ("row_s", "ns", 1e-9),
    ("eigen_s", "ns", 1e-9),
    ("disk_bytes_per_s", "GB/s", 1e9),
    ("wire_bytes_per_s", "GB/s", 1e9),
    ("wire_latency_s", "us", 1e-6),
    ("runtime_bytes", "GB", 1e9),
]


def points_table(results) -> str:
    lines = [
        "| W | rows | dim | clusters | | an iteration, s | predicted | ratio "
        "| whole run, s | predicted | ratio |",
        "|---" * 11 + "|",
    ]
    for line in results["one_worker"] + results["two_workers"]:
        point = line["point"]
        k, sub = point["clusters"], point.get("sub_clusters")
        note = "from the disk" if point.get("cold") else point.get("precision", "")
        cells = [point["workers"], f"{point['rows']:,}", point["dim"]]
        cells += [f"{k} x {sub}" if sub else f"{k:,}", note]
        for what in ("iteration_s", "seconds"):
            cells += compared(line["measured"][what], line["predicted"][what])
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return join(lines)


def compared(measured, predicted) -> list[str]:
    if measured is None:
        return ["", "", ""]
    return [short(measured), short(predicted), f"{measured / predicted:.2f}"]


def memory_table(results) -> str:
    lines = ["| rows | dim | clusters | MB measured | predicted | ratio |", "|---" * 6 + "|"]
    for line in results["memory"]:
        point, measured, guess = line["point"], line["measured_bytes"], line["predicted_bytes"]
        lines.append(
            f"| {point['rows']:,} | {point['dim']} | {point['clusters']:,} "
            f"| {measured / 1e6:.0f} | {guess / 1e6:.0f} | {measured / guess:.2f} |"
        )
    return join(lines)


def scale_table(problem_of, machine) -> str:
    """Rows by workers: time of both levels, and the resources that are lacking."""

    def table(_):
        workers = (1, 4, 16, 64, 256, 1024)
        lines = ["| rows | " + " | ".join(f"W = {n:,}" for n in workers) + " |"]
        lines.append("|---" * (len(workers) + 1) + "|")
        for rows in (10**6, 10**7, 10**8, 10**9):
            cells = [cell(problem_of(rows, n), machine) for n in workers]
            lines.append(f"| {rows:,} | " + " | ".join(cells) + " |")
        return join(lines)

    return table


def cell(problem, machine) -> str:
    estimate = cost_model.estimate(problem, machine)
    if estimate.lacking:
        return "lacks " + ", ".join(estimate.lacking)
    share = cost_model.efficiency(problem, machine)
    return f"{duration(estimate.seconds)} ({share:.0%})"


def fixed_clusters(rows, workers) -> cost_model.Problem:
    """The paper's 4 x 80,000 clusters for any number of rows."""
    return cost_model.Problem(
        rows, 4096, 4, min(80_000, rows // 40), workers, raw_dim=4096, cache_bytes=0
    )


def growing_clusters(rows, workers) -> cost_model.Problem:
    """300 rows a cluster, as the paper has; 256 components, bfloat16."""
    return cost_model.Problem(
        rows, 256, 4, rows // 1200, workers, precision="bfloat16", raw_dim=4096, cache_bytes=0
    )


def worker_table(_) -> str:
    """Memory and traffic of one worker at the paper's size."""
    lines = [
        "| W | memory | of it rows | GPU memory | features on disk | read an iteration "
        "| sent an iteration | product | wire and centroids |",
        "|---" * 9 + "|",
    ]
    for workers in (16, 64, 256, 1024):
        problem = fixed_clusters(96_000_000, workers)
        found = cost_model.estimate(problem, hardware.P4D)
        level, memory = found.level2, found.memory
        passes = problem.iterations + 1
        lines.append(
            f"| {workers:,} | {size(memory.host)} | {size(memory.rows)} | {size(memory.device)} "
            f"| {size(found.store_bytes)} | {size(level.read_bytes / (passes + 1))} "
            f"| {size(level.sent_bytes)} | {duration(level.assign_s / passes)} "
            f"| {duration((level.centroids_s + level.exchange_s) / passes)} |"
        )
    return join(lines)


def needs_table(_) -> str:
    """Computation, memory and traffic of one worker, by rows and workers."""
    lines = [
        "| rows | W | TFLOP an iteration | memory | GPU memory "
        "| features on disk | sent an iteration |",
        "|---" * 7 + "|",
    ]
    for rows in (10**6, 10**7, 10**8, 10**9):
        for workers in (1, 16, 256, 1024):
            problem = fixed_clusters(rows, workers)
            found = cost_model.estimate(problem, hardware.P4D)
            flops = 2.0 * problem.own_rows * problem.sub_clusters * problem.dim
            lines.append(
                f"| {rows:,} | {workers:,} | {short(flops / 1e12)} | {size(found.memory.host)} "
                f"| {size(found.memory.device)} | {size(found.store_bytes)} "
                f"| {size(found.level2.sent_bytes) if workers > 1 else '-'} |"
            )
    return join(lines)


PAPER = [
    ("96 M into 4 on 64", 60.0, dict(rows=96_000_000, dim=4096, clusters=4, workers=64)),
    ("23 M into 80,000 on 16", 240.0, dict(rows=23_000_000, dim=4096, clusters=80_000, workers=16)),
]


def paper_table(_) -> str:
    lines = [
        "| | paper, an iteration | TFLOP a worker | GB a worker in float32 / float16 "
        "| what that comes to | `P4D`, computed | `PAPER_GPU`, computed |",
        "|---" * 7 + "|",
    ]
    for name, took, settings in PAPER:
        problem = cost_model.Problem(**settings, cache_bytes=0)
        flops = 2.0 * problem.own_rows * problem.clusters * problem.dim
        size32 = problem.own_rows * problem.dim * 4
        seconds_of = [
            cost_model.estimate(problem, machine).level1.iteration_s
            for machine in (hardware.P4D, hardware.PAPER_GPU)
        ]
        lines.append(
            f"| {name} | {duration(took)} | {flops / 1e12:.3g} | {size32 / 1e9:.1f} / "
            f"{size32 / 2e9:.1f} | {flops / took / 1e12:.2g} TFLOP/s, "
            f"{size32 / took / 1e9:.2g} GB/s (float32) | "
            + " | ".join(map(duration, seconds_of))
            + " |"
        )
    return join(lines)


def limits_table(_) -> str:
    """Rows per worker, and workers at the paper's size, at which efficiency is one half."""
    cases = [
        ("`P4D`, float32", hardware.P4D, "float32"),
        ("`P4D`, bfloat16", hardware.P4D, "bfloat16"),
        ("`PAPER_GPU`", hardware.PAPER_GPU, "float32"),
        ("`CORE`, float32", hardware.CORE, "float32"),
    ]
    lines = ["| | rows a worker | workers for 96 M rows |", "|---|---|---|"]
    for name, machine, precision in cases:
        rows = 96_000_000
        problem = dataclasses.replace(fixed_clusters(rows, 1), precision=precision)
        workers = next(
            n
            for n in range(1, rows)
            if cost_model.efficiency(dataclasses.replace(problem, workers=n), machine) <= 0.5
        )
        lines.append(f"| {name} | {rows // workers:,} | {workers:,} |")
    return join(lines)


def machine_of(results) -> hardware.Machine:
    """The measured `hardware.Machine`."""
    constants = dict(results["constants"]["machine"])
    for precision in ("float32", "bfloat16"):
        constants[precision] = hardware.Product(**constants[precision])
    return hardware.Machine(**constants)


TABLES = {
    "constants": constants_table,
    "points": points_table,
    "memory": memory_table,
    "fixed clusters": scale_table(fixed_clusters, hardware.P4D),
    "slow products": scale_table(fixed_clusters, hardware.PAPER_GPU),
    "growing clusters": scale_table(growing_clusters, hardware.P4D),
    "a worker": worker_table,
    "needs": needs_table,
    "paper": paper_table,
    "limits": limits_table,
}


def join(lines) -> str:
    return "\n".join(lines) + "\n"


def short(value) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def size(count) -> str:
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count / 1e3:.3g} kB"


def duration(took) -> str:
    for unit, scale in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        if took >= 1.5 * scale:
            return f"{took / scale:.3g} {unit}"
    return f"{took * 1e3:.3g} ms"
