"""The model card has all metadata, and no text from the data becomes Markdown or HTML."""

import os
import re
import shutil
import tempfile

import pytest
import runs
import tensorflow as tf
import workers
from striped import call

from dc_tf.atomic import write_json
from dc_tf.data.storage.manifest import Dataset
from dc_tf.exporting.metadata import read_metadata
from dc_tf.exporting.model_card import escape, model_card
from dc_tf.exporting.saved_model import export_saved_model, restore_trunk
from dc_tf.exporting.weights import weights_digest
from dc_tf.nn.vgg16 import VGG16
from dc_tf.run_dir import RunDir
from dc_tf.training.checkpoint import load_trunk
from dc_tf.training.monitoring.metrics import read

HOSTILE = "a|b `x` [c](http://evil) <script>alert(1)</script> ![d](e)\n# heading"


class ModelCardTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.root = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.root)

    def export(self, source):
        path = os.path.join(self.root, "model")
        trunk = VGG16(width=1 / 16, resolution=32, fc=12, seed=1).built_at_resolution()
        export_saved_model(trunk, path, source=source, overwrite=True)
        with open(os.path.join(path, "README.md")) as f:
            return path, f.read()

    @pytest.mark.slow
    def test_a_run_is_described_by_data_settings_metrics_and_weights(self):
        data = runs.make_data(self.root, images=64)
        settings = runs.settings(data)
        settings["stages"] = [stage | {"epochs": 1} for stage in settings["stages"]]
        workdir, model = (os.path.join(self.root, name) for name in ("run", "model"))
        workers.on_cluster(1, runs.train, settings, workdir)
        fingerprint = Dataset.open(data).fingerprint()
        write_json(RunDir(workdir).data, {"path": data, "fingerprint": fingerprint})
        for stage, number in (("", 1), ("rotnet", 0)):
            code, _, err = call(
                "export",
                f"--workdir={workdir}",
                f"--output={model}",
                f"--stage={stage}",
                "--overwrite",
            )
            self.assertEqual(code, 0, err)
            with open(os.path.join(model, "README.md")) as f:
                card = f.read()
            metadata = read_metadata(model)
            self.assertEqual(metadata.weights, weights_digest(restore_trunk(model)))
            lines = [m for m in read(RunDir(workdir).metrics) if m["event"] == "train"]
            last = [m for m in lines if m["stage"] == number][-1]
            for text in (
                escape(metadata.weights),
                escape(fingerprint),
                "64 rows",
                escape(f"{last['loss']:.6g}"),
                escape(tf.__version__),
                "    batch_size: 32",
                'hub.KerasLayer("FOLDER", trainable=True',
                escape("uint8, or floats in [0, 1]; other values are refused"),
                "## Licence",
            ):
                self.assertIn(text, card)
            self.assertNotIn(self.root, card)
        file = os.path.join(self.root, "mine.weights.h5")
        command = ["export", f"--workdir={workdir}", f"--output={file}", "--format=keras_weights"]
        self.assertEqual(call(*command)[0], 0)
        self.assertEqual(call(*command)[0], 2)  # it exists
        other = VGG16(width=1 / 16, resolution=32, fc=16).built_at_resolution()
        other.load_weights(file)
        self.assertEqual(call(*command, "--overwrite", "--format=h5")[0], 2)
        self.assertEqual(call(*command, "--overwrite", "--input_range=255")[0], 2)
        run, _ = load_trunk(workdir)
        self.assertAllClose(other.fc7.kernel, run.fc7.kernel)

    @pytest.mark.extended
    def test_an_imported_and_an_unknown_network_have_cards_too(self):
        _, card = self.export({"checkpoint": "/secret/place/ours.pth", "sha256": "abc"})
        self.assertIn(r"ours\.pth", card)
        self.assertNotIn("secret", card)
        _, card = self.export(None)
        self.assertEqual(card.count("Not known."), 3)

    @pytest.mark.slow
    def test_nothing_in_the_data_becomes_markup(self):
        path, _ = self.export(
            {
                "stage": HOSTILE,
                "experiment": {"data": {"path": HOSTILE}, "stages": ({"name": HOSTILE},)},
                "data": {"path": HOSTILE, "fingerprint": HOSTILE},
                "metrics": {HOSTILE: HOSTILE},
            }
        )
        card = model_card(read_metadata(path))
        # Only indented or fenced text is code; the rest must not contain markup.
        prose = re.sub(r"```python.*?```", "", card, flags=re.DOTALL)
        prose = "\n".join(line for line in prose.splitlines() if not line.startswith("    "))
        for live in (r"(?<!\\)`", r"(?<!\\)\[", "<", r"(?<!\\)!"):
            self.assertIsNone(re.search(live, prose), live)
        headings = [line for line in card.splitlines() if line.startswith("#")]
        self.assertNotIn("# heading", headings)
        for line in prose.splitlines():
            if line.startswith("|"):
                self.assertEqual(len(re.findall(r"(?<!\\)\|", line)), 3, line)

    def test_escaping(self):
        self.assertEqual(escape("a|b\n<i> & `c`"), r"a\|b &lt;i\> &amp; \`c\`")


if __name__ == "__main__":
    tf.test.main()
