"""Cost estimates: arithmetic at known rates, and counts of parts against the actual work."""

import contextlib
import dataclasses
import os
import shutil
import tempfile
from unittest import mock

import devkit
import numpy as np
import pictures
import pytest
import runs
import tensorflow as tf
from striped import call, stripes, write_model, write_stripes

from dc_tf.data.voc.devkit import read_splits
from dc_tf.distributed.collectives import Solo
from dc_tf.errors import DataError
from dc_tf.evaluation import cost
from dc_tf.evaluation.cost import Part, Work
from dc_tf.evaluation.finetune import task as finetune
from dc_tf.evaluation.finetune import train as finetune_train
from dc_tf.evaluation.finetune.step import FineTuner
from dc_tf.evaluation.frozen import knn, linear_probe, low_shot, svm
from dc_tf.evaluation.frozen.features import Extractor
from dc_tf.evaluation.frozen.probes import Probes
from dc_tf.evaluation.models import open_model
from dc_tf.evaluation.retrieval import task as retrieval
from dc_tf.evaluation.retrieval.ground_truth import images_in
from dc_tf.evaluation.retrieval.rmac_features import RMACExtractor
from dc_tf.evaluation.retrieval.task import read_ground_truth
from dc_tf.evaluation.splits import open_splits
from dc_tf.evaluation.task_names import OF_FEATURES, TASKS
from dc_tf.evaluation.voc07 import classification as voc07_classification
from dc_tf.evaluation.voc07 import detection as voc07_detection
from dc_tf.evaluation.voc07.network import MultiLabelNetwork
from dc_tf.evaluation.work import steps_part


class Machine:
    """A fake clock, advanced by work of `per_s` units per second plus a fixed time per call."""

    def __init__(self, per_s, overhead_s=0.0, first_s=0.0):
        self.now = 0.0
        self.calls = []
        self._per_s, self._overhead_s, self._first_s = per_s, overhead_s, first_s

    def clock(self):
        return self.now

    def sample(self, units):
        self.now += units / self._per_s + self._overhead_s + self._first_s * (not self.calls)
        self.calls.append(units)
        return units

    def rate(self, count=1e9, most=10**9):
        return cost.rate(Part("work", count, self.sample, most), seconds=2.0, clock=self.clock)


