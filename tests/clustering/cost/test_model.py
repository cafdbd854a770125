"""The cost model against what k-means itself reports, against small sums by hand, and in itself."""

import dataclasses
import importlib.util
import json
import pathlib
import subprocess
import sys

import numpy as np
import tensorflow as tf
import workers

from dc_tf.clustering import assign, kmeans, resume
from dc_tf.clustering.cost import model as cost_model
from dc_tf.clustering.cost.hardware import CORE, P4D, PAPER_GPU, Product
from dc_tf.clustering.cost.model import Problem, estimate
from dc_tf.clustering.hierarchy import hierarchical_kmeans
from dc_tf.clustering.search import nearest, tiles
from dc_tf.clustering.store import row_file
from dc_tf.clustering.store.points import ArrayPoints
from dc_tf.errors import ConfigError
from dc_tf.experiment import Clustering
from dc_tf.kmeans_options import KMeansOptions

BENCHMARKS = pathlib.Path(__file__).parents[3] / "benchmarks"
PAPER = Problem(rows=96_000_000, dim=4096, clusters=4, sub_clusters=80_000, workers=64)

# Every rate is 1, so that times are counts.
UNIT = dataclasses.replace(
    CORE,
    float32=Product(1.0, 0.0),
    component_s=0.0,
    scattered_s=0.0,
    row_stats_s=0.0,
    entered_s=0.0,
    moved_s=0.0,
    centroid_s=0.0,
    row_s=0.0,
    disk_bytes_per_s=float("inf"),
    wire_bytes_per_s=float("inf"),
    wire_latency_s=0.0,
)


def rows_of(comm, dim, n):
    return np.random.default_rng(comm.rank).normal(size=(n, dim)).astype(np.float32)


def exchanged_by_kmeans(comm, k, dim):
    return kmeans.kmeans(rows_of(comm, dim, 150), k, comm, iterations=2).exchanged_bytes


def exchanged_by_levels(comm, m, k, dim):
    report = hierarchical_kmeans(rows_of(comm, dim, 300), m, k, comm, iterations=2).report
    return [report["level1"]["exchanged_bytes"]] + [
        level["exchanged_bytes"] for level in report["level2"]
    ]


class Counted(ArrayPoints):
    """Points that count the rows that are read."""

    def __init__(self, array):
        super().__init__(array)
        self.count = 0

    def read(self, start, stop):
        self.count += stop - start
        return super().read(start, stop)


class ExchangeTest(tf.test.TestCase):
    def test_bytes_of_an_iteration_are_those_that_kmeans_reports(self):
        for k, dim in ((5, 8), (7, 3)):
            problem = Problem(rows=300, dim=dim, clusters=k, workers=2)
            expected = estimate(problem, CORE).level1.exchanged_bytes
            self.assertEqual(expected, 4 * k * (dim + 1) + 8)
            for reported in workers.on_workers(2, exchanged_by_kmeans, k, dim):
                self.assertEqual(reported, expected)

    def test_bytes_of_two_levels_are_those_that_hierarchical_kmeans_reports(self):
        m, k, dim = 3, 4, 6
        found = estimate(Problem(rows=600, dim=dim, clusters=m, sub_clusters=k, workers=2), CORE)
        for level1, *level2 in workers.on_workers(2, exchanged_by_levels, m, k, dim):
            self.assertEqual(level1, found.level1.exchanged_bytes)
            self.assertEqual(sum(level2), found.level2.exchanged_bytes)
            self.assertEqual(level1 + sum(level2), found.exchanged_bytes)

    def test_a_ring_sends_twice_what_is_summed_but_for_the_own_share(self):
        level = estimate(PAPER, P4D).level2
        summed = 4 * (80_000 * 4097 * 4 + 8)
        self.assertEqual(level.exchanged_bytes, summed)
        self.assertAllClose(level.sent_bytes, summed * 2 * 63 / 64)
        self.assertAllClose(level.sent_bytes, 10.4e9, rtol=0.01)

    def test_many_rows_are_counted_in_int64(self):
        few, many = (cost_model.exchanged_bytes(10, 4, rows) for rows in (2**31 - 1, 2**31))
        self.assertEqual(many - few, 10 * 4)

    def test_one_worker_sends_nothing_and_waits_for_nothing(self):
        level = estimate(dataclasses.replace(PAPER, workers=1), P4D).level2
        self.assertEqual((level.sent_bytes, level.exchange_s, level.start_s), (0, 0, 0))

    def test_a_ring_of_four_takes_six_steps_of_a_quarter(self):
        machine = dataclasses.replace(CORE, wire_latency_s=1.0, wire_bytes_per_s=10.0)
        self.assertAllClose(cost_model.all_sum_s(400.0, 4, machine), 6 * (1 + 10))


