"""A trained peer of lightly has equal features in dc_tf. Needs the extra `peers`."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import pytest
import runs
import tensorflow as tf

from dc_tf.exporting.torch_checkpoint import read_checkpoint
from dc_tf.exporting.torch_weights import from_torch
from dc_tf.exporting.weights import assign_weights
from dc_tf.nn.vgg16 import VGG16

pytestmark = pytest.mark.slow
BENCHMARKS = pathlib.Path(__file__).parents[1] / "benchmarks"
PYTHON = os.environ.get("DC_TF_PEERS_PYTHON", sys.executable)
# In PyTorch's process, since its threads and TensorFlow's would wait for one another.
FEATURES = """
import sys, numpy, torch
from torch_trunks import VGG16
trunk = VGG16(width=0.125, resolution=32, fc=16, sobel=bool(int(sys.argv[3])))
trunk.load_state_dict(torch.load(sys.argv[1])["state_dict"])
with torch.no_grad():
    images = torch.from_numpy(numpy.load(sys.argv[2])).permute(0, 3, 1, 2)
    numpy.save(sys.argv[2] + ".features.npy", trunk.eval()(images).numpy())
"""


def skip_without_lightly():
    if "DC_TF_PEERS_PYTHON" not in os.environ and not importlib.util.find_spec("lightly"):
        pytest.skip("needs lightly, of the extra `peers` (or a Python with it: DC_TF_PEERS_PYTHON)")


def run(*arguments):
    # lightly imports torch twice as long as TensorFlow takes; a hang must still end.
    subprocess.run([PYTHON, *map(str, arguments)], check=True, cwd=BENCHMARKS, timeout=200,
                   env={**os.environ, "PYTHONPATH": str(BENCHMARKS.parent)})  # fmt: skip


@pytest.mark.parametrize(("method", "sobel"), [("simclr", 1), ("swav", 0), ("dino", 1)])
def test_a_trained_peer_has_the_same_features_in_dc_tf(method, sobel):
    skip_without_lightly()
    folder = tempfile.mkdtemp()
    data = runs.make_data(folder, images=40)
    settings = {"width": 0.125, "resolution": 32, "fc": 16, "sobel": bool(sobel)}
    weights, images = os.path.join(folder, "trunk.pth"), os.path.join(folder, "images.npy")
    run("peer_training.py", f"--method={method}", f"--data={data}", "--images=64",
        "--batch_size=16", "--threads=1", "--loaders=0", f"--settings={json.dumps(settings)}",
        f"--output={weights}")  # fmt: skip
    with open(f"{weights}.json", encoding="utf-8") as file:
        found = json.load(file)
    assert found["images"] == 64
    assert np.isfinite(found["loss"])
    pixels = np.random.default_rng(0).random((4, 32, 32, 3), np.float32)
    np.save(images, pixels)
    run("-c", FEATURES, weights, images, sobel)
    network = from_torch(read_checkpoint(weights), 32)
    trunk = VGG16(**network.settings).built_at_resolution()
    assign_weights(network.weights, trunk)
    theirs = np.load(images + ".features.npy")
    np.testing.assert_allclose(trunk(tf.constant(pixels))["fc7"], theirs, atol=1e-4)
