import errno
import json
import os
import pathlib
import tempfile
from unittest import mock

import devkit
import numpy as np
import pytest
import task_protocol
import tensorflow as tf
import workers
from PIL import Image
from striped import NAMES, RESOLUTION, call, stripes, write_model, write_stripes

from dc_tf.data.storage.manifest import Dataset
from dc_tf.data.storage.writer import DatasetWriter
from dc_tf.errors import ConfigError, DataError
from dc_tf.evaluation.frozen import knn, linear_probe, low_shot
from dc_tf.evaluation.frozen.features import Extractor, FeatureCache, extract, parse_layers
from dc_tf.evaluation.frozen.pooling import cell_average
from dc_tf.evaluation.models import open_model, random_init
from dc_tf.evaluation.splits import open_splits
from dc_tf.evaluation.task_names import TASKS
from dc_tf.evaluation.tasks import Request
from dc_tf.exporting.weights import weights_digest
from dc_tf.nn.vgg16 import LAYERS

CONFIGS = pathlib.Path(__file__).resolve().parents[2] / "configs" / "evaluation"
SMALL = CONFIGS / "linear_probe_small.yaml"
PROBE = {"epochs": 2, "batch_size": 16, "learning_rate": 0.01, "max_features": 200}


def measure_on(cluster, task, settings, model, train, test, layers=("conv2", "conv4", "fc7")):
    """What a task finds, on each of some workers."""
    module, protocol = task_protocol.of_settings(task, [], [repr(settings)])
    # Not "auto", which two calls may decide differently where both types are about as fast.
    settings = {"layers": layers, "compute_dtype": "float32", "cluster": cluster}
    request = Request(task, model, train=train, test=test, **settings)
    return module.run(request, protocol)[0]


