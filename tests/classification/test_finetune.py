"""`dc_tf finetune`: its files agree with one another and with the evaluation; it resumes."""

import csv
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
from unittest import mock

import jobs
import numpy as np
import pyarrow.parquet
import pytest
import tensorflow as tf
from striped import NAMES, RESOLUTION, call, write_model, write_stripes

from dc_tf import precision
from dc_tf.classification.metrics import confusion_matrix, overall
from dc_tf.distributed.collectives import ALONE
from dc_tf.errors import ConfigError
from dc_tf.evaluation.finetune import task as finetune
from dc_tf.evaluation.finetune import train as finetune_train
from dc_tf.evaluation.finetune.step import FineTuner
from dc_tf.evaluation.finetune.task import Protocol
from dc_tf.evaluation.models import open_model
from dc_tf.evaluation.splits import open_splits
from dc_tf.exporting.metadata import read_metadata
from dc_tf.exporting.saved_model import restore_trunk

SETTINGS = {
    "epochs": 2,
    "batch_size": 6,
    "learning_rate": 0.02,
    "drops": [],
    "init_deviation": 0.3,
    "save_every": 4,
}
OVERRIDE = ",".join(f"{name}={value}" for name, value in SETTINGS.items())
LIMIT_S = 120
FILES = ("about.json", "classes.csv", "confusion.csv", "confusion.png", "model", "result.json")


