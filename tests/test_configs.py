"""Every configuration that is shipped runs, made smaller."""

import os
import pathlib
import shutil
import tempfile

import pytest
import runs
import tensorflow as tf
import workers

from dc_tf.commands import curate, embed, evaluate, finetune, kmeans
from dc_tf.experiment import load
from dc_tf.run_dir import RunDir
from dc_tf.training.monitoring.metrics import read
from dc_tf.training.optimizers.learning_rate import epoch_rates

CONFIGS = pathlib.Path(__file__).resolve().parent.parent / "configs"


def shrunk(path, data):
    """The settings of a configuration, with few epochs, small images and few clusters."""
    experiment = load([str(path)], ["{data: {path: unused}}"])
    settings = experiment.as_dict()
    settings["data"] |= {"path": data, "resize": 0}
    settings["model"] |= {"width": 1 / 16, "resolution": 32, "fc": 16}
    settings |= {"log_every": 2, "checkpoint_every": 4, "stages": list(settings["stages"])}
    for stage in settings["stages"]:
        stage |= {"epochs": 2, "batch_size": 32, "reassign_every": 1}
        stage["sub_clusters"] = min(stage["sub_clusters"], 5)
        stage["clustering"] |= {"iterations": 2}
        stage["clustering"]["whitening_dim"] = 8 if stage["clustering"]["whiten"] else 0
        optimizer, views = stage["optimizer"], stage["views"]
        optimizer |= {"learning_rate": 0.01, "drops": list(optimizer["drops"])}
        optimizer["warmup_epochs"] = min(optimizer["warmup_epochs"], 1)
        views["local_size"] = min(views["local_size"], 32)
    return settings


class ConfigsTest(tf.test.TestCase):
    @pytest.mark.slow
    def test_the_configuration_of_the_quickstart_trains_when_shrunk(self):
        self.check_training([CONFIGS / "quickstart.yaml"])

    @pytest.mark.slow
    def test_those_of_the_newest_parts_train_when_shrunk(self):
        self.check_training([CONFIGS / "deepercluster2_small.yaml"])

    @pytest.mark.extended
    def test_every_other_shipped_configuration_trains_when_shrunk(self):
        paths = sorted(set(CONFIGS.glob("*.yaml")) - {CONFIGS / "quickstart.yaml"})
        self.assertNotEmpty(paths)
        self.check_training(paths)

    def check_training(self, paths):
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        data = runs.make_data(folder, images=64)
        for path in paths:
            workdir = os.path.join(folder, path.stem)
            settings = shrunk(path, data)
            (result,) = workers.on_cluster(1, runs.train, settings, workdir)
            self.assertEqual(result["steps"], 4 * len(settings["stages"]), path.name)
            clusterings = [m for m in read(RunDir(workdir).metrics) if m["event"] == "clustering"]
            self.assertLen(clusterings, result["rounds"])

    def test_small_presets_and_commands_measure_which_precision_is_faster(self):
        for name in ("quickstart", "cifar10_small", "deepercluster2_small"):
            experiment = load([name], ["{data: {path: unused}}"])
            clustered = [s.clustering.precision for s in experiment.stages if s.clustered]
            self.assertEqual({experiment.model.compute_dtype, *clustered}, {"auto"}, name)
        for module, flag in (
            (kmeans, "precision"),
            (curate, "precision"),
            (evaluate, "compute_dtype"),
            (embed, "compute_dtype"),
            (finetune, "compute_dtype"),
        ):
            self.assertEqual(module.FLAGS[flag].default, "auto", module.__name__)

    def test_the_paper_is_in_the_configurations(self):
        data = ["{data: {path: unused}}"]
        stage = load([str(CONFIGS / "deepercluster_yfcc100m.yaml")], data).stages[0]
        self.assertEqual((stage.super_classes, stage.clusters * stage.sub_clusters), (16, 320_000))
        self.assertEqual((stage.batch_size, stage.optimizer.learning_rate), (3072, 0.1))
        rotnet = load([str(CONFIGS / "rotnet_yfcc100m.yaml")], data).stages[0]
        self.assertEqual(tuple(rotnet.optimizer.drops), (60, 120, 180))
        deepcluster = load([str(CONFIGS / "deepcluster_imagenet.yaml")], data)
        self.assertEqual(deepcluster.stages[0].super_classes, 1)

    def test_deepcluster2_is_as_published(self):
        data = ["{data: {path: unused}}"]
        experiment = load([str(CONFIGS / "deepercluster2_imagenet.yaml")], data)
        (stage,) = experiment.stages
        self.assertEqual((experiment.model.trunk, experiment.model.sobel), ("resnet50", False))
        self.assertEqual((stage.clusterings, stage.sub_classes), (3, 9000))
        self.assertEqual(stage.views.sizes(224), [(224, 2), (96, 6)])
        self.assertEqual((stage.head, stage.temperature), ("prototypes", 0.1))
        self.assertEqual((stage.projection.hidden, stage.projection.dim), (2048, 128))
        self.assertEqual((stage.extractions, stage.rounds), (1, 800))
        # 1,281,167 images: the rates at the ends of warm-up and training.
        steps = 1_281_167 // stage.batch_size
        rates = [*epoch_rates(stage, 10, 0, steps)[:1], *epoch_rates(stage, 799, 0, steps)[-1:]]
        self.assertAllClose(rates, [4.8, 0.0048], rtol=1e-3)

    def test_every_setting_of_deepercluster2_has_a_source(self):
        paths = list(CONFIGS.glob("deepercluster2_*.yaml"))
        self.assertLen(paths, 2)
        for path in paths:
            lines = [x for x in path.read_text().splitlines() if not x.startswith("#")]
            for line in lines:
                self.assertRegex(line, r"^ *\w+:$|# \[\w+\]", path.name)


if __name__ == "__main__":
    tf.test.main()
