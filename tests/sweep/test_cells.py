import os
import tempfile

import numpy as np
import sweeps
import tensorflow as tf

from dc_tf.errors import ConfigError
from dc_tf.sweep.cells import expand, runs_of
from dc_tf.sweep.folder import SweepFolder
from dc_tf.sweep.sweep_file import read_sweep
from dc_tf.sweep.views import random_rows

FOLDER = SweepFolder("/S")
STAGES = [
    {"name": "rotnet", "epochs": 1, "clusters": 1, "sub_clusters": 0, "batch_size": 16},
    {"name": "deepercluster", "epochs": 1, "clusters": 2, "sub_clusters": 4, "batch_size": 16},
]


def cells(rows=60, workers=1, **fields):
    return expand(read_sweep(sweeps.changed(**fields), data="/D"), rows, FOLDER, workers)


class CellsTest(tf.test.TestCase):
    def test_variants_points_and_seeds_are_combined(self):
        found = [cell.name for cell in cells()]
        self.assertLen(found, 8)
        self.assertEqual(found[0], "first-images_0.5-seed_0")
        self.assertEqual(found[-1], "second-images_1-seed_1")

    def test_a_run_has_its_seed_its_view_and_the_network_that_it_starts_from(self):
        found = {cell.name: cell.run for cell in cells()}
        run = found["second-images_0.5-seed_1"]
        self.assertEqual((run.rows, run.fraction), (30, 0.5))
        self.assertEqual(run.experiment.seed, 1)
        self.assertEqual(run.experiment.data.path, "/S/data/fraction_0.5-seed_1")
        self.assertEqual(run.experiment.init_from, "/S/runs/first-images_0.5-seed_1")
        self.assertEqual(found["first-images_1-seed_0"].experiment.data.path, "/D")

    def test_changes_of_a_point_come_after_those_of_the_variant(self):
        found = cells(
            settings={**sweeps.SWEEP["settings"], "stages": STAGES},
            axes={"clusters": {"setting": "stages[1].sub_clusters", "values": [3, 5]}},
            variants={"a": {"settings": {"stages[1].sub_clusters": 4, "stages[1].clusters": 1}}},
            seeds=[0],
        )
        stages = [cell.run.experiment.stages[1] for cell in found]
        self.assertEqual([(s.clusters, s.sub_clusters) for s in stages], [(1, 3), (1, 5)])

    def test_stages_are_chosen_by_name_after_all_changes(self):
        found = cells(
            settings={**sweeps.SWEEP["settings"], "stages": STAGES},
            variants={"a": {"stages": ["flat"], "settings": {"stages[1].name": "flat"}}},
        )
        self.assertEqual([s.name for s in found[0].run.experiment.stages], ["flat"])
        self.assertEqual(found[0].run.experiment.stages[0].sub_clusters, 4)

    def test_a_variant_without_an_axis_is_run_once_and_started_from_by_all_points(self):
        found = cells(variants={"a": {"axes": []}, "b": {"after": "a"}}, seeds=[0])
        self.assertEqual([cell.name for cell in found][:2], ["a-seed_0", "b-images_0.5-seed_0"])
        self.assertEqual(
            {cell.run.after and cell.run.after.name for cell in found[1:]}, {"a-seed_0"}
        )
        self.assertLen(runs_of(found), 3)

    def test_runs_come_after_those_that_they_start_from(self):
        found = cells(variants={"b": {"after": "a"}, "a": {}})
        self.assertEqual(found[0].variant, "b")
        names = [run.name for run in runs_of(found)]
        for run in runs_of(found):
            if run.after:
                self.assertLess(names.index(run.after.name), names.index(run.name))

    def test_an_untrained_cell_has_the_run_of_the_trained_one(self):
        found = cells(
            variants={"r": {"untrained": "t"}, "t": {}, "s": {"untrained": "t", "axes": []}}
        )
        self.assertTrue(found[0].untrained)
        self.assertEqual(found[0].run.name, "t-images_0.5-seed_0")
        self.assertEqual(found[-1].run.name, "t-images_0.5-seed_1")
        self.assertLen(runs_of(found), 4)

    def test_fractions_multiply_and_a_base_may_be_the_variants_own(self):
        found = cells(
            variants={"a": {"fraction": 0.5}, "b": {"base": "quickstart", "stages": ["rotnet"]}},
            settings={"model.resolution": 48, "stages": STAGES},
        )
        self.assertEqual([cell.run.rows for cell in found], [15, 15, 30, 30, 30, 30, 60, 60])
        self.assertNotEqual(found[0].run.experiment.model.width, 0.25)
        self.assertEqual(found[-1].run.experiment.model.width, 0.25)

    def test_mistakes_are_refused_with_the_cell(self):
        place = "^the sweep, cell first-images_0.5-seed_0: "
        wrong = {"settings": {"model.nothing": 1}}
        with self.assertRaisesRegex(ConfigError, f"{place}unknown setting 'model.nothing'"):
            cells(variants={"first": wrong})
        with self.assertRaisesRegex(ConfigError, f"{place}stages has x; the exp.* has rotnet"):
            cells(variants={"first": {"stages": ["x"]}})
        with self.assertRaisesRegex(ConfigError, f"{place}stages.0..*needs at least 4 images"):
            cells(rows=4)
        with self.assertRaisesRegex(ConfigError, f"{place}stages.0..*48 workers"):
            cells(workers=48)
        with self.assertRaisesRegex(ConfigError, "two cells are named 'a_b-"):
            cells(variants={"a b": {}, "a_b": {}})