@pytest.mark.slow
class FinetuneCommandTest(tf.test.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.root = tempfile.mkdtemp()
        cls.addClassCleanup(shutil.rmtree, cls.root)
        cls.train = write_stripes(os.path.join(cls.root, "train"), 60, seed=0)
        cls.test = write_stripes(os.path.join(cls.root, "test"), 41, seed=1)
        cls.start = write_model(os.path.join(cls.root, "start"))
        cls.output = os.path.join(cls.root, "classifier")
        code, out, err = call("finetune", *cls.flags(cls.output))
        assert code == 0, err
        cls.result = json.loads(out.splitlines()[-1])
        cls.said = err

    @classmethod
    def flags(cls, output, override=OVERRIDE):
        return [
            f"--model={cls.start}",
            f"--train={cls.train}",
            f"--test={cls.test}",
            f"--output={output}",
            "--compute_dtype=float32",
            f"--params_override={override}",
        ]

    def path(self, name, output=None):
        return os.path.join(output or self.output, name)

    def table(self, output=None):
        return pyarrow.parquet.read_table(self.path("predictions.parquet", output)).to_pydict()

    def test_the_table_has_each_image_and_the_figures_follow_from_it(self):
        self.assertCountEqual(os.listdir(self.output), [*FILES, "predictions.parquet"])
        self.assertEqual(
            json.loads(pathlib.Path(self.path("result.json")).read_text()), self.result
        )
        table = self.table()
        self.assertEqual(table["row"], list(range(41)))
        self.assertEqual(table["source"], [f"{row}.png" for row in range(41)])
        self.assertEqual(table["label"], [NAMES[row % 2] for row in range(41)])
        self.assertBetween(min(table["probability"]), 0.5, max(table["probability"]))
        self.assertLessEqual(max(table["probability"]), 1.0)
        labels, predictions = (
            [NAMES.index(name) for name in table[column]] for column in ("label", "prediction")
        )
        confusion = confusion_matrix(labels, predictions, 2)
        for name, share in overall(confusion).items():
            self.assertAllClose(self.result[name], share)
        with open(self.path("confusion.csv"), newline="") as file:
            _, *lines = csv.reader(file)
        self.assertAllEqual([list(map(int, line[1:])) for line in lines], confusion)
        with open(self.path("classes.csv"), newline="") as file:
            classes = list(csv.DictReader(file))
        self.assertEqual([line["class"] for line in classes], list(NAMES))
        self.assertEqual([int(line["images"]) for line in classes], [21, 20])

    def test_it_says_first_what_it_will_cost_and_not_where_that_is_not_asked(self):
        text = r"finetune, protocol small: 60 and 41 images at 32 pixels, 2 epochs: about \d+ s on"
        self.assertRegex(self.said, text)
        output = self.path("silent", self.root)
        with mock.patch.object(FineTuner, "__init__", side_effect=ConfigError("the end")):
            code, _, err = call("finetune", *self.flags(output), "--noestimate")
        self.assertIn("the end", err)
        self.assertNotIn("about", err)

    def test_figures_are_those_of_the_evaluation(self):
        frozen, (train, test) = open_model(self.start), open_splits(self.train, self.test)
        # As for the command, whose network is small.
        protocol = Protocol(**finetune.SMALL | SETTINGS | {"drops": ()})
        expected = finetune_train.fine_tune(frozen, train, test, protocol, ALONE, seed=0)
        for name in ("top1", "top5", "mean_class", "train_loss", "train_accuracy"):
            self.assertAllClose(self.result[name], expected[name], msg=name)

    @pytest.mark.numeric
    def test_a_process_that_never_imported_dc_tf_gets_the_probabilities_of_the_table(self):
        split = open_splits(self.train, self.test)[1]
        encoded = [example["encoded"] for example in split.reader.examples(split.rows)]
        images = np.stack([tf.io.decode_png(one).numpy() for one in encoded])
        given, found = (os.path.join(self.root, name) for name in ("given.npz", "found.npz"))
        np.savez(given, images=images, encoded=np.array(encoded, object), allow_pickle=True)
        program = f"""
import sys, numpy as np, tensorflow as tf
given = np.load({given!r}, allow_pickle=True)
model = tf.saved_model.load({self.path("model")!r})
images, encoded = given["images"], [bytes(one) for one in given["encoded"]]
all = {{
    "bytes": model(images),
    "floats": model(images / np.float32(255), training=False),
    "files": model.classify_files(encoded),
    "signature": model.signatures["serving_files"](files=tf.constant(encoded)),
    "native": model.signatures["serving_native"](images=tf.constant(images)),
}}
try:
    model(images.astype(np.float32))
except tf.errors.InvalidArgumentError as error:
    assert "image values out of range" in str(error), error
else:
    raise AssertionError("floats in 0 to 255 were taken")
assert "dc_tf" not in sys.modules
np.savez(
    {found!r},
    names=model.class_names().numpy(),
    **{{f"{{way}}_{{name}}": value for way, of in all.items() for name, value in of.items()}},
)
"""
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        subprocess.run(
            [sys.executable, "-c", program], check=True, cwd="/", env=environment, timeout=LIMIT_S
        )
        table = self.table()
        with np.load(found, allow_pickle=True) as arrays:
            names = [name.decode() for name in arrays["names"]]
            self.assertEqual(names, list(NAMES))
            for way in ("bytes", "floats", "files", "signature", "native"):
                shares = arrays[f"{way}_probabilities"]
                self.assertAllClose(shares.sum(1), np.ones(41), atol=1e-5)
                self.assertAllClose(shares.max(1), table["probability"], atol=1e-4, msg=way)
                predicted = [names[number] for number in arrays[f"{way}_prediction"]]
                self.assertEqual(predicted, table["prediction"], way)

    def test_the_model_says_what_it_is_and_still_gives_features(self):
        metadata = read_metadata(self.path("model"))
        self.assertEqual(metadata.classes, list(NAMES))
        self.assertTrue(metadata.folded)
        card = pathlib.Path(self.path("model"), "README.md").read_text()
        for text in ("# An image classifier", "2: across, down", "Fine\\-tuned", "learning_rate"):
            self.assertIn(text.replace("\\", ""), card)
        loaded = tf.saved_model.load(self.path("model"))
        images = np.random.default_rng(0).random((3, RESOLUTION, RESOLUTION, 3), np.float32)
        features = tf.nn.relu(restore_trunk(self.path("model"))(images)["fc7"])
        head = loaded.weights["classifier"]
        logits = tf.matmul(features, head["kernel"]) + head["bias"]
        self.assertAllClose(logits, loaded(images)["logits"], atol=1e-4)
        self.assertLen(loaded.trainable_variables, len(loaded.regularization_losses))

    def test_a_finished_one_is_returned_again_and_another_is_refused(self):
        refused = mock.patch.object(FineTuner, "__init__", side_effect=AssertionError)
        with refused:
            code, out, err = call("finetune", *self.flags(self.output))
            self.assertEqual((code, json.loads(out.splitlines()[-1])), (0, self.result), err)
            longer = OVERRIDE.replace("epochs=2", "epochs=3")
            code, out, err = call("finetune", *self.flags(self.output, longer))
            self.assertEqual((code, out), (2, ""))
            self.assertIn("holds other classifiers (different: epochs)", err)
            code, out, err = call("finetune", *self.flags(self.train))
            self.assertEqual((code, out), (2, ""))
            self.assertIn("holds other files; use another --output", err)

    @pytest.mark.bfloat16
    def test_the_type_of_the_products_is_said_in_the_name_of_the_command(self):
        half = [*self.flags(self.output), "--compute_dtype=bfloat16"]
        device = {"bfloat16_fault": lambda: "", "convolution_speed": lambda: 0.5}
        with mock.patch.multiple(precision, **device):
            code, _, err = call("finetune", *half)
        self.assertEqual(code, 2, err)
        self.assertIn("holds other classifiers (different: compute_dtype)", err)
        self.assertStartsWith(err, "finetune: computes in bfloat16 (bfloat16 is 0.5 times as fast")
        self.assertNotIn("evaluate:", err)

    def test_settings_that_have_no_meaning_here_are_refused(self):
        for setting, message in (
            ("workdir=/tmp/x", "resumes in --output"),
            ("seeds=3", "choose it with --seed"),
            ("epochs=0", "epochs is 0"),
            ("batch_size=61", "has 60 labelled images"),
        ):
            code, out, err = call("finetune", *self.flags(self.path("x", self.root), setting))
            self.assertEqual((code, out), (2, ""), err)
            self.assertIn(message, err)
            self.assertFalse(os.path.exists(self.path("x", self.root)))

    def test_a_killed_one_and_a_stopped_one_end_with_the_predictions_of_one_left_alone(self):
        output = self.path("killed", self.root)
        work = pathlib.Path(output, "work", "model-seed0")
        slow = (f"{self.start}: fine-tuning", 0.1)
        command = ["finetune", *self.flags(output)]
        with jobs.Job(1, command, self.path("logs-1", self.root), slow) as job:
            job.wait_until((work / "step-0000000004" / "position.json").exists, "step 4 was saved")
            job.signal(0, signal.SIGKILL)
            job.wait(LIMIT_S)
        with jobs.Job(1, command, self.path("logs-2", self.root), slow) as job:
            job.wait_until_slow()
            job.signal(0, signal.SIGTERM)
            self.assertEqual(job.wait(LIMIT_S), [42], job.log(0))
            self.assertIn("was asked to stop, after step", job.log(0))
            self.assertRegex(job.log(0), r"resumes at (4|5|6|7|8)/20 steps")
        steps = []
        step = FineTuner.step

        def counted(fine_tuner, images, labels, number):
            steps.append(int(number))
            return step.__get__(fine_tuner, FineTuner)(images, labels, number)

        with mock.patch.object(FineTuner, "step", counted):
            code, out, err = call(*command, "--noestimate")  # which takes steps of its own
        self.assertEqual(code, 0, err)
        self.assertGreater(steps[0], 4)
        self.assertEqual(steps[-1], 19)
        again, whole = self.table(output), self.table()
        self.assertEqual(again["prediction"], whole["prediction"])
        self.assertAllClose(again["probability"], whole["probability"], atol=1e-4)
        self.assertFalse(os.path.exists(work))

    @pytest.mark.extended
    def test_two_workers_make_the_classifier_of_one_and_stop_together(self):
        output = self.path("two", self.root)
        longer = OVERRIDE.replace("epochs=2", "epochs=4").replace("0.02", "0.005")
        alone = self.path("longer", self.root)
        self.assertEqual(call("finetune", *self.flags(alone, longer))[0], 0)
        command = ["finetune", *self.flags(output, longer)]
        slow = (f"{self.start}: fine-tuning", 0.05)
        with jobs.Job(2, command, self.path("logs-3", self.root), slow) as job:
            job.wait_until_slow()
            job.signal(1, signal.SIGTERM)
            self.assertEqual(job.wait(LIMIT_S), [42, 42], job.log(0))
        self.assertFalse(os.path.exists(self.path("result.json", output)))
        with jobs.Job(2, command, self.path("logs-4", self.root)) as job:
            self.assertEqual(job.wait(LIMIT_S), [0, 0], job.log(0))
            self.assertRegex(job.log(0), r"resumes at 20/40 steps")
            result = job.result()
        expected = self.table(alone)
        found = self.table(output)
        self.assertEqual(found["source"], expected["source"])
        # Rounding grows over 40 steps; a gradient that counts twice would change far more.
        self.assertAllClose(found["probability"], expected["probability"], atol=0.1)
        self.assertEqual(result["test_rows"], 41)
        self.assertFalse(os.path.exists(f"{output}.workers"))

    def test_overwrite_replaces_it_and_resumes_what_it_began(self):
        output = self.path("replaced", self.root)
        shutil.copytree(self.output, output)
        other = OVERRIDE.replace("epochs=2", "epochs=1")
        flags = [*self.flags(output, other), "--overwrite", "--format=csv"]
        code, out, err = call("finetune", *flags)
        self.assertEqual(code, 0, err)
        self.assertCountEqual(os.listdir(output), [*FILES, "predictions.csv"])
        with open(self.path("predictions.csv", output), newline="") as file:
            lines = list(csv.DictReader(file))
        self.assertEqual([line["source"] for line in lines], [f"{row}.png" for row in range(41)])


if __name__ == "__main__":
    tf.test.main()