class RateTest(tf.test.TestCase):
    def test_the_first_sample_which_traces_the_network_is_not_timed(self):
        self.assertAllClose(Machine(per_s=50, first_s=30).rate(), 50)

    def test_the_fixed_cost_of_a_call_hardly_changes_the_rate(self):
        for per_s, overhead_s in ((1e4, 0.05), (100, 0.5), (7, 0.3)):
            self.assertAllClose(Machine(per_s, overhead_s).rate(), per_s, rtol=0.1)
        # Where it takes half of the time there is, the rate is within a factor of two.
        self.assertBetween(Machine(per_s=30, overhead_s=1.0).rate(), 30 / 2.01, 30)

    def test_seconds_are_bounded_on_slow_and_fast_machines(self):
        for per_s in (0.01, 0.4, 1, 7, 1e3, 1e6):
            for overhead_s in (0, 0.3):
                machine = Machine(per_s, overhead_s)
                machine.rate()
                # A unit that traces, one beyond what fits, and what is asked for.
                self.assertLess(machine.now, 2 * (1 / per_s + overhead_s) + 2 * 2.0 + 1e-6)

    def test_samples_stay_within_a_batch_and_within_the_work_itself(self):
        for count, most, largest in ((1e9, 64, 64), (20.5, 64, 21), (0, 64, 1)):
            machine = Machine(per_s=1e6)
            machine.rate(count, most)
            self.assertEqual(max(machine.calls), largest)

    def test_a_sample_that_does_more_than_it_is_asked_for_is_counted_as_that(self):
        machine = Machine(per_s=10)
        part = Part("steps", 1000, lambda units: machine.sample(-(-units // 8) * 8), 8)
        self.assertAllClose(cost.rate(part, 2.0, machine.clock), 10)

    def test_a_batch_of_a_step_is_chosen_by_the_speed_of_the_forward_pass(self):
        chosen = {}
        for per_s in (1, 40, 1e5):
            machine = Machine(per_s)
            forward = Part("forward", 1e9, machine.sample, 1000)
            with mock.patch("dc_tf.evaluation.work.rate", return_value=per_s):
                part = steps_part(1e9, 256, lambda size: lambda: np.float32(size), forward)
                chosen[per_s] = part.sample(1)
        self.assertEqual(chosen, {1: 1, 40: 5, 1e5: 256})


class EstimateTest(tf.test.TestCase):
    def estimate(self, networks=1, world=None):
        machine = Machine(per_s=100)

        def steps(units):
            machine.now += units / 2
            return units

        work = Work("work", (Part("a", 1000, machine.sample, 64), Part("b", 30, steps, 8)))
        return cost.estimate(work, networks, world or Solo(), clock=machine.clock)

    def test_it_is_the_sum_over_parts_of_counts_by_rates_for_each_network(self):
        self.assertAllClose(self.estimate(), 1000 / 100 + 30 / 2)
        self.assertAllClose(self.estimate(networks=2), 2 * 25)

    def test_rates_of_workers_are_added(self):
        class Three(Solo):
            size = 3

            def all_sum(self, tensor):
                return tf.convert_to_tensor(3 * np.asarray(tensor))

        self.assertAllClose(self.estimate(world=Three()), 25 / 3)

    def test_durations_are_formatted_in_one_unit(self):
        for seconds, text in {
            0.2: "about 1 s",
            80: "about 80 s",
            110: "about 2 min",
            5900: "about 98 min",
            7000: "about 2 h",
            47 * 3600: "about 47 h",
            50 * 3600: "about 2 days",
            1e9: "about 11,574 days",
        }.items():
            self.assertEqual(cost.about(seconds), text)

    def test_places_of_samples_are_spread_over_the_rows(self):
        self.assertAllEqual(cost.spread(100, 4), [0, 25, 50, 75])
        self.assertAllEqual(cost.spread(3, 5), [0, 1, 2, 0, 1])


def write_groups(folder, kinds, each, seed):
    """Pictures of some objects, a sub-folder for each."""
    random = np.random.default_rng(seed)
    for kind in kinds:
        for number in range(each):
            pictures.write(folder, f"object{kind}/{number}.png", stripes(kind % 2, random))
    return folder


@contextlib.contextmanager
def counted(owner, name, units=lambda *arguments: len(arguments[0])):
    """A list that gets the units of each call of a method."""
    calls, method = [], getattr(owner, name)

    def call(self, *arguments, **named):
        calls.append(units(*arguments))
        bound = method.__get__(self, owner) if hasattr(method, "__get__") else method
        return bound(*arguments, **named)

    with mock.patch.object(owner, name, call):
        yield calls


@pytest.mark.slow
class CountsTest(tf.test.TestCase):
    """The counts of a task's parts equal the work that the task then does on small data."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.root = tempfile.mkdtemp()
        cls.addClassCleanup(shutil.rmtree, cls.root)
        train = write_stripes(os.path.join(cls.root, "train"), 26, seed=0)
        test = write_stripes(os.path.join(cls.root, "test"), 14, seed=1)
        cls.splits = open_splits(train, test)
        cls.frozen = open_model(write_model(os.path.join(cls.root, "model")))

    def counts(self, work):
        return [part.count for part in work.parts]

    def test_of_features_and_the_search_of_neighbours(self):
        protocol, layers = knn.Protocol(batch_size=8), ["conv2", "fc7"]
        images, millions = self.counts(knn.work(self.frozen, *self.splits, layers, protocol))
        with counted(Extractor, "__call__") as calls:
            knn.evaluate(self.frozen, *self.splits, layers, protocol)
        self.assertEqual(images, sum(calls))
        # conv2 has 4 channels in 2 x 2 cells, fc7 12 numbers.
        self.assertAllClose(millions, 26 * 14 * (4 * 4 + 12) / 1e6)

    def test_of_epochs_of_linear_classifiers_cached_and_augmented(self):
        for augment in (False, True):
            protocol = linear_probe.Protocol(
                epochs=3, batch_size=8, augment=augment, standardize=True, learning_rate=1.0
            )
            work = linear_probe.work(self.frozen, *self.splits, ["conv4"], protocol)
            images, steps = self.counts(work)
            with counted(Extractor, "__call__") as calls, counted(Probes, "step") as taken:
                linear_probe.evaluate(self.frozen, *self.splits, ["conv4"], protocol)
            self.assertEqual(steps, len(taken))
            # Incomplete batches are left out of an epoch of new crops.
            self.assertAllClose(images, sum(calls), atol=8 if augment else 0)

    def test_of_fits_to_few_labels(self):
        protocol = low_shot.Protocol(shots=(1, 4), draws=3)
        work = low_shot.work(self.frozen, *self.splits, ["conv2", "fc7"], protocol)
        fitted = []
        with mock.patch.object(svm, "classify") as classify:
            classify.side_effect = lambda rows, labels, test, cost: (
                fitted.append(len(rows)) or np.zeros(len(test), int)
            )
            low_shot.evaluate(self.frozen, *self.splits, ["conv2", "fc7"], protocol)
        self.assertEqual(self.counts(work), [26 + 14, sum(fitted)])

    def test_of_steps_and_tests_of_fine_tuning(self):
        protocol = finetune.Protocol(epochs=2, batch_size=8, seeds=2, drops=(), init_deviation=0.1)
        trained, tested = self.counts(finetune.work(self.frozen, *self.splits, protocol))
        with counted(FineTuner, "step") as steps, counted(FineTuner, "logits") as logits:
            for seed in range(2):
                finetune_train.fine_tune(self.frozen, *self.splits, protocol, Solo(), seed)
        self.assertEqual((trained, tested), (sum(steps), sum(logits)))

    def test_of_crops_of_a_development_kit(self):
        kit = devkit.draw(os.path.join(self.root, "kit"), {"trainval": 9, "test": 5, "val": 4})
        splits = read_splits(kit, ("trainval", "test", "trainval", "val"))
        splits = [splits[0], splits[1], splits[0], splits[-1]]
        protocol = voc07_classification.Protocol(
            iterations=3, batch_size=4, crops=2, seeds=2, learning_rates=(0.1, 0.2)
        )
        trained, tested = self.counts(voc07_classification.work(self.frozen, splits, protocol))
        with (
            counted(MultiLabelNetwork, "step") as steps,
            counted(MultiLabelNetwork, "logits") as crops,
        ):
            voc07_classification.evaluate(self.frozen, splits, protocol)
        self.assertEqual((trained, tested), (sum(steps), sum(crops)))

    def test_of_images_that_are_searched(self):
        ground_truth = read_ground_truth(
            write_groups(os.path.join(self.root, "groups"), range(2), 3, seed=2)
        )
        others = images_in(write_groups(os.path.join(self.root, "others"), range(4, 7), 2, seed=1))
        protocol = retrieval.Protocol(longest_side=96, dimensions=4)
        (images,) = self.counts(retrieval.work(self.frozen, ground_truth, others, protocol))
        with counted(RMACExtractor, "regions", units=lambda image: 1) as regions:
            retrieval.evaluate(self.frozen, ground_truth, others, protocol, Solo())
        self.assertEqual(images, sum(regions))

    @pytest.mark.extended
    def test_of_the_products_of_a_detector(self):
        (split,) = read_splits(
            devkit.draw(os.path.join(self.root, "boxes"), {"trainval": 2}), ("trainval",)
        )
        protocol = voc07_detection.Protocol(head_units=16)
        side = 64
        convolutions, others = voc07_detection._products(
            self.frozen.trunk, split, protocol, side, regions=10
        )
        maps = self.frozen.trunk.convolutions(tf.zeros([1, side, side, 3]))
        kernels = [conv.conv.kernel for block in self.frozen.trunk.blocks for conv in block]
        expected = sum(
            int(tf.size(kernel)) * m.shape[1] * m.shape[2]
            for kernel, m in zip(kernels, maps.values(), strict=True)
        )
        self.assertEqual(convolutions, expected)
        from dc_tf.evaluation.voc07 import detector

        config = detector.task_config(self.frozen, len(split.classes), protocol, side)
        model = detector.task_factory.get_task(config).build_model()
        proposing, classifying = (
            sum(int(tf.size(w)) for w in head.trainable_weights if len(w.shape) > 1)
            for head in (model.rpn_head, model.detection_head[0])
        )
        cells = (side // 16) ** 2 * (1 + 1 / 4 + 1 / 16)
        # Of the layers that propose, the count leaves out the last, which are small.
        self.assertAllClose(others, proposing * cells + classifying * 10, rtol=0.1)

    def test_a_sample_of_every_part_runs_and_leaves_the_network_as_it_was(self):
        before = self.frozen.trunk.get_weights()
        kit = devkit.draw(os.path.join(self.root, "sampled"), {"trainval": 6, "test": 4})
        voc = read_splits(kit, ("trainval", "test"))
        ground_truth = read_ground_truth(
            write_groups(os.path.join(self.root, "few"), range(2), 2, seed=2)
        )
        others = ground_truth.database
        tuned = voc07_classification.Protocol(batch_size=4, tune="all")
        works = [
            knn.work(self.frozen, *self.splits, ["conv2"], knn.Protocol()),
            linear_probe.work(self.frozen, *self.splits, ["conv2"], linear_probe.Protocol()),
            low_shot.work(self.frozen, *self.splits, ["conv2"], low_shot.Protocol(shots=(1, 8))),
            finetune.work(self.frozen, *self.splits, finetune.Protocol(batch_size=8)),
            voc07_classification.work(self.frozen, voc, tuned),
            voc07_detection.work(
                self.frozen, *voc, voc07_detection.Protocol(train_scales=(40, 60))
            ),
            retrieval.work(self.frozen, ground_truth, others, retrieval.Protocol(longest_side=64)),
        ]
        with mock.patch("dc_tf.evaluation.work.rate", return_value=16.0):
            for work in works:
                for part in work.parts:
                    for units in (1, 3):
                        self.assertGreaterEqual(part.sample(units), units, part.name)
        for now, then in zip(self.frozen.trunk.get_weights(), before, strict=True):
            self.assertAllEqual(now, then)

    def test_an_image_that_cannot_be_read_is_the_same_error_as_in_the_work(self):
        train, test = self.splits
        lost = dataclasses.replace(train, rows=train.rows + 10_000)
        work = knn.work(self.frozen, lost, test, ["conv2"], knn.Protocol())
        with self.assertRaisesRegex(DataError, "is not in"):
            cost.estimate(work, 1, Solo())


@pytest.mark.slow
class AnnouncedTest(tf.test.TestCase):
    """Every evaluation says what it will cost before its long part."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        root = tempfile.mkdtemp()
        cls.addClassCleanup(shutil.rmtree, root)
        cls.root = root
        cls.data = write_stripes(os.path.join(root, "data"), 26, seed=0)
        cls.model = f"--model={write_model(os.path.join(root, 'model'))}"
        cls.labelled = f"--train={cls.data}", f"--test={cls.data}"

    def check_announced(self, *command):
        """The work is handed to `cost` with something to do; nothing else is done."""

        def refuse(work, networks, world):
            self.assertGreater(sum(part.count for part in work.parts) * networks, 0)
            raise DataError(f"announced: {work.text}")

        with mock.patch.object(cost, "estimate", refuse):
            code, out, err = call(*command)
        self.assertEqual((code, out), (1, ""), err)
        self.assertIn("dc_tf: announced: ", err)

    def test_of_every_task(self):
        settings, run = runs.undisturbed(1)
        splits = {"train": 5, "val": 4, "trainval": 9, "test": 5}
        kit = devkit.draw(os.path.join(self.root, "kit of every split"), splits)
        images = [
            f"--{name}={write_groups(os.path.join(self.root, name), kinds, 2, seed=1)}"
            for name, kinds in (("train", range(4, 6)), ("test", range(2)))
        ]
        flags = {
            **dict.fromkeys(("knn", "linear_probe", "low_shot"), (self.model, *self.labelled)),
            "finetune": (self.model, *self.labelled, "--params_override=batch_size=4"),
            "nmi": (f"--model={run}",),
            "rotation": (f"--model={run}", "--stage=rotnet", f"--test={settings['data']['path']}"),
            "retrieval": (self.model, *images),
            "voc07_classification": (self.model, f"--train={kit}"),
            "voc07_detection": (self.model, f"--train={kit}"),
        }
        for task in TASKS:
            with self.subTest(task):
                self.check_announced("evaluate", f"--task={task}", *flags[task])

    def test_of_every_task_of_given_features(self):
        features = os.path.join(self.root, "x.npy")
        np.save(features, np.random.default_rng(0).random((26, 5), np.float32))
        for task in OF_FEATURES:
            with self.subTest(task):
                flags = f"--task={task}", f"--features={features}", *self.labelled
                self.check_announced("evaluate", *flags)

    def test_of_a_classifier(self):
        output = f"--output={os.path.join(self.root, 'classifier')}"
        settings = "--params_override=batch_size=4"
        self.check_announced("finetune", self.model, *self.labelled, output, settings)

    def test_of_k_means_of_features_and_their_retrieval(self):
        features = np.random.default_rng(0).random((26, 5), np.float32)
        path = os.path.join(self.root, "given.npy")
        np.save(path, features)
        asked = mock.Mock()
        for task, name in (("nmi", "rows of k-means"), ("retrieval", "queries")):
            with mock.patch.object(cost, "estimate", asked):
                asked.return_value = 90.0
                flags = f"--task={task}", f"--features={path}", *self.labelled
                code, _, err = call("evaluate", *flags)
            self.assertEqual(code, 0, err)
            self.assertRegex(err, rf"(^|\n){task}.*: about 90 s on this machine\n")
            parts = {part.name: part for part in asked.call_args[0][0].parts}
            self.assertEqual(parts[name].count, {"nmi": 11 * 26, "retrieval": 26}[task])
            for part in parts.values():
                for units in (1, 20):
                    self.assertGreaterEqual(part.sample(units), units, part.name)


if __name__ == "__main__":
    tf.test.main()