class TasksTest(tf.test.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.root = folder.name
        cls.train = write_stripes(os.path.join(cls.root, "train"), 60, seed=0)
        cls.test = write_stripes(os.path.join(cls.root, "test"), 40, seed=1)
        cls.model = write_model(os.path.join(cls.root, "model"))
        cls.frozen = open_model(cls.model)

    def splits(self):
        return open_splits(self.train, self.test)

    def call(self, *flags):
        paths = [f"--model={self.model}", f"--train={self.train}", f"--test={self.test}"]
        return call("evaluate", "--noestimate", *paths, *flags)

    def test_features_are_those_of_the_network_in_the_order_of_the_rows(self):
        train, _ = self.splits()
        extractor = Extractor(self.frozen.trunk, {n: cell_average() for n in ("conv4", "fc7")})
        images = np.concatenate(list(train.images(64, RESOLUTION, RESOLUTION)))
        with FeatureCache() as cache:
            found = extract(extractor, self.frozen, train, cache, batch_size=7)
        expected = self.frozen.trunk(images)
        self.assertAllClose(found["fc7"], expected["fc7"], atol=1e-5)
        self.assertAllClose(found["conv4"], np.mean(expected["conv4"], (1, 2)), atol=1e-5)

    def test_features_beyond_the_memory_bound_go_to_files_that_are_removed(self):
        train, _ = self.splits()
        extractor = Extractor(self.frozen.trunk, {"conv4": cell_average()})
        scratch = os.path.join(self.get_temp_dir(), "scratch")
        with FeatureCache(scratch, memory_bytes=0) as cache, FeatureCache() as memory:
            found = extract(extractor, self.frozen, train, cache)["conv4"]
            self.assertIsInstance(found, np.memmap)
            self.assertAllEqual(found, extract(extractor, self.frozen, train, memory)["conv4"])
            self.assertLen(os.listdir(scratch), 1)
        self.assertEmpty(os.listdir(scratch))

    def test_neighbours_find_the_stripes(self):
        results = knn.evaluate(self.frozen, *self.splits(), ["conv2", "conv4"], knn.Protocol())
        self.assertGreater(results["conv4"]["top1"], 0.9)
        self.assertEqual(results["conv4"]["top1"], results["conv4"]["top1_k20"])

    def test_few_labels_find_the_stripes(self):
        protocol = low_shot.Protocol(shots=(1, 8, 20), draws=3)
        results = low_shot.evaluate(self.frozen, *self.splits(), ["conv4"], protocol)["conv4"]
        self.assertGreater(results["top1_s20"], 0.9)
        self.assertEqual(results["top1"], results["top1_s20"])

    @pytest.mark.slow
    def test_processes_find_the_same_as_one(self):
        protocol = low_shot.Protocol(shots=(1, 8), draws=2)
        arguments = self.frozen, *self.splits(), ["conv2", "conv4"], protocol
        alone = low_shot.evaluate(*arguments)
        with mock.patch.object(low_shot, "_WORTH_PROCESSES", 0):
            with mock.patch.object(low_shot, "cores", return_value=2):
                self.assertEqual(low_shot.evaluate(*arguments), alone)

    def test_more_labels_help_where_features_are_noisy(self):
        protocol, splits = low_shot.Protocol(shots=(1, 5, 30), draws=4), self.splits()
        random = np.random.default_rng(0)
        noisy = [
            {"fc7": random.normal(0.4 * split.labels[:, None], 1.0, (len(split.rows), 40))}
            for split in splits
        ]

        def metrics():
            with mock.patch.object(low_shot, "extract_cells", return_value=noisy):
                return low_shot.evaluate(self.frozen, *splits, ["fc7"], protocol)["fc7"]

        found = metrics()
        self.assertLess(found["top1_s1"], found["top1_s5"])
        self.assertLess(found["top1_s5"], found["top1_s30"])
        self.assertGreater(found["std_s1"], 0.0)
        self.assertEqual(found["std_s30"], 0.0)  # all images, in every draw
        self.assertEqual(metrics(), found)

    def test_fewer_shots_are_among_more_and_every_class_has_as_many(self):
        train, _ = self.splits()
        drawn = low_shot.draw(train, low_shot.Protocol(shots=(2, 5), draws=2))
        for two, five in drawn:
            self.assertContainsSubset(two, five)
            self.assertAllEqual(np.bincount(train.labels[five]), [5, 5])
        self.assertNotAllEqual(drawn[0, 1], drawn[1, 1])
        with self.assertRaisesRegex(ConfigError, "has 30 images, but up to 31"):
            low_shot.draw(train, low_shot.Protocol(shots=(31,)))

    @pytest.mark.slow
    def test_linear_classifiers_find_the_stripes_cached_and_augmented(self):
        small = linear_probe.Protocol(
            epochs=8,
            batch_size=16,
            augment=False,
            standardize=True,
            learning_rate=2.0,
            max_features=300,
        )
        augmented = linear_probe.Protocol(
            epochs=4, batch_size=16, standardize=True, learning_rate=2.0
        )
        for protocol in (small, augmented):
            results = linear_probe.evaluate(self.frozen, *self.splits(), ["conv3"], protocol)
            self.assertGreater(results["conv3"]["top1"], 0.9)
            self.assertLess(results["conv3"]["train_loss"], 0.6)
        self.assertLess(results["conv3"]["dimensions"], 10_000)

    @pytest.mark.slow
    def test_layers_in_one_pass_equal_each_on_its_own(self):
        for augment in (False, True):
            protocol = linear_probe.Protocol(
                epochs=2, batch_size=16, augment=augment, learning_rate=0.01, max_features=200
            )
            both = linear_probe.evaluate(self.frozen, *self.splits(), ["conv3", "fc6"], protocol)
            alone = linear_probe.evaluate(self.frozen, *self.splits(), ["conv3"], protocol)
            self.assertAllClose(both["conv3"], alone["conv3"], rtol=1e-4)

    @pytest.mark.slow
    def test_two_workers_find_what_one_finds(self):
        for task, settings in (
            ("knn", {"batch_size": 7}),
            ("linear_probe", {**PROBE, "augment": True}),
        ):
            self.check_two_workers(task, settings)

    @pytest.mark.extended
    def test_two_workers_find_what_one_finds_in_other_tasks_and_with_fewer_layers(self):
        for task, settings in (
            ("low_shot", {"shots": [1, 4], "draws": 2, "batch_size": 7}),
            ("linear_probe", {**PROBE, "augment": False}),
        ):
            self.check_two_workers(task, settings)
        for task, settings in (("knn", {}), ("linear_probe", {**PROBE, "augment": True})):
            # A worker is left without a layer.
            arguments = task, settings, self.model, self.train, self.test, ("conv4",)
            (alone,) = workers.on_cluster(1, measure_on, *arguments)
            self.assertEqual(workers.on_cluster(2, measure_on, *arguments), [alone] * 2, task)

    def check_two_workers(self, task, settings):
        arguments = task, settings, self.model, self.train, self.test
        (alone,) = workers.on_cluster(1, measure_on, *arguments)
        self.assertEqual(workers.on_cluster(2, measure_on, *arguments), [alone] * 2, task)
        self.assertEqual(list(alone["layers"]), ["conv2", "conv4", "fc7"])

    @pytest.mark.extended
    def test_two_workers_find_what_one_finds_in_a_development_kit(self):
        kit = os.path.join(self.root, "kit of two")
        devkit.draw(kit, {"trainval": 30, "test": 20}, size=(40, 40))
        settings = {**PROBE, "train_split": "trainval", "test_split": "test", "augment": True}
        arguments = "linear_probe", settings, self.model, kit, None
        (alone,) = workers.on_cluster(1, measure_on, *arguments)
        self.assertEqual(workers.on_cluster(2, measure_on, *arguments), [alone] * 2)
        self.assertGreater(alone["layers"]["conv4"]["map"], 0)

    @pytest.mark.slow
    def test_a_loss_that_explodes_is_reported(self):
        protocol = linear_probe.Protocol(epochs=2, augment=False, learning_rate=1e38)
        with self.assertRaisesRegex(DataError, "lower learning_rate"):
            linear_probe.evaluate(self.frozen, *self.splits(), ["conv3"], protocol)

    def test_test_labels_follow_the_names_of_the_training_classes(self):
        turned = write_stripes(os.path.join(self.root, "turned"), 40, seed=1, names=NAMES[::-1])
        train, test = open_splits(self.train, turned)
        self.assertAllEqual(test.labels[:4], [1, 0, 1, 0])
        results = knn.evaluate(self.frozen, train, test, ["conv4"], knn.Protocol())
        self.assertGreater(results["conv4"]["top1"], 0.9)

    def test_data_sets_that_cannot_be_measured_on_are_refused(self):
        unlabelled = os.path.join(self.root, "unlabelled")
        with DatasetWriter(unlabelled) as writer:
            writer.write(stripes(0, np.random.default_rng(0)))
        stranger = write_stripes(
            os.path.join(self.root, "stranger"), 4, 0, ("across", "up"), lambda name: 0
        )
        with self.assertRaisesRegex(ConfigError, "labels_from_folders"):
            open_splits(self.train, unlabelled)
        with self.assertRaisesRegex(ConfigError, "'up'"):
            open_splits(self.train, stranger)
        with self.assertRaisesRegex(ConfigError, "is a data set; use a SavedModel"):
            open_model(self.train)

    def test_rows_without_label_are_left_out(self):
        path = os.path.join(self.root, "partly")
        random = np.random.default_rng(0)
        with DatasetWriter(path, class_names=NAMES) as writer:
            for label in (None, 1, None, 0):
                writer.write(stripes(label or 0, random), label=label)
        train, _ = open_splits(path, self.test)
        self.assertAllEqual(train.rows, [1, 3])
        self.assertAllEqual(train.labels, [1, 0])

    def test_random_init_has_the_shape_and_other_weights(self):
        untrained = random_init(self.frozen, seed=1)
        self.assertEqual(untrained.trunk.settings, self.frozen.trunk.settings)
        self.assertNotAllClose(untrained.trunk.fc7.kernel, self.frozen.trunk.fc7.kernel)

    def test_bfloat16_products_give_nearly_the_same_features(self):
        rough = open_model(self.model, compute_dtype="bfloat16")
        images = np.random.default_rng(0).random((4, RESOLUTION, RESOLUTION, 3), np.float32)
        expected, found = self.frozen.trunk(images)["conv7"], rough.trunk(images)["conv7"]
        self.assertAllClose(found, expected, atol=0.05 * np.abs(expected).max())

    def test_the_command_prints_a_table_and_writes_and_returns_json(self):
        output = os.path.join(self.get_temp_dir(), "knn.json")
        code, out, err = self.call("--task=knn", "--layer=conv2,fc7", f"--output={output}")
        self.assertEqual(code, 0, err)
        result = json.loads(out.splitlines()[-1])
        with open(output) as f:
            self.assertEqual(json.load(f), result)
        self.assertEqual(list(result["layers"]), ["conv2", "fc7"])
        self.assertEqual(list(result["random_init"]), ["conv2", "fc7"])
        self.assertEqual(result["opened"]["weights"], weights_digest(self.frozen.trunk))
        self.assertEqual(result["opened"]["test"], Dataset.open(self.test).fingerprint())
        self.assertEqual(result["versions"]["tensorflow"], tf.__version__)
        self.assertEqual(result["top1"], result["layers"][result["best_layer"]]["top1"])
        self.assertEqual(result["metric"], "top1")
        self.assertEqual(result["below_random_init"], [])  # it is one itself
        self.assertRegex(out, r"\nconv2 +\d+\.\d\d")
        self.assertRegex(out, r"\nbest layer by top1: conv2, \d+\.\d\d; of random init conv2, ")
        self.assertIn("random init", out)

    @pytest.mark.slow
    def test_a_result_that_cannot_be_written_is_printed_before_the_error(self):
        output = os.path.join(self.get_temp_dir(), "full.json")
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with mock.patch("os.fsync", side_effect=full):
            code, out, err = self.call("--task=knn", "--layer=fc7", f"--output={output}")
        self.assertFalse(os.path.exists(output))
        self.assertEqual(code, 1, err)
        self.assertIn("No space left", err)
        self.assertIn("fc7", json.loads(out.splitlines()[-1])["layers"])

    @pytest.mark.merge
    @pytest.mark.slow
    def test_the_command_says_if_it_measures_on_what_it_learns_from(self):
        with self.assertLogs("absl", "WARNING") as logs:
            code, _, err = self.call("--task=knn", "--layer=fc7", f"--test={self.train}/")
        self.assertEqual(code, 0, err)
        self.assertIn(f"--train and --test are both {self.train}/: metrics", logs.output[0])

    @pytest.mark.slow
    def test_the_command_shows_the_papers_accuracies_on_data_declared_as_the_papers(self):
        picture = os.path.join(self.get_temp_dir(), "layers.png")
        few = "--params_override=epochs=1,batch_size=16"
        flags = [f"--config_file={SMALL}", "--layer=conv13", "--norandom_init"]
        code, out, err = self.call(*flags, few)
        self.assertEqual(code, 0, err)
        self.assertNotIn("paper:", out)
        flags.append(f"--plot={picture}")
        code, out, err = self.call(*flags, f"{few},paper=imagenet")
        self.assertEqual(code, 0, err)
        self.assertRegex(out, r"paper:DeeperCluster\nconv13 .* 45\.60\n")
        result = json.loads(out.splitlines()[-1])
        self.assertIsNone(result["random_init_top1"])
        self.assertIsNone(result["below_random_init"])
        self.assertIn("; random init: not measured\n", out)
        self.assertEqual(result["protocol"]["batch_size"], 16)
        with Image.open(picture) as image:
            self.assertEqual(image.size, (960, 540))
            self.assertGreater(len(np.unique(np.asarray(image).reshape(-1, 4), axis=0)), 20)

    @pytest.mark.extended
    def test_linear_classifiers_of_a_development_kit_are_measured_by_average_precision(self):
        folder = os.path.join(self.root, "kit")
        counts = {"trainval": 60, "test": 30}
        devkit.draw(folder, counts, size=(40, 40), objects=(1, 1), sides=(0.9, 1.0))
        flags = ["evaluate", f"--config_file={CONFIGS / 'linear_probe_voc07.yaml'}", "--noestimate"]
        flags += [f"--model={self.model}", f"--train={folder}", "--layer=conv4,conv13"]
        small = "epochs=10,batch_size=10,standardize=true,learning_rate=2,max_features=400"
        small += ",paper=voc07"
        for augment in ("true", "false"):
            code, out, err = call(*flags, f"--params_override={small},augment={augment}")
            self.assertEqual(code, 0, err)
            result = json.loads(out.splitlines()[-1])
            self.assertGreater(result["layers"]["conv4"]["map"], 0.9)
            self.assertGreater(result["layers"]["conv4"]["map_11_points"], 0.9)
            self.assertEqual(result["map"], result["layers"][result["best_layer"]]["map"])
            self.assertIn("random_init_map", result)
            self.assertRegex(out, r"\nconv4 .* -\nconv13 .* 73\.00\n")
        code, _, err = call(*flags, f"--test={folder}")
        self.assertEqual(code, 2)
        self.assertIn("test_split", err)

    def test_the_command_refuses_wrong_flags_before_any_work(self):
        for wrong, named in {
            "--task=nim": "low_shot, nmi",
            "--layer=conv14": "conv13",
            "--resize=8": "32",
            "--plot=layers.txt": ".png, .pdf",
            "--plot=/nowhere/layers.png": "--plot=/nowhere/layers.png cannot be written",
            "--output=/nowhere/knn.json": "the folder /nowhere does not exist",
            f"--output={self.root}": "is a folder; name a file",
            "--test=": "--test is missing; give a data set with labels",
            "--compute_dtype=half": "bfloat16",
            "--params_override=temperature=0": "temperature",
            "--params_override=epochs=2": "unknown setting 'epochs'; known here: batch_size",
            f"--config_file={SMALL}": "is for linear_probe",
        }.items():
            code, out, err = self.call("--task=knn", wrong)
            self.assertEqual((code, out), (2, ""), wrong)
            self.assertIn(named, err)

    def test_every_preset_is_of_a_task_that_takes_its_settings(self):
        paths = sorted(map(str, CONFIGS.glob("*.yaml")))
        self.assertNotEmpty(paths)
        for path in paths:
            task, _ = task_protocol.of_settings(None, [path])
            (name,) = (name for name, module in TASKS.items() if module == task.__name__)
            self.assertIn(f"task: {name}\n", open(path).read())

    def test_a_picture_of_layers_is_refused_where_none_are_measured(self):
        code, _, err = self.call("--task=nmi", "--plot=layers.png")
        self.assertEqual(code, 2)
        self.assertIn("only knn, linear_probe, low_shot", err)

    def test_layers_come_in_the_networks_order(self):
        self.assertEqual(parse_layers(["fc7", "conv2"], LAYERS), ("conv2", "fc7"))
        self.assertEqual(parse_layers(["all"], LAYERS), LAYERS)
        with self.assertRaisesRegex(ConfigError, "missing"):
            parse_layers([""], LAYERS)


if __name__ == "__main__":
    tf.test.main()
