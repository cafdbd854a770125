"""Every sweep that is shipped, without training: its cells, and its shape beside the paper's."""

import os

import tensorflow as tf

from dc_tf import shipped
from dc_tf.errors import ConfigError
from dc_tf.experiment import load
from dc_tf.sweep.cells import expand, runs_of
from dc_tf.sweep.checks import check_runs
from dc_tf.sweep.folder import SweepFolder
from dc_tf.sweep.sweep_file import read_sweep

ROWS = {"small": 50_000, "quickstart": 3_542, "paper": 96_000_000}


def made(name):
    """(sweep, cells) of a preset, on a data set of its size."""
    sweep = read_sweep(name, data="/D", train="/T", test="/E")
    return sweep, expand(sweep, ROWS[name.rpartition("_")[2]], SweepFolder("/S"), workers=1)


class PresetsTest(tf.test.TestCase):
    def test_every_preset_can_be_run_and_evaluated(self):
        from dc_tf.evaluation import tasks

        presets = shipped.presets("sweeps")
        self.assertLen(presets, 13)
        for name in presets:
            sweep, cells = made(name)
            check_runs(runs_of(cells), sweep)
            for evaluation in sweep.evaluations:
                settings = [evaluation.settings]
                tasks.read(evaluation.task or None, evaluation.config_files, settings)
            self.assertNotEmpty(sweep.plot.x, name)

    def test_paper_and_small_form_of_an_ablation_have_the_same_methods_and_axes(self):
        names = ("methods", "images", "clusters", "input", "layers")
        self.assertContainsSubset(
            [f"{name}_{form}" for name in names for form in ("small", "paper")],
            list(shipped.presets("sweeps")),
        )
        for name in names:
            small, paper = (read_sweep(f"{name}_{form}", data="D") for form in ("small", "paper"))
            self.assertEqual([axis.name for axis in small.axes], [axis.name for axis in paper.axes])
            methods = {variant.name for variant in small.variants} - {"random"}
            self.assertEqual(methods, {variant.name for variant in paper.variants})
            self.assertEqual((small.paper, small.title), (paper.paper, paper.title))

    def test_the_largest_number_of_clusters_has_two_of_the_first_level(self):
        for name, largest in (("clusters_small", (2, 320)), ("clusters_paper", (2, 80_000))):
            _, cells = made(name)
            stage = cells[-1].run.experiment.stages[-1]
            self.assertEqual((stage.clusters, stage.sub_clusters), largest)
            for cell in cells:
                if cell.labels:
                    stage = cell.run.experiment.stages[-1]
                    total = stage.clusters * stage.sub_clusters
                    self.assertEqual(cell.labels["clusters"], str(total))

    def test_images_are_the_papers(self):
        _, cells = made("images_paper")
        rows = sorted({round(cell.run.rows / 1e6) for cell in cells})
        self.assertEqual(rows, [1, 4, 20, 96])
        _, cells = made("input_paper")
        self.assertEqual(sorted({round(cell.run.rows / 1e6) for cell in cells}), [1, 20])

    def test_methods_are_those_of_the_recorded_results(self):
        for name, clusters in (("methods_small", 200), ("methods_quickstart", 80)):
            _, cells = made(name)
            stages = {cell.variant: cell.run.experiment.stages for cell in cells}
            (rotnet,), (deep,), (deeper,) = (
                stages[method] for method in ("RotNet", "DeepCluster", "DeeperCluster")
            )
            self.assertEqual((rotnet.clusters, rotnet.sub_clusters), (1, 0))
            self.assertEqual((deep.super_classes, deep.sub_clusters), (1, clusters))
            self.assertEqual(deeper.clusters * deeper.sub_clusters, clusters)
            self.assertEqual(deep.epochs, deeper.epochs)

    def test_methods_have_the_parts_of_the_preset_alike(self):
        preset = load(["deepercluster2_small"], ["data.path=/D"])
        (stage,) = preset.stages
        _, cells = made("methods_parts_small")
        for cell in cells:
            (own,) = cell.run.experiment.stages
            self.assertEqual((own.views, own.augmentation), (stage.views, stage.augmentation))
            self.assertEqual((own.optimizer, own.batch_size), (stage.optimizer, stage.batch_size))
            self.assertEqual(cell.run.experiment.model.trunk, preset.model.trunk)
            if own.sub_clusters:
                for name in ("projection", "head", "temperature", "clusterings"):
                    self.assertEqual(getattr(own, name), getattr(stage, name), name)
        self.assertCountEqual(
            {cell.run.experiment.stages[0].super_classes for cell in cells}, [4, 1, 16]
        )

    def test_a_preset_that_is_not_there_is_refused(self):
        with self.assertRaisesRegex(ConfigError, "of sweep: clusters_paper, clusters_small"):
            read_sweep("method_small")
        self.assertTrue(os.path.isfile(shipped.config_file("methods_small")))


if __name__ == "__main__":
    tf.test.main()
