import glob
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_hub as hub
import workers

from dc_tf import keras
from dc_tf.errors import ConfigError, DataError
from dc_tf.exporting.fold_sobel import fold
from dc_tf.exporting.metadata import read_metadata
from dc_tf.exporting.saved_model import export_saved_model, restore_trunk
from dc_tf.exporting.weights import flat_weights, named_weights
from dc_tf.nn.vgg16 import LAYERS, VGG16

RESOLUTION = 32
TESTS = os.path.join(workers.REPOSITORY, "tests")


def network(seed=0, **settings):
    settings = dict(width=1 / 16, resolution=RESOLUTION, fc=12) | settings
    return VGG16(**settings, seed=seed).built_at_resolution()


def pixels(n=3, size=RESOLUTION, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, 3), np.uint8)


class SavedModelTest(tf.test.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.trunk = network()
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.paths = {form: os.path.join(folder.name, form) for form in ("layer", "folded")}
        for form, path in cls.paths.items():
            export_saved_model(
                cls.trunk, path, form, weight_decay=0.5, short_side=40, source={"run": "a"}
            )

    @pytest.mark.slow
    @pytest.mark.numeric
    def test_a_process_that_never_imported_dc_tf_gets_the_same_features(self):
        expected = self.trunk(pixels() / np.float32(255))
        program = f"""
import sys, numpy as np, tensorflow as tf
pixels = np.random.default_rng(0).integers(0, 256, (3, {RESOLUTION}, {RESOLUTION}, 3), np.uint8)
for path in {list(self.paths.values())!r}:
    model = tf.saved_model.load(path)
    outputs = model(pixels)
    again = model(pixels / np.float32(255), training=False)
    for name in outputs:
        np.testing.assert_allclose(outputs[name], again[name], atol=1e-5)
    np.savez(path + ".npz", **outputs)
assert "dc_tf" not in sys.modules
"""
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        subprocess.run(
            [sys.executable, "-c", program], check=True, cwd="/", env=environment, timeout=120
        )
        for path in self.paths.values():
            with np.load(path + ".npz") as found:
                self.assertEqual(sorted(found), sorted(LAYERS))
                for layer in LAYERS:
                    self.assertAllClose(found[layer], expected[layer], atol=1e-4, rtol=1e-4)

    @pytest.mark.slow
    def test_fine_tuning_through_hub_changes_weights_and_running_statistics(self):
        self.check_fine_tuning(self.paths["layer"])

    @pytest.mark.slow
    def test_fine_tuning_through_hub_changes_a_folded_first_layer_too(self):
        self.check_fine_tuning(self.paths["folded"])

    def check_fine_tuning(self, path):
        layer = hub.KerasLayer(path, trainable=True, output_key="fc7", output_shape=[12])
        inputs = keras.layers.Input([RESOLUTION, RESOLUTION, 3])
        model = keras.Model(inputs, keras.layers.Dense(2)(layer(inputs)))
        model.compile(keras.optimizers.SGD(0.01), "mse")
        before = [v.numpy() for v in layer.weights]
        self.assertLen(layer.trainable_weights, 13 * 4 + 4)
        self.assertLen(before, 13 * 6 + 4)
        model.fit(pixels(8) / np.float32(255), np.ones([8, 2]), batch_size=8, verbose=0)
        for variable, old in zip(layer.weights, before, strict=True):
            self.assertNotAllClose(variable, old, msg=variable.name, rtol=0, atol=0)

    @pytest.mark.tf215
    @pytest.mark.merge
    @pytest.mark.slow
    def test_a_frozen_hub_layer_stays_as_it_is(self):
        layer = hub.KerasLayer(self.paths["layer"], output_key="conv13")
        before = [v.numpy() for v in layer.weights]
        self.assertEqual(layer(pixels() / np.float32(255), training=True).shape, [3, 2, 2, 32])
        self.assertAllEqual(before[4], layer.weights[4])
        self.assertEmpty(layer.trainable_weights)

    @pytest.mark.merge
    @pytest.mark.slow
    def test_regularization_is_the_weight_decay_of_training(self):
        model = tf.saved_model.load(self.paths["layer"])
        self.assertLen(model.regularization_losses, len(model.trainable_variables))
        for loss, variable in list(
            zip(model.regularization_losses, model.trainable_variables, strict=True)
        )[:4]:
            with tf.GradientTape() as tape:
                value = loss()
            self.assertAllClose(tape.gradient(value, variable), 0.5 * variable)

    @pytest.mark.merge
    @pytest.mark.slow
    def test_any_batch_and_size_is_taken_and_other_sizes_are_resized(self):
        model = tf.saved_model.load(self.paths["layer"])
        large = pixels(2, size=48)
        resized = tf.image.resize(large, [RESOLUTION, RESOLUTION], antialias=True) / 255
        found = model(large)
        self.assertAllClose(found["conv13"], self.trunk(resized)["conv13"], atol=1e-4)
        self.assertEqual(model(pixels(1))["fc7"].shape, [1, 12])

    @pytest.mark.tf215
    @pytest.mark.merge
    @pytest.mark.slow
    def test_signatures_serve_uint8_and_float(self):
        model = tf.saved_model.load(self.paths["folded"])
        a = model.signatures["serving_default"](images=tf.constant(pixels()))
        b = model.signatures["serving_float"](images=tf.constant(pixels() / np.float32(255)))
        self.assertEqual(sorted(a), sorted(LAYERS))
        self.assertAllClose(a["fc7"], b["fc7"], atol=1e-5)

    @pytest.mark.slow
    def test_batch_norm_of_the_export_waits_for_no_other_worker(self):
        class Others:
            size = 2

            def all_sum(self, _):
                raise AssertionError("a worker was asked")

        trunk = network()
        trunk.share_statistics(Others())
        path = os.path.join(self.get_temp_dir(), "alone")
        export_saved_model(trunk, path)
        model = tf.saved_model.load(path)
        before = model.weights["conv1"]["moving_mean"].numpy()
        model(pixels(), training=True)
        self.assertNotAllClose(model.weights["conv1"]["moving_mean"], before)

    @pytest.mark.merge
    @pytest.mark.slow
    def test_the_metadata_says_what_was_exported(self):
        metadata = read_metadata(self.paths["folded"])
        self.assertTrue(metadata.folded)
        self.assertEqual(metadata.outputs["conv1"], [34, 34, 4])
        self.assertEqual(metadata.outputs["fc7"], [12])
        self.assertEqual((metadata.short_side, metadata.source), (40, {"run": "a"}))
        self.assertEqual(metadata.versions["tensorflow"], tf.__version__)

    @pytest.mark.tf215
    @pytest.mark.merge
    @pytest.mark.slow
    def test_the_network_comes_back_with_every_weight(self):
        for form, original in [("layer", self.trunk), ("folded", fold(self.trunk))]:
            restored = restore_trunk(self.paths[form])
            self.assertIs(type(restored), type(original))
            for a, b in zip(
                *(flat_weights(named_weights(t)) for t in (restored, original)), strict=True
            ):
                self.assertAllEqual(a, b)

    def exported(self):
        """Path of an export of `trunk` of this test's own."""
        return shutil.copytree(self.paths["layer"], os.path.join(self.get_temp_dir(), "model"))

    @pytest.mark.slow
    def test_existing_output_is_refused_or_replaced_whole(self):
        path = self.exported()
        with self.assertRaisesRegex(ConfigError, "--overwrite"):
            export_saved_model(self.trunk, path)
        export_saved_model(network(seed=1), path, overwrite=True)
        self.assertNotAllClose(restore_trunk(path).fc7.kernel, self.trunk.fc7.kernel)
        self.assertEqual(os.listdir(self.get_temp_dir()), ["model"])

    @pytest.mark.merge
    @pytest.mark.slow
    def test_what_is_not_a_model_is_never_overwritten(self):
        folder = self.get_temp_dir()
        with open(os.path.join(folder, "thesis.txt"), "w") as f:
            f.write("years of work")
        with self.assertRaisesRegex(ConfigError, "no SavedModel"):
            export_saved_model(self.trunk, folder, overwrite=True)
        self.assertEqual(os.listdir(folder), ["thesis.txt"])

    @pytest.mark.merge
    @pytest.mark.slow
    def test_a_failed_export_leaves_nothing_and_keeps_what_was_there(self):
        path = self.exported()
        with self.assertRaises(TypeError):
            export_saved_model(self.trunk, path, source={"not": {"json"}}, overwrite=True)
        self.assertEqual(os.listdir(self.get_temp_dir()), ["model"])
        restore_trunk(path)

    @pytest.mark.slow
    def test_a_real_kill_leaves_what_was_there_and_the_next_call_finishes(self):
        path = self.exported()
        program = f"""
from exporting.test_saved_model import export_saved_model, network
export_saved_model(network(seed=1), {path!r}, overwrite=True)
"""
        environment = os.environ | {"PYTHONPATH": f"{workers.REPOSITORY}:{TESTS}:{TESTS}/support"}
        process = subprocess.Popen([sys.executable, "-c", program], env=environment)
        deadline = time.monotonic() + 120
        while not glob.glob(f"{path}.*.writing") and time.monotonic() < deadline:
            time.sleep(0.01)
        process.kill()
        self.assertEqual(process.wait(), -signal.SIGKILL)
        self.assertLen(glob.glob(f"{path}.*.writing"), 1)  # a part of it, under another name
        self.assertAllEqual(restore_trunk(path).fc7.kernel, self.trunk.fc7.kernel)
        export_saved_model(network(seed=1), path, overwrite=True)
        self.assertNotAllClose(restore_trunk(path).fc7.kernel, self.trunk.fc7.kernel)

    @pytest.mark.slow
    def test_parts_of_killed_exports_are_removed_and_those_of_others_at_work_stay(self):
        path = os.path.join(self.get_temp_dir(), "model")
        for name in ("a", "b"):
            os.makedirs(f"{path}.{name}.writing/variables")
        os.utime(f"{path}.a.writing", (time.time() - 7200,) * 2)
        export_saved_model(self.trunk, path)
        self.assertCountEqual(os.listdir(self.get_temp_dir()), ["model", "model.b.writing"])

    @pytest.mark.merge
    @pytest.mark.slow
    def test_what_an_export_was_replacing_when_it_was_killed_is_put_back(self):
        path = self.exported()
        os.rename(path, f"{path}.a.writing.old")  # between the two renames
        with self.assertRaisesRegex(ConfigError, "--overwrite"):
            export_saved_model(network(seed=1), path)
        self.assertAllEqual(restore_trunk(path).fc7.kernel, self.trunk.fc7.kernel)

    @pytest.mark.merge
    @pytest.mark.slow
    def test_wrong_settings_and_damage_have_clear_errors(self):
        path = os.path.join(self.get_temp_dir(), "model")
        with self.assertRaisesRegex(ConfigError, "layer, folded"):
            export_saved_model(self.trunk, path, sobel="fold")
        with self.assertRaisesRegex(ConfigError, "does not exist; use .*dc_tf export"):
            read_metadata(path)
        self.exported()
        file = os.path.join(path, "dc_tf.json")
        values = json.loads(open(file).read())
        for corrupt in ["{", json.dumps(values | {"format": 9}), json.dumps({"format": 1})]:
            with open(file, "w") as f:
                f.write(corrupt)
            with self.assertRaisesRegex(DataError, "dc_tf.json"):
                read_metadata(path)


if __name__ == "__main__":
    tf.test.main()
