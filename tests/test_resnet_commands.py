"""A tiny ResNet-18 from training to every command that takes a network."""

import contextlib
import csv
import glob
import importlib.util
import io
import json
import os
import tempfile
import unittest

import devkit
import numpy as np
import pytest
import runs
import tensorflow as tf
import workers
from PIL import Image

from dc_tf import keras
from dc_tf.commands.main import DONE, main
from dc_tf.data.storage.manifest import Dataset
from dc_tf.evaluation.models import open_model
from dc_tf.exporting.saved_model import export_saved_model
from dc_tf.nn.trunks import make_trunk

HAS_ONNX = all(importlib.util.find_spec(name) for name in ("tf2onnx", "onnxruntime"))
LAYERS = ("conv1", *(f"block{s}_{n}" for s in range(1, 5) for n in (1, 2)), "pool")
MODEL = {"trunk": "resnet18", "stem": "small", "width": 1 / 16, "resolution": 32}
DIM = 32  # of pool: 512 / 16


@pytest.mark.extended
class ResNetCommandsTest(tf.test.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.root = folder.name
        cls.data = runs.make_data(cls.root)
        cls.settings = runs.settings(cls.data, model=MODEL)
        cls.run_folder = os.path.join(cls.root, "run")
        workers.on_cluster(1, runs.train, cls.settings, cls.run_folder)
        found = {"fingerprint": Dataset.open(cls.data).fingerprint(), "path": cls.data}
        for name, values in (("result.json", {}), ("data.json", found)):
            with open(os.path.join(cls.run_folder, name), "w") as file:
                json.dump(values, file)
        cls.model = os.path.join(cls.root, "model")
        cls.exported = cls.call(
            cls, "export", f"--workdir={cls.run_folder}", f"--output={cls.model}"
        )
        cls.trunk = open_model(cls.run_folder).trunk

    def path(self, name):
        return os.path.join(self.get_temp_dir(), name)

    def call(self, *flags, code=DONE):
        """The JSON result of a command; with another code, what it says on stderr."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            found = main(list(flags))
        assert found == code, (flags, err.getvalue()[-3000:])
        if code != DONE:
            return err.getvalue()
        return json.loads(out.getvalue().strip().splitlines()[-1])

    def evaluate(self, task, *flags, model=None, code=DONE):
        flags = (f"--task={task}", f"--model={model or self.model}", "--noestimate", *flags)
        return self.call("evaluate", *flags, code=code)

    def split(self):
        return f"--train={self.data}", f"--test={self.data}"

    def images(self, count=3):
        return np.random.default_rng(0).random((count, 32, 32, 3), np.float32)

    def test_the_saved_model_has_the_features_of_the_run(self):
        self.assertEqual(self.exported["trunk"], "resnet18")
        self.assertEqual(tuple(self.exported["outputs"]), LAYERS)
        self.assertEqual(self.exported["outputs"]["pool"], [DIM])
        loaded, again = tf.saved_model.load(self.model), open_model(self.model).trunk
        self.assertEqual({"trunk": again.kind, **again.settings}, {**MODEL, "sobel": True})
        expected = self.trunk(self.images())
        for features in (loaded(self.images()), again(self.images())):
            for layer in LAYERS:
                self.assertAllClose(features[layer], expected[layer], atol=1e-4, msg=layer)
        with open(os.path.join(self.model, "README.md")) as file:
            card = file.read()
        for text in ("ResNet", '["block4_2"]', 'output_key="pool"', "| stem | small |"):
            self.assertIn(text, card)

    def test_it_was_trained_and_clustered_in_pool(self):
        untrained = make_trunk(**{**self.trunk.settings, "kind": "resnet18"}).built_at_resolution()
        for name, weights in zip(("first", "last"), (0, -1), strict=True):
            trained = self.trunk.get_weights()[weights]
            self.assertNotAllClose(trained, untrained.get_weights()[weights], msg=name)
        with open(glob.glob(f"{self.run_folder}/metrics*.jsonl")[0]) as file:
            lines = [json.loads(line) for line in file]
        self.assertTrue(all(np.isfinite(line.get("loss", 0)) for line in lines))

    def test_single_files_have_the_features_too(self):
        expected = self.trunk(self.images())
        flags = ("export", f"--workdir={self.run_folder}")
        for sobel in ("layer", "folded"):
            files = {form: self.path(f"{sobel}{end}") for form, end in ENDINGS.items()}
            for form, file in files.items():
                self.call(*flags, f"--output={file}", f"--format={form}", f"--sobel={sobel}")
            model = keras.models.load_model(files["keras"])
            self.assertAllClose(model(self.images()), expected["pool"], atol=1e-4)
            for layer, name in (("conv1", "conv1_relu"), ("block4_2", "conv5_block2_out")):
                part = keras.Model(model.input, model.get_layer(name).output)
                self.assertAllClose(part(self.images()), expected[layer], atol=1e-4)
            other = self.trunk.fresh(seed=9, folded=sobel == "folded")
            other.load_weights(files["keras_weights"])
            self.assertAllClose(other(self.images())["pool"], expected["pool"], atol=1e-4)

    @unittest.skipUnless(HAS_ONNX, "pip install -c constraints.txt tf2onnx onnxruntime")
    def test_onnxruntime_finds_the_features(self):
        import onnxruntime

        expected = self.trunk(self.images())
        for sobel in ("layer", "folded"):
            file = self.path(f"{sobel}.onnx")
            flags = (f"--workdir={self.run_folder}", "--format=onnx", f"--sobel={sobel}")
            self.call("export", *flags, f"--output={file}")
            session = onnxruntime.InferenceSession(file)
            names = [output.name for output in session.get_outputs()]
            self.assertCountEqual(names, LAYERS)
            for name, found in zip(
                names, session.run(None, {"images": self.images()}), strict=True
            ):
                self.assertAllClose(found, expected[name], atol=1e-4, msg=name)

    @unittest.skipUnless(importlib.util.find_spec("torch"), "pip install -c constraints.txt torch")
    def test_weights_go_to_pytorch_and_back(self):
        file, model = self.path("r.pth"), self.path("back")
        self.call("export", f"--workdir={self.run_folder}", f"--output={file}", "--format=torch")
        flags = (f"--checkpoint={file}", f"--output={model}", "--resolution=32")
        found = self.call("import_torch", *flags)
        self.assertEqual((found["trunk"], found["settings"]["stem"]), ("resnet18", "small"))
        again = open_model(model).trunk
        self.assertAllClose(again(self.images())["pool"], self.trunk(self.images())["pool"])

    def test_embed_takes_its_layers_and_refuses_those_of_others(self):
        flags = ("embed", f"--model={self.model}", f"--data={self.data}")
        found = self.call(*flags, f"--output={self.path('default')}")
        self.assertEqual(found["dims"], {"pool": DIM})
        found = self.call(
            *flags, f"--output={self.path('e')}", "--layer=block4_2,pool", "--cells=2"
        )
        self.assertEqual(found["dims"], {"block4_2": 4 * DIM, "pool": DIM})
        message = self.call(*flags, f"--output={self.path('f')}", "--layer=conv13", code=2)
        self.assertRegex(
            message, "the layer is conv13; use 'all' or some of conv1, block1_1,.*pool"
        )

    def test_knn_and_the_linear_probe_measure_every_layer(self):
        found = self.evaluate("knn", *self.split())
        self.assertEqual(tuple(found["layers"]), LAYERS)
        self.assertEqual(found["network"]["trunk"], "resnet18")
        self.assertGreater(found["layers"]["pool"]["top1"], 0.1)
        small = "--params_override=epochs=2"
        found = self.evaluate("linear_probe", *self.split(), "--protocol=small", small)
        self.assertEqual(tuple(found["layers"]), LAYERS)
        self.assertEqual(found["layers"]["pool"]["dimensions"], DIM)
        self.assertEqual(found["paper_dataset"], "")

    def test_few_labels_the_clusters_and_the_doctor(self):
        few = "--params_override=shots=[1],draws=2"
        found = self.evaluate("low_shot", *self.split(), few, "--layer=block2_2,pool")
        self.assertEqual(list(found["layers"]), ["block2_2", "pool"])
        self.assertTrue(0 < found["layers"]["pool"]["top1"] <= 1)
        lines = self.evaluate("nmi", model=self.run_folder)["clusterings"]
        labels = [line for line in lines if line["column"] == "label"]
        self.assertTrue(0 <= labels[-1]["nmi"] <= 1)
        found = self.call("doctor", f"--params_override={self.settings!r}", "--sample=4")
        self.assertTrue(found["ok"])
        self.assertLen(found["estimate"]["stages"], 2)

    def test_a_classifier_of_it_predicts(self):
        folder, table = self.path("classifier"), self.path("found.csv")
        few = "--params_override=epochs=1,batch_size=32,drops=[]"
        flags = (f"--output={folder}", "--protocol=small", few)
        made = self.call("finetune", f"--model={self.run_folder}", *self.split(), *flags)
        found = self.call(
            "predict", f"--model={folder}", f"--data={self.data}", f"--output={table}"
        )
        self.assertEqual(sum(found["predicted"].values()), 128)
        with open(table) as file:
            lines = list(csv.DictReader(file))
        hits = np.mean([line["label"] == line["prediction"] for line in lines])
        self.assertAllClose(hits, made["top1"], atol=0.02)

    def test_rotation_and_fine_tuning(self):
        found = self.evaluate(
            "rotation", f"--test={self.data}", "--stage=rotnet", model=self.run_folder
        )
        self.assertGreater(found["rotation_accuracy"], 0.0)
        protocol = "--params_override=epochs=1,batch_size=32,drops=[1]"
        found = self.evaluate(
            "finetune", *self.split(), "--protocol=small", protocol, "--norandom_init"
        )
        self.assertEqual(found["network"]["stem"], "small")
        self.assertTrue(0 <= found["top1"] <= 1)

    def test_voc_classification_trains_one_layer(self):
        kit = devkit.draw(self.path("kit"), dict.fromkeys(("trainval", "train", "val", "test"), 6))
        data = (f"--train={kit}", "--norandom_init")
        few = "--params_override=iterations=3,seeds=1,crops=2,batch_size=4"
        found = self.evaluate("voc07_classification", *data, "--protocol=small", few)
        self.assertTrue(0 < found["map"] <= 1)
        few = "--params_override=iterations=3,seeds=1,crops=2,batch_size=4,tune=all"
        self.evaluate("voc07_classification", *data, "--protocol=small", few)

    def test_voc_detection_takes_the_last_map(self):
        kit = devkit.draw(self.path("kit"), dict.fromkeys(("trainval", "test"), 4))
        few = "iterations=2,drops=[1],train_scales=[40,48],test_scales=[48],head_units=8"
        few += ",proposals=20,sampled_regions=8,min_score=0.01"
        dilated = self.path("dilated")
        trunk = make_trunk("resnet50", width=1 / 16, resolution=32, stem="imagenet")
        export_saved_model(trunk.built_at_resolution(), dilated)
        for model, kind, tune in ((self.model, "resnet18", "fc68"), (dilated, "resnet50", "all")):
            found = self.evaluate(
                "voc07_detection",
                f"--train={kit}",
                f"--params_override={few},tune={tune}",
                "--norandom_init",
                model=model,
            )
            self.assertEqual(found["network"]["trunk"], kind)
            self.assertTrue(0 <= found["map"] <= 1)

    def test_retrieval_takes_the_last_map(self):
        folders = [self.path(name) for name in ("others", "database")]
        random = np.random.default_rng(0)
        for folder in folders:
            for place in range(24):
                name = os.path.join(folder, f"object{place % 3}", f"{place}.png")
                os.makedirs(os.path.dirname(name), exist_ok=True)
                pixels = random.integers(0, 256, (64, 80, 3), np.uint8)
                Image.fromarray(pixels // (place % 3 + 1)).save(name)
        found = self.evaluate(
            "retrieval", f"--train={folders[0]}", f"--test={folders[1]}", "--protocol=small"
        )
        self.assertTrue(0 < found["map"] <= 1)
        message = self.evaluate(
            "retrieval",
            f"--train={folders[0]}",
            f"--test={folders[1]}",
            "--params_override=layer=conv13",
            code=2,
        )
        self.assertRegex(message, "layer is 'conv13'; use one of conv1, block1_1, .*block4_2")

    def test_the_report_the_clusters_and_the_searches_of_a_run(self):
        page = self.path("report.html")
        self.call("report", f"--run={self.run_folder}", f"--output={page}")
        with open(page) as file:
            text = file.read()
        self.assertIn("filters of conv1", text)
        self.assertIn("resnet18", text)
        run = f"--run={self.run_folder}"
        table = self.path("clusters.csv")
        self.call("clusters", run, f"--output={table}", "--format=csv")
        self.call("assign", run, f"--data={self.data}", f"--output={self.path('a.csv')}")
        self.call("search", run, "--query=0", "--k=3", "--layer=pool")
        self.assertTrue(os.path.isdir(f"{self.run_folder}/embeddings/pool"))
        self.call("duplicates", run, "--dry_run")
        self.assertTrue(os.path.isdir(f"{self.run_folder}/embeddings/block2_2-2x2-mirror"))

    def test_a_dry_run_counts_it_and_another_network_cannot_start_from_it(self):
        settings = {**self.settings, "init_from": self.run_folder}
        flags = ("train", f"--workdir={self.path('new')}", "--dry_run", "--nomeasure")
        found = self.call(*flags, f"--params_override={settings!r}")
        trained = sum(v.shape.num_elements() for v in self.trunk.trainable_variables)
        self.assertEqual(found["stages"][0]["weights"], trained + (DIM + 1) * 4)
        other = {**settings, "model": {**MODEL, "stem": "imagenet"}}
        message = self.call(*flags, f"--params_override={other!r}", code=2)
        self.assertRegex(message, "model.stem = small, this experiment has imagenet")
        vgg = {**settings, "model": {"width": 1 / 16, "resolution": 32, "fc": 16}}
        message = self.call(*flags, f"--params_override={vgg!r}", code=2)
        self.assertRegex(message, "model.trunk = resnet18, this experiment has vgg16")


ENDINGS = {"keras": ".keras", "keras_weights": ".weights.h5"}


if __name__ == "__main__":
    unittest.main()
