"""Fine-tuning: steps equal PyTorch's SGD; workers and interruptions do not change the result."""

import dataclasses
import json
import os
import pathlib
import shutil
import tempfile
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
import workers
from striped import RESOLUTION, call, write_model, write_stripes

from dc_tf.distributed.collectives import Solo
from dc_tf.errors import ConfigError, DataError
from dc_tf.evaluation.finetune import task as finetune
from dc_tf.evaluation.finetune import train as finetune_train
from dc_tf.evaluation.finetune.checkpoint import FineTuneCheckpoints
from dc_tf.evaluation.finetune.step import FineTuner
from dc_tf.evaluation.finetune.task import Protocol
from dc_tf.evaluation.models import open_model
from dc_tf.evaluation.splits import open_splits
from dc_tf.evaluation.tasks import Request

SMALL = Protocol(epochs=3, batch_size=16, learning_rate=0.02, drops=(2,), init_deviation=0.1)


def weights(fine_tuner):
    """Everything that training changes, including running statistics and momenta."""
    state = [*fine_tuner.trunk.get_weights(), *(v.numpy() for v in fine_tuner.weights)]
    return state + [m.numpy() for m in fine_tuner.optimizer.momentums]


def tuned(world, model, data, protocol, stop_at=None):
    """(metrics, all weights, steps) of a fine-tuning on this worker; None if it was stopped."""
    kept, steps = [], []
    make, step = FineTuner.__init__, FineTuner.step

    def keep(self, *args):
        make(self, *args)
        kept.append(self)

    def stop(self, images, labels, number):
        steps.append(int(number))
        if int(number) == stop_at:
            raise KeyboardInterrupt
        return step.__get__(self, FineTuner)(images, labels, number)

    with mock.patch.object(FineTuner, "__init__", keep), mock.patch.object(FineTuner, "step", stop):
        try:
            metrics = finetune_train.fine_tune(
                open_model(model), *open_splits(*data), protocol, world, seed=1
            )
        except KeyboardInterrupt:
            return None
    return metrics, weights(kept[0]), steps


