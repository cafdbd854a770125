"""What is measured before a run, on real networks."""

import os
import shutil
import tempfile
from unittest import mock

import pytest
import runs
import tensorflow as tf
import workers

from dc_tf import memory
from dc_tf.data.storage.manifest import Dataset
from dc_tf.distributed.cluster import connect
from dc_tf.experiment import load
from dc_tf.planning.plan import make_plan
from dc_tf.planning.report import as_dict, as_text
from dc_tf.training import measure as measure_lib


def measured(cluster, settings, planned_workers=None, limits=None):
    """(plan, rates) of an experiment; `limits` are of the measurement."""
    from dc_tf.training import measure as measure_lib

    experiment = load(params_override=[repr(settings)])
    rows = Dataset.open(experiment.data.path).rows
    plan = make_plan(experiment, rows, planned_workers or cluster.size)
    short = {"_MEASURED_S": 0.2, "_SEARCH_S": 0.02, **(limits or {})}
    with mock.patch.multiple(measure_lib, **short):
        return plan, measure_lib.measure(experiment, plan, cluster)


def speeds(cluster, settings):
    """What this worker knows after all have measured together."""
    plan, rates = measured(cluster, settings)
    return rates.images_per_s, rates.extract_per_s, rates.source


@pytest.mark.slow
class MeasureTest(tf.test.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.folder = tempfile.mkdtemp()
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        cls.settings = runs.settings(runs.make_data(cls.folder))

    def test_all_times_are_known_and_those_of_the_clusterings_hold_the_extraction(self):
        plan, rates = measured(connect(), self.settings)
        text, found = as_text(plan, rates), as_dict(plan, rates)
        self.assertNotIn("unknown", text)
        self.assertRegex(
            text, r"images a second \(measured here, one worker on CPU\), and .* of clus"
        )
        _, deeper = found["stages"]
        extraction_s = 128 / found["measured"]["extract_images_per_second"]
        self.assertGreater(deeper["clustering_seconds"], 2 * extraction_s)  # two rounds
        self.assertIsNone(found["stages"][0]["clustering_seconds"])

    def test_extraction_is_measured_with_the_projection_of_the_stage(self):
        rotnet, deeper = self.settings["stages"]
        projected = {**deeper, "projection": {"hidden": 12, "dim": 8}}
        projected["clustering"] = {"iterations": 3, "whiten": False}
        seen = []

        def spy(trunk, projection):
            seen.append(projection)
            return lambda images: trunk(images)[trunk.feature_layer]

        with mock.patch.object(measure_lib, "clustered_features", spy):
            for stages in ([rotnet, projected], [rotnet, deeper]):
                measured(connect(), {**self.settings, "stages": stages}, limits={"_ALL_S": -1.0})
        self.assertEqual(seen[0].hidden.units, 12)
        self.assertIsNone(seen[1])

    def test_nothing_is_written_and_the_wrong_labels_leave_no_trace(self):
        before = sorted(os.listdir(self.folder))
        measured(connect(), self.settings)
        self.assertEqual(sorted(os.listdir(self.folder)), before)

    @pytest.mark.extended
    def test_a_process_alone_measures_the_part_of_one_of_many_workers(self):
        # More workers than super-classes share the heads, which one process has nobody to do with.
        learner, statistics = measure_lib.Learner, []

        def spy(*args, **kwargs):
            statistics.append(kwargs["statistics"])
            return learner(*args, **kwargs)

        with mock.patch.object(measure_lib, "Learner", spy):
            plan, rates = measured(connect(), self.settings, planned_workers=16)
            alone = measured(connect(), self.settings)[1]
        self.assertEqual(plan.stages[0].batch.per_worker, 2)
        self.assertIn("for 16 that are as fast, without exchanges", rates.source)
        self.assertGreater(rates.extract_per_s, 2 * alone.extract_per_s)
        # Batch norm of several workers has another formula.
        self.assertEqual([each and each.size for each in statistics], [2, 2, None, None])

    def test_a_step_that_takes_too_long_is_measured_with_fewer_images_and_says_so(self):
        plan, rates = measured(connect(), self.settings, limits={"_MOST_STEP_S": 0.0})
        self.assertIn("measured with 4 of a worker's 32 images", rates.notes[0])
        self.assertGreater(rates.images_per_s[0], 0)
        self.assertIn("measured with 4 of", as_text(plan, rates))

    def test_parts_of_a_batch_are_left_out_before_they_are_made_smaller(self):
        stages = [{**self.settings["stages"][0], "accumulate": 4}]
        settings = {**self.settings, "stages": stages}
        sizes = []
        learner = measure_lib.Learner

        def spy(cluster, batch, trunk, stage, *args, **kwargs):
            sizes.append((batch.batch_size, stage.accumulate))
            return learner(cluster, batch, trunk, stage, *args, **kwargs)

        with mock.patch.object(measure_lib, "Learner", spy):
            measured(connect(), settings)
            # A quarter of what the step of 32 images is taken for.
            measure_lib_seconds = measure_lib._STEP_PASSES * 32 / 1e9
            with mock.patch.object(measure_lib._Measurement, "_extraction", return_value=1e9):
                limits = {"_MOST_STEP_S": measure_lib_seconds / 4}
                measured(connect(), settings, limits=limits)
        self.assertEqual(sizes, [(32, 4), (8, 1)])

    def test_what_does_not_fit_the_memory_is_not_begun(self):
        with mock.patch.object(memory, "free_memory", return_value=-(10**9)):
            plan, rates = measured(connect(), self.settings)
        self.assertEmpty(rates.images_per_s)
        self.assertRegex(as_text(plan, rates), "time: unknown, not measured: a worker needs at")

    def test_when_the_time_is_over_the_stages_that_are_left_say_so(self):
        plan, rates = measured(connect(), self.settings, limits={"_ALL_S": -1.0})
        self.assertEmpty(rates.images_per_s)
        self.assertIn("earlier stages took more than", as_text(plan, rates))

    @pytest.mark.extended
    def test_workers_that_measure_together_know_the_same(self):
        first, second = workers.on_cluster(2, speeds, self.settings)
        self.assertEqual(first, second)
        self.assertEqual(set(first[0]), {0, 1})
        self.assertEqual(first[2], "measured here, 2 workers together on CPU")


if __name__ == "__main__":
    tf.test.main()