class TimeTest(tf.test.TestCase):
    def test_a_small_case_by_hand(self):
        problem = Problem(rows=10, dim=6, clusters=2, iterations=3, cache_bytes=0)
        machine = dataclasses.replace(
            UNIT,
            row_stats_s=1.0,
            component_s=10.0,
            entered_s=100.0,
            moved_s=50.0,
            centroid_s=1000.0,
        )
        level = estimate(problem, machine).level1
        self.assertAllClose(level.flops, 4 * 2 * 10 * 2 * 6)
        self.assertAllClose(level.row_stats_s, 10 * 6 * 1)
        self.assertAllClose(level.assign_s, level.flops + 4 * 10 * 6 * 10)
        # All rows enter in the first pass, and some move in each of the others.
        self.assertAllClose(level.move_s, 10 * 6 * (100 + 3 * problem.moved * 50))
        self.assertAllClose(level.centroids_s, 4 * 2 * 6 * 1000)
        self.assertAllClose(level.seconds, level.shared_s + level.fixed_s)

    def test_products_are_as_long_as_the_rows_that_they_take(self):
        for k, dim, precision in ((4, 8, "float32"), (8, 8, "float32"), (4, 8, "bfloat16")):
            problem = Problem(rows=1, dim=dim, clusters=k, precision=precision, iterations=0)
            length = estimate(problem, CORE).level1.flops / (2 * k)
            row_bytes = nearest.NearestCentroid(k, dim, precision).row_bytes
            self.assertEqual(length * tf.as_dtype(precision).size, row_bytes)

    def test_snapshots_take_the_space_of_those_kept_and_the_one_being_written(self):
        self.assertEqual(cost_model._SNAPSHOTS, resume._KEPT + 1)

    def test_rows_are_read_as_often_as_kmeans_reads_them(self):
        for cache_bytes in (0, 1 << 20):
            points = Counted(np.random.default_rng(0).normal(size=(500, 4)).astype(np.float32))
            kmeans.kmeans(points, 5, iterations=3, cache_bytes=cache_bytes, backend="tensorflow")
            problem = Problem(
                500, 4, 5, iterations=3, store_dtype="float32", cache_bytes=cache_bytes
            )
            read = estimate(problem, CORE).level1.read_bytes
            self.assertEqual(read, points.count * 4 * 4)

    def test_levels_cost_what_their_parts_cost_alone(self):
        found = estimate(PAPER, P4D)
        first = dataclasses.replace(PAPER, sub_clusters=0)
        alone = estimate(dataclasses.replace(first, clusters=80_000, rows=24_000_000), P4D).level1
        self.assertEqual(found.level1, estimate(first, P4D).level1)
        # Alone, the rows of a cluster lie together.
        scattered_s = 12 * 24_000_000 / 64 * 4096 * P4D.scattered_s
        self.assertAllClose(found.level2.shared_s, 4 * (alone.shared_s + scattered_s))
        self.assertAllClose(found.level2.flops, 4 * alone.flops)
        self.assertAllClose(found.level2.centroids_s, 4 * alone.centroids_s)

    def test_the_papers_products_take_the_time_that_its_rate_says(self):
        problem = Problem(rows=23_000_000, dim=4096, clusters=80_000, workers=16)
        level = estimate(problem, PAPER_GPU).level1
        product_s = level.flops / (problem.iterations + 1) / PAPER_GPU.float32.flops
        self.assertAllClose(product_s, 240.0, rtol=0.02)

    def test_more_work_is_never_cheaper(self):
        for name, factor in (
            ("rows", 2),
            ("dim", 2),
            ("sub_clusters", 2),
            ("iterations", 2),
            ("moved", 2),
        ):
            more = dataclasses.replace(PAPER, **{name: getattr(PAPER, name) * factor})
            self.assertGreater(estimate(more, P4D).seconds, estimate(PAPER, P4D).seconds, name)

    def test_more_workers_divide_the_work_and_leave_the_rest(self):
        few, many = (
            estimate(dataclasses.replace(PAPER, workers=workers), P4D).level2
            for workers in (64, 128)
        )
        self.assertAllClose(many.shared_s, few.shared_s / 2, rtol=1e-3)
        self.assertGreaterEqual(many.fixed_s, few.fixed_s)
        shares = [
            cost_model.efficiency(dataclasses.replace(PAPER, workers=workers), P4D)
            for workers in (1, 16, 256, 1024)
        ]
        self.assertAllGreater(-np.diff(shares), 0)

    def test_whitening_costs_products_and_a_decomposition(self):
        machine = dataclasses.replace(UNIT, double_flops=2.0, eigen_s=3.0)
        problem = Problem(rows=10, dim=4, clusters=2, raw_dim=8)
        self.assertAllClose(
            estimate(problem, machine).whiten_s,
            2 * 10 * 8 * 8 / 2 + 3 * 8**3 + 2 * 10 * 8 * 4,
        )

    def test_whitening_reads_features_that_memory_cannot_keep_once(self):
        problem = Problem(rows=10, dim=4, clusters=2, raw_dim=8)
        none_kept = dataclasses.replace(UNIT, host_bytes=0, disk_bytes_per_s=1.0)
        fast = dataclasses.replace(none_kept, disk_bytes_per_s=np.inf)
        difference = estimate(problem, none_kept).whiten_s - estimate(problem, fast).whiten_s
        self.assertAllClose(difference, 2 * 10 * 8 + 2 * 10 * 4)

    def test_extraction_counts_if_its_rate_is_known(self):
        machine = dataclasses.replace(P4D, images_per_s=1000.0)
        difference = estimate(PAPER, machine).seconds - estimate(PAPER, P4D).seconds
        self.assertAllClose(difference, 1500.0)


