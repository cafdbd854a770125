"""An imported network has the features that PyTorch computes, in every layer.

The reference, `torch_vgg.py`, shares nothing with dc_tf.
"""

import io
import os
import zipfile

import numpy as np
import pytest
import real_data
import tensorflow as tf
from PIL import Image

from dc_tf.commands.main import DONE, main
from dc_tf.exporting.torch_weights import from_torch
from dc_tf.exporting.weights import assign_weights
from dc_tf.nn.vgg16 import LAYERS, VGG16

torch = pytest.importorskip("torch", reason="pip install -c constraints.txt torch")
from torch_vgg import released, trained_like  # noqa: E402

pytestmark = pytest.mark.numeric


def photos(count=2, size=224):
    """(count, size, size, 3) uint8 from all over the collection."""
    with zipfile.ZipFile(real_data.archive("photos.zip")) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
        chosen = names[:: len(names) // count][:count]
        images = [Image.open(io.BytesIO(archive.read(name))) for name in chosen]
        return np.stack([np.asarray(i.convert("RGB").resize((size, size))) for i in images])


def for_torch(pixels):
    return torch.tensor(pixels).permute(0, 3, 1, 2) / 255


class FeaturesOfTorchTest(tf.test.TestCase):
    def assert_same_features(self, found, network, pixels):
        with torch.no_grad():
            expected = network.layers(for_torch(pixels))
        self.assertCountEqual(found, LAYERS)
        for layer in LAYERS:
            theirs = expected[layer].numpy()
            theirs = theirs.transpose(0, 2, 3, 1) if theirs.ndim == 4 else theirs
            self.assertAllClose(found[layer], theirs, atol=1e-4, rtol=1e-4, msg=layer)
            self.assertGreater(np.std(theirs), 0.1, layer)  # not a comparison of zeros

    def imported(self, state, resolution):
        network = from_torch({k: t.numpy() for k, t in state.items()}, resolution)
        trunk = VGG16(**network.settings).built_at_resolution()
        assign_weights(network.weights, trunk)
        return trunk

    @pytest.mark.merge
    @pytest.mark.slow
    def test_narrow_networks_with_every_prefix(self):
        pixels = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), np.uint8)
        for sobel in (True, False):
            network = trained_like(for_torch(pixels), sobel=sobel, width=1 / 16, fc=48)
            plain = network.state_dict()
            states = [plain, {f"module.{k}": t for k, t in plain.items()}]
            for state in [*states, released(network)["state_dict"]]:
                trunk = self.imported(state, resolution=64)
                self.assert_same_features(trunk(pixels / np.float32(255)), network, pixels)

    @pytest.mark.slow
    def test_the_whole_network_on_photographs_from_file_to_saved_model(self):
        pixels = photos()
        network = trained_like(for_torch(pixels), sobel=True)
        file, output = (os.path.join(self.get_temp_dir(), name) for name in ("ours.pth", "model"))
        torch.save(released(network), file)
        self.assertEqual(main(["import_torch", f"--checkpoint={file}", f"--output={output}"]), DONE)
        self.assert_same_features(tf.saved_model.load(output)(pixels), network, pixels)

    @pytest.mark.slow
    def test_the_whole_network_on_raw_rgb_photographs(self):
        pixels = photos()
        network = trained_like(for_torch(pixels), sobel=False)
        trunk = self.imported(released(network)["state_dict"], resolution=224)
        self.assert_same_features(trunk(pixels / np.float32(255)), network, pixels)


if __name__ == "__main__":
    tf.test.main()
