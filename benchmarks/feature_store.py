"""Measures how fast the feature store reads, and time and memory of whitening wide rows.

    python benchmarks/feature_store.py --folder=/scratch/here                   # both parts
    python benchmarks/feature_store.py --folder=/scratch/here --parts=whitening --dim=4096

whitening  seconds of moments, decomposition and mapping in place, and the MB by which each of them
           raises the peak memory of the process.
reading    GB/s of rows in order and of scattered, ascending rows, of 8 KB and of 512 B, from the
           page cache: with the store's read calls and through a memory map of the same file.
"""

import json
import mmap
import os
import statistics
import time

import numpy as np
import tensorflow as tf
from absl import app, flags

from dc_tf.clustering.store.feature_store import FeatureStore
from dc_tf.clustering.store.whitening import Moments, Whitening, whiten_store
from dc_tf.distributed.collectives import Solo

FLAGS = flags.FLAGS
flags.DEFINE_string("folder", None, "For the stores, on the disk to measure.", required=True)
# In this order: mapped pages of the second would raise the peak that the first measures.
flags.DEFINE_list("parts", ["whitening", "reading"], "What to measure.")
flags.DEFINE_integer("dim", 4096, "Components of the rows of the whitening part.")
flags.DEFINE_integer("rows", 8192, "Rows of the whitening part.")
flags.DEFINE_float("gb", 1.0, "Size of the store of the reading part.")
flags.DEFINE_integer("rounds", 5, "How often both ways of reading take turns.")

# Bytes per read.
_BLOCK = 16 << 20


def main(_) -> None:
    results = {part: globals()[f"measure_{part}"]() for part in FLAGS.parts}
    print(json.dumps(results))


def measure_reading() -> dict:
    results = []
    for row_bytes in (8192, 512):
        rows = int(FLAGS.gb * 1e9) // row_bytes
        store = filled(rows, row_bytes // 2)
        with open(store.file.path, "rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        array = np.frombuffer(mapped, np.float16, offset=128).reshape(rows, -1)

        def from_map(positions, array=array, mapped=mapped):
            taken = array[positions]
            mapped.madvise(mmap.MADV_DONTNEED)  # else the pages count as memory of the process
            return taken

        for every in (1, 4, 16, 64):
            positions = np.flatnonzero(np.random.default_rng(0).random(rows) < 1 / every)
            rates = {"store": [], "map": []}
            for _ in range(FLAGS.rounds):
                for name, take in (("store", store.take), ("map", from_map)):
                    rates[name].append(rate(take, positions, row_bytes))
            medians = {name: round(statistics.median(values), 2) for name, values in rates.items()}
            results.append({"row_bytes": row_bytes, "one_row_in": every} | medians)
            print(results[-1], flush=True)
    return results


def filled(rows, dim) -> FeatureStore:
    store = FeatureStore.create(os.path.join(FLAGS.folder, "reading"), rows, dim)
    block = np.random.default_rng(0).standard_normal((4096, dim), np.float32)
    for start in range(0, rows, len(block)):
        store.write(start, block[: rows - start])
    store.flush()
    return store


def rate(take, positions, row_bytes) -> float:
    """GB/s of reading rows in blocks."""
    step = _BLOCK // row_bytes
    started = time.perf_counter()
    for start in range(0, len(positions), step):
        take(positions[start : start + step])
    return len(positions) * row_bytes / 1e9 / (time.perf_counter() - started)


def measure_whitening() -> dict:
    tf.matmul(tf.ones((8, 8)), tf.ones((8, 8)))  # the libraries are loaded
    store = FeatureStore.create(os.path.join(FLAGS.folder, "white"), FLAGS.rows, FLAGS.dim)
    rng = np.random.default_rng(0)
    for start in range(0, FLAGS.rows, 256):
        count = min(256, FLAGS.rows - start)
        store.write(start, rng.standard_normal((count, FLAGS.dim), np.float32))
    phases = _Phases()
    moments = phases.measure("moments", lambda: Moments.of(store))
    whitening = phases.measure("fit", lambda: Whitening.fit(moments, Solo(), FLAGS.dim))
    phases.measure("in_place", lambda: whiten_store(store, whitening))
    return phases.results | {"rows": FLAGS.rows, "dim": FLAGS.dim, "peak_mb": phases.total()}


class _Phases:
    def __init__(self):
        self.results = {}
        self._before = peak_mb()

    def measure(self, name, work) -> object:
        before, started = peak_mb(), time.perf_counter()
        result = work()
        seconds = time.perf_counter() - started
        more = round(peak_mb() - before)
        self.results[name] = {"seconds": round(seconds, 1), "raised_peak_mb": more}
        print(name, self.results[name], flush=True)
        return result

    def total(self) -> int:
        return round(peak_mb() - self._before)


def peak_mb() -> float:
    with open("/proc/self/status", encoding="utf-8") as file:
        return int(file.read().split("VmHWM:")[1].split()[0]) / 1024


if __name__ == "__main__":
    app.run(main)