class SizeTest(tf.test.TestCase):
    def test_clusters_take_24_bytes_a_component(self):
        memory = estimate(PAPER, CORE).memory
        size = 80_000 * 4096
        self.assertEqual(memory.sums, 8 * size)
        self.assertEqual(memory.centroids + memory.factors + memory.sums, 24 * size)
        bfloat16 = estimate(dataclasses.replace(PAPER, precision="bfloat16"), CORE).memory
        self.assertEqual(memory.factors - bfloat16.factors, 2 * size)

    def test_memory_of_rows_is_divided_and_that_of_clusters_is_not(self):
        few, many = (
            estimate(dataclasses.replace(PAPER, workers=workers), CORE).memory
            for workers in (64, 128)
        )
        self.assertAllClose(few.rows, 2 * many.rows)
        self.assertEqual(few.sums, many.sums)

    def test_products_and_sums_are_in_the_memory_of_a_gpu(self):
        given = dataclasses.replace(PAPER, memory_bytes=1 << 28)
        host, both = estimate(given, CORE).memory, estimate(given, P4D).memory
        self.assertEqual(host.device, 0)
        self.assertEqual(both.device, both.factors + both.sums + both.temporaries + both.cache)
        self.assertEqual(both.total - P4D.runtime_bytes, host.total - CORE.runtime_bytes)
        self.assertGreater(estimate(PAPER, P4D).memory.temporaries, both.temporaries)

    def test_a_store_holds_two_bytes_a_component_and_both_lengths_while_whitening(self):
        problem = dataclasses.replace(PAPER, raw_dim=4096)
        self.assertEqual(estimate(problem, P4D).store_bytes, 1_500_000 * 4096 * 2)
        shorter = dataclasses.replace(problem, dim=256)
        self.assertEqual(estimate(shorter, P4D).store_bytes, 1_500_000 * (4096 + 256) * 2)

    def test_rows_of_one_part_are_read_alone_only_if_they_are_far_apart(self):
        limit = row_file._BYTES_PER_CALL
        self.assertEqual(cost_model.subset_read_bytes(limit // 4, 4), limit)
        self.assertEqual(cost_model.subset_read_bytes(limit // 2, 4), limit // 2)

    def test_what_is_lacking_is_named(self):
        self.assertEqual(estimate(PAPER, P4D).lacking, [])
        alone = estimate(dataclasses.replace(PAPER, rows=10**9, workers=1), P4D)
        self.assertEqual(alone.lacking, ["disk"])
        small = dataclasses.replace(P4D, host_bytes=1e9, device_bytes=1e9)
        self.assertEqual(estimate(PAPER, small).lacking, ["memory", "device memory"])

    def test_features_that_do_not_fit_in_memory_are_read_again_and_again(self):
        kept = estimate(PAPER, P4D)
        slow = dataclasses.replace(P4D, disk_bytes_per_s=1e8)
        again = estimate(PAPER, dataclasses.replace(slow, host_bytes=kept.memory.host))
        self.assertGreater(again.level1.assign_s, 10 * estimate(PAPER, slow).level1.assign_s)


class SettingsTest(tf.test.TestCase):
    def test_defaults_and_constants_are_those_of_kmeans(self):
        defaults = Problem(rows=1, dim=1, clusters=1)
        self.assertEqual(cost_model.TEMPORARIES, {False: tiles._CPU_BYTES, True: tiles._GPU_BYTES})
        for name in ("iterations", "precision", "cache_bytes", "memory_bytes"):
            self.assertEqual(getattr(defaults, name), getattr(KMeansOptions(), name), name)
        self.assertEqual(vars(Clustering().kmeans_options()), vars(KMeansOptions()))
        self.assertEqual(cost_model._BYTES_PER_CALL, row_file._BYTES_PER_CALL)
        self.assertEqual(cost_model._PROPOSED_BYTES, assign._PROPOSED_BYTES)

    def test_the_document_has_the_tables_that_the_model_gives(self):
        spec = importlib.util.spec_from_file_location("tables", BENCHMARKS / "scaling_tables.py")
        tables = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(tables)
        results = json.loads((BENCHMARKS / "results" / "scaling.json").read_text())
        document = BENCHMARKS.parent / "docs" / "scaling.md"
        copy = pathlib.Path(self.get_temp_dir()) / "scaling.md"
        copy.write_text(document.read_text())
        tables.write(copy, results)
        self.assertEqual(
            copy.read_text(), document.read_text(), "run benchmarks/scaling.py --parts=tables"
        )

    def test_impossible_problems_are_refused(self):
        for wrong in (
            {"rows": 0},
            {"workers": 0},
            {"sub_clusters": -1},
            {"precision": "float16"},
            {"store_dtype": "int8"},
        ):
            with self.assertRaises(ConfigError):
                dataclasses.replace(PAPER, **wrong)

    def test_it_needs_no_tensorflow(self):
        code = "import sys, dc_tf.clustering.cost.model; sys.exit('tensorflow' in sys.modules)"
        self.assertEqual(subprocess.run([sys.executable, "-c", code], check=False).returncode, 0)


if __name__ == "__main__":
    tf.test.main()