class ViewsTest(tf.test.TestCase):
    def test_views_of_one_seed_are_nested_and_those_of_others_differ(self):
        few, many = random_rows(100, 20, seed=3), random_rows(100, 60, seed=3)
        self.assertLen(np.unique(few), 20)
        self.assertContainsSubset(few.tolist(), many.tolist())
        self.assertNotAllEqual(few, random_rows(100, 20, seed=4))
        self.assertAllEqual(random_rows(100, 100, seed=3), np.arange(100))


class FolderTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = SweepFolder(tempfile.mkdtemp(dir=self.get_temp_dir()))

    def runs(self, **fields):
        sweep = read_sweep(sweeps.changed(**fields), data="/D")
        return runs_of(expand(sweep, 60, self.folder))

    def test_cells_may_be_added_and_left_out_but_not_changed(self):
        from dc_tf.sweep.precisions import Precisions

        self.folder.record(self.runs(), "print", Precisions("float32"), 1)
        more = self.runs(seeds=[0, 1, 2])
        self.folder.check_same(more, "print")
        self.folder.check_same(self.runs(seeds=[1]), "print")
        self.folder.record(self.runs(seeds=[7]), "print", Precisions("float32"), 1)
        other = self.runs(settings={**sweeps.SWEEP["settings"], "checkpoint_every": 9})
        self.folder.check_same(other, "print")  # which has no influence on results
        other = self.runs(variants={"first": {"settings": {"stages[0].epochs": 3}}})
        message = r"first-images_0.5-seed_0 is a run with other.*stages\[0\].epochs: 2, 3"
        with self.assertRaisesRegex(ConfigError, message):
            self.folder.check_same(other, "print")
        with self.assertRaisesRegex(ConfigError, "on another data set \\(print\\) than this"):
            self.folder.check_same(more, "other")

    def test_a_sweep_that_was_moved_is_the_same(self):
        from dc_tf.sweep.precisions import Precisions

        self.folder.record(self.runs(), "print", Precisions("float32"), 1)
        moved = f"{self.folder.path}-moved"
        os.rename(self.folder.path, moved)
        self.folder = SweepFolder(moved)
        self.folder.check_same(self.runs(), "print")


if __name__ == "__main__":
    tf.test.main()