@pytest.mark.slow
class FinetuneTest(tf.test.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.root = tempfile.mkdtemp()
        cls.addClassCleanup(shutil.rmtree, cls.root)
        cls.train = write_stripes(os.path.join(cls.root, "train"), 60, seed=0)
        cls.test = write_stripes(os.path.join(cls.root, "test"), 41, seed=1)
        cls.model = write_model(os.path.join(cls.root, "model"))
        cls.data = cls.train, cls.test

    def folder(self):
        return os.path.join(tempfile.mkdtemp(dir=self.root), "work")

    def fine_tuner(self, protocol, classes=2, world=None):
        trunk = finetune_train.starting_point(open_model(self.model))
        return FineTuner(trunk, classes, protocol, world or Solo(), seed=0)

    def test_stripes_are_learned_from_the_first_layer_on(self):
        protocol = Protocol(
            epochs=8,
            batch_size=10,
            learning_rate=0.02,
            drops=(6,),
            dropout=0.2,
            init_deviation=0.3,
        )
        metrics, after, _ = tuned(Solo(), self.model, self.data, protocol)
        self.assertGreater(metrics["top1"], 0.9)
        self.assertEqual(metrics["top5"], 1.0)
        folded = [(5, 5, 3, 4)]
        (begin,) = (w for w in self.fine_tuner(SMALL).trunk.get_weights() if w.shape in folded)
        (end, *_) = (w for w in after if w.shape in folded)
        self.assertNotAllClose(end, begin, atol=1e-3)
        self.assertNotAllClose(end[..., 0, :], end[..., 2, :], atol=1e-6)  # colours part ways

    def test_new_layers_begin_from_the_papers_distribution_and_convolutions_from_the_model(self):
        frozen = open_model(self.model)
        trunk = finetune_train.starting_point(frozen)
        self.assertTrue(trunk.folded)
        expected = trunk.blocks[1][0].conv.kernel.numpy()
        fine_tuner = FineTuner(trunk, 900, Protocol(), Solo(), seed=0)
        self.assertAllEqual(trunk.blocks[1][0].conv.kernel, expected)
        for layer in (trunk.fc6, trunk.fc7, fine_tuner.head):
            self.assertAllEqual(layer.bias, np.full(layer.bias.shape, 0.1, np.float32))
        self.assertAllClose(np.std(fine_tuner.head.kernel), 0.01, rtol=0.05)
        self.assertNotAllClose(trunk.fc7.kernel, frozen.trunk.fc7.kernel)

    def test_steps_are_those_of_sgd_as_pytorch_writes_it_across_a_drop(self):
        protocol = dataclasses.replace(SMALL, dropout=0.0, weight_decay=0.05)
        fine_tuner, twin = self.fine_tuner(protocol), self.fine_tuner(protocol)
        velocities = [np.zeros(w.shape, np.float32) for w in twin.weights]
        random = np.random.default_rng(0)
        for step, rate in enumerate([0.02, 0.02, 0.002, 0.002]):
            images = random.random((16, RESOLUTION, RESOLUTION, 3), np.float32)
            labels = random.integers(0, 2, 16).astype(np.int32)
            with tf.GradientTape() as tape:
                features = tf.nn.relu(twin.trunk(images, training=True, dropout_mask=1.0)["fc7"])
                loss = tf.reduce_mean(
                    tf.nn.sparse_softmax_cross_entropy_with_logits(labels, twin.head(features))
                )
            for i, (w, g) in enumerate(
                zip(twin.weights, tape.gradient(loss, twin.weights), strict=True)
            ):
                velocities[i] = 0.9 * velocities[i] + g.numpy() + 0.05 * w.numpy()
                w.assign_sub(rate * velocities[i])
            fine_tuner.set_rate(rate)
            count, total, _ = fine_tuner.step(images, labels, step).numpy()
            self.assertAllClose(total / count, loss, rtol=1e-4)
        for a, b in zip(fine_tuner.weights, twin.weights, strict=True):
            self.assertAllClose(a, b, rtol=1e-3, atol=2e-5)

    def test_dropout_leaves_half_out_anew_at_every_step(self):
        fine_tuner = self.fine_tuner(SMALL)
        first, second = (fine_tuner._masks(tf.constant(step)) for step in (0, 1))
        for mask in (*first, *second):
            self.assertAllEqual(np.unique(mask), [0.0, 2.0])
        self.assertBetween(np.mean(first[0]), 0.8, 1.2)
        self.assertNotAllEqual(first[0], second[0])
        self.assertNotAllEqual(*first)
        halves = [
            self.fine_tuner(SMALL, world=Part(rank))._masks(tf.constant(0)) for rank in (0, 1)
        ]
        for whole, *parts in zip(first, *halves, strict=True):
            self.assertAllEqual(whole, np.concatenate(parts))

    def test_two_workers_end_with_the_weights_of_one(self):
        protocol = dataclasses.replace(SMALL, epochs=2, drops=(1,), learning_rate=0.01)
        alone, after, _ = tuned(Solo(), self.model, self.data, protocol)
        both = workers.on_workers(2, tuned, self.model, self.data, protocol)
        for a, b in zip(both[0][1], both[1][1], strict=True):
            self.assertAllEqual(a, b)
        for name, found, expected in zip(range(len(after)), both[0][1], after, strict=True):
            self.assertAllClose(found, expected, rtol=1e-3, atol=1e-4, msg=str(name))
        self.assertAllClose(both[0][0], alone, atol=1e-3)
        self.assertEqual(both[0][0], both[1][0])

    @pytest.mark.extended
    def test_an_interrupted_call_resumes_to_the_same_weights_on_another_number_of_workers_too(self):
        whole = tuned(Solo(), self.model, self.data, SMALL)
        folder = self.folder()
        protocol = dataclasses.replace(SMALL, workdir=folder, save_every=2)
        self.assertIsNone(tuned(Solo(), self.model, self.data, protocol, stop_at=8))
        self.assertEqual(os.listdir(os.path.join(folder, "model-seed1")), ["step-0000000008"])
        copy = shutil.copytree(folder, folder + "-2")
        resumed = tuned(Solo(), self.model, self.data, protocol)
        self.assertEqual(resumed[2], [8])  # 3 epochs of 60 // 16 = 3 steps
        self.assertAllClose(resumed[0], whole[0])
        for found, expected in zip(resumed[1], whole[1], strict=True):
            self.assertAllClose(found, expected, rtol=1e-5, atol=1e-6)
        on_two = dataclasses.replace(protocol, workdir=copy)
        both = workers.on_workers(2, tuned, self.model, self.data, on_two)
        for found, expected in zip(both[1][1], whole[1], strict=True):
            self.assertAllClose(found, expected, rtol=1e-3, atol=1e-3)
        finished = tuned(Solo(), self.model, self.data, protocol)
        self.assertEqual((finished[0], finished[2]), (resumed[0], []))

    def test_an_incomplete_checkpoint_is_not_restored(self):
        folder = self.folder()
        protocol = dataclasses.replace(SMALL, workdir=folder, save_every=2)
        tuned(Solo(), self.model, self.data, protocol, stop_at=5)
        state = os.path.join(folder, "model-seed1")
        os.makedirs(os.path.join(state, "step-0000000006.partial"))
        self.assertEqual(
            FineTuneCheckpoints(state, Solo()).restore(self.fine_tuner(SMALL)).global_step, 4
        )
        os.remove(os.path.join(state, "step-0000000004", "state.index"))
        with self.assertRaisesRegex(DataError, "remove that folder"):
            tuned(Solo(), self.model, self.data, protocol)

    def test_a_work_folder_of_something_else_is_refused(self):
        folder = self.folder()
        request = Request("finetune", self.model, train=self.train, test=self.test)
        protocol = dataclasses.replace(SMALL, epochs=1, drops=(), workdir=folder)
        result, text = finetune.run(request, protocol)
        self.assertEqual(finetune.run(request, protocol), (result, text))
        longer = dataclasses.replace(protocol, epochs=2)
        with self.assertRaisesRegex(ConfigError, "different: epochs"):
            finetune.run(request, longer)
        other = dataclasses.replace(request, train=self.test)
        with self.assertRaisesRegex(ConfigError, "different: train"):
            finetune.run(other, protocol)
        with self.assertRaisesRegex(ConfigError, "other files"):
            finetune.run(request, dataclasses.replace(protocol, workdir=self.train))

    def test_a_loss_that_explodes_is_reported_and_finite_states_stay(self):
        folder = self.folder()
        protocol = dataclasses.replace(SMALL, learning_rate=1e20, workdir=folder, save_every=1)
        with self.assertRaisesRegex(DataError, "diverged.*lower learning_rate"):
            tuned(Solo(), self.model, self.data, protocol)
        fine_tuner = self.fine_tuner(SMALL)
        if FineTuneCheckpoints(os.path.join(folder, "model-seed1"), Solo()).restore(fine_tuner):
            self.assertTrue(fine_tuner.is_finite())
        fine_tuner.trunk.fc7.bias[0].assign(np.inf)
        self.assertFalse(fine_tuner.is_finite())

    def test_accuracies_are_those_of_the_logits(self):
        frozen, (_, split) = open_model(self.model), open_splits(*self.data)
        split = dataclasses.replace(split, classes=9)
        logits = np.random.default_rng(0).normal(size=(len(split.rows), 9))
        order = np.argsort(-logits, 1)

        def share(rank, size):
            parts = iter(np.array_split(logits, size)[rank][i : i + 4] for i in range(0, 99, 4))
            fine_tuner = mock.Mock()
            fine_tuner.logits.side_effect = lambda images: tf.constant(next(parts))
            protocol = dataclasses.replace(SMALL, batch_size=4 * size)
            return finetune_train.measure(
                fine_tuner, frozen, split, protocol, Part(rank, size, solo=True)
            )

        found = share(0, 1)
        self.assertAllClose(found["top1"], np.mean(order[:, 0] == split.labels))
        self.assertAllClose(found["top5"], np.mean((order[:, :5] == split.labels[:, None]).any(1)))
        by_class = [np.mean(order[split.labels == c, 0] == c) for c in (0, 1)]
        self.assertAllClose(found["mean_class"], np.mean(by_class))
        logits[3, 2] = np.nan
        with self.assertRaisesRegex(DataError, "not finite"):
            share(0, 1)

    def test_what_cannot_be_trained_is_refused_before_anything_begins(self):
        train, _ = open_splits(*self.data)
        for protocol, message in (
            (dataclasses.replace(SMALL, batch_size=15), "2 workers cannot share"),
            (dataclasses.replace(SMALL, batch_size=62), "has 60 labelled images"),
        ):
            with self.assertRaisesRegex(ConfigError, message):
                finetune.check(protocol, train, Part(0))
        for wrong in (
            dict(epochs=0),
            dict(learning_rate=-1.0),
            dict(dropout=1.0),
            dict(drops=(3, 2)),
            dict(min_crop_area=0.0),
            dict(paper="imagenet"),
            dict(seeds=0),
        ):
            with self.assertRaisesRegex(ConfigError, next(iter(wrong))):
                Protocol(**wrong)

    @pytest.mark.extended
    def test_the_command_compares_with_random_weights_and_with_the_paper(self):
        settings = "epochs=1,batch_size=16,seeds=2,paper=imagenet90"
        flags = [f"--train={self.train}", f"--test={self.test}", f"--model={self.model}"]
        flags += ["--task=finetune", "--noestimate", f"--params_override={settings}"]
        code, out, err = call("evaluate", *flags)
        self.assertEqual(code, 0, err)
        result = json.loads(out.splitlines()[-1])
        self.assertEqual(result["model"], self.model)
        self.assertLen(result["random_init"]["seeds"], 2)
        ours = [seed["top1"] for seed in result["metrics"]["seeds"]]
        self.assertAllClose(result["top1"], np.mean(ours))
        self.assertAllClose(result["metrics"]["top1_std"], np.std(ours, ddof=1))
        self.assertRegex(out, r"\nmodel +\d+\.\d\d \+- \d+\.\d\d ")
        self.assertRegex(out, r"\nrandom init +\d+\.\d\d \+- ")
        self.assertRegex(out, r"\npaper: DeeperCluster +74\.3 +- ")

    def test_the_command_refuses_data_that_cannot_be_trained_on(self):
        one, strange = (os.path.join(self.root, name) for name in ("one", "strange"))
        write_stripes(one, 40, 0, label_of=lambda _: 0, number_of=lambda _: 0)
        write_stripes(strange, 40, 0)
        manifest = pathlib.Path(strange, "manifest.json")
        fewer = json.loads(manifest.read_text()) | {"class_names": ["across"]}
        manifest.write_text(json.dumps(fewer))
        for train, test, message in (
            (one, self.test, "of class 0"),
            (strange, self.test, "label 1 in row 1"),
            (self.train, strange, "label 1 in row 1"),
            (os.path.join(self.root, "absent"), self.test, "absent"),
        ):
            with mock.patch.object(FineTuner, "__init__", side_effect=AssertionError):
                code, out, err = call(
                    "evaluate",
                    "--task=finetune",
                    "--params_override=batch_size=16",
                    f"--model={self.model}",
                    f"--train={train}",
                    f"--test={test}",
                )
            self.assertIn(code, (1, 2))
            self.assertEqual(out, "")
            self.assertIn(message, err)


class Part:
    """A worker without collectives; with `solo`, sums are those of this worker alone."""

    def __init__(self, rank, size=2, solo=False):
        self.rank, self.size, self._solo = rank, size, solo

    def all_sum(self, tensor):
        if not self._solo:
            raise AssertionError("an exchange")
        return tf.convert_to_tensor(tensor)


if __name__ == "__main__":
    tf.test.main()
