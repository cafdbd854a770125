"""Measures time and memory of an epoch's draws, for the paper's 4 x 80,000 clusters, 4 rotations.

    python benchmarks/sampler.py --output=benchmarks/results/sampler.json

Seconds of `Sampler.epoch`, the MB by which it raises the peak memory beyond the assignments, and
the MB of its result, for the worker with the most draws.

even     all clusters and sub-clusters have about the same number of images.
uneven   the clusters have 55, 25, 15 and 5 % of them, and half of the images of a cluster are in an
         eighth of its sub-clusters.
none     no clusters, as for RotNet: every worker draws from all images.

Every line is measured in a process of its own.
"""

import json
import os
import sys
import time

import numpy as np
from absl import app, flags
from processes import last_lines, show

from dc_tf.data.input.batch_plan import BatchPlan
from dc_tf.data.input.sampler import Sampler
from dc_tf.distributed.topology import Topology

FLAGS = flags.FLAGS
CLUSTERS, SUB_CLUSTERS, ROTATIONS, BATCH = 4, 80_000, 4, 3072
SHARES = {"even": [0.25] * 4, "uneven": [0.55, 0.25, 0.15, 0.05]}
flags.DEFINE_list(
    "cases",
    [
        "1000000x64xeven",
        "10000000x64xeven",
        "96000000x64xeven",
        "96000000x64xuneven",
        "96000000x64xnone",
        "96000000x16xeven",
        "96000000x4xeven",
        "96000000x4xuneven",
    ],
    "rows x workers x kind of clusters.",
)
flags.DEFINE_string("output", None, "JSON of all results.")
flags.DEFINE_string("case", None, "Internal: what a child process measures.")


def main(_) -> None:
    if FLAGS.case:
        print(json.dumps(measure(*FLAGS.case.split("x"))))
        return
    table = []
    for case in FLAGS.cases:
        table += last_lines([[sys.executable, os.path.abspath(__file__), f"--case={case}"]])
        show(table[-1])
    if FLAGS.output:
        with open(FLAGS.output, "w", encoding="utf-8") as file:
            json.dump(table, file, indent=1)
    print(json.dumps(table))


def measure(rows, workers, sizes) -> dict:
    rows, workers = int(rows), int(workers)
    clusters = 1 if sizes == "none" else CLUSTERS
    topology = Topology(workers, clusters * ROTATIONS)
    plan = BatchPlan(clusters, ROTATIONS, BATCH, topology, together=sizes == "none")
    labels = () if sizes == "none" else assigned(rows, sizes)
    sampler = Sampler(rows, plan, *labels)
    before = resident_mb("VmRSS")
    begin, begin_cpu = time.perf_counter(), time.process_time()
    draws = sampler.epoch(0, rank=0)  # the first rank serves the largest cluster
    return {
        "rows": rows,
        "workers": workers,
        "sizes": sizes,
        "steps": sampler.steps,
        "seconds": round(time.perf_counter() - begin, 2),
        "cpu_seconds": round(time.process_time() - begin_cpu, 2),
        "raised_peak_mb": round(resident_mb("VmHWM") - before),
        "draws_mb": round(sum(column.nbytes for column in draws) / 1e6),
        "assignments_mb": round(sum(column.nbytes for column in labels) / 1e6),
    }


def assigned(rows, sizes) -> tuple:
    """(cluster, sub) like those of `Assignments.open`; building them does not raise the peak."""
    random = np.random.default_rng(0)
    cluster, sub = np.empty(rows, np.int32), np.empty(rows, np.int32)
    for start in range(0, rows, 1 << 16):
        part = slice(start, min(rows, start + (1 << 16)))
        n = part.stop - start
        cluster[part] = random.choice(CLUSTERS, n, p=SHARES[sizes])
        # The cube of a uniform number is below 1/8 half of the time.
        place = random.random(n) ** (3 if sizes == "uneven" else 1)
        sub[part] = place * SUB_CLUSTERS
    return cluster, sub


def resident_mb(which) -> float:
    with open("/proc/self/status", encoding="ascii") as file:
        return int(file.read().split(f"{which}:")[1].split()[0]) * 1024 / 1e6


if __name__ == "__main__":
    app.run(main)
