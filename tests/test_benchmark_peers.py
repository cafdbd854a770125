"""Peers of lightly: equal features in dc_tf, and a whole comparison. Needs the extra `peers`."""

import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

import numpy as np
import pytest
import runs
import tensorflow as tf

from dc_tf.exporting.torch_checkpoint import read_checkpoint
from dc_tf.exporting.torch_weights import from_torch
from dc_tf.exporting.weights import assign_weights
from dc_tf.nn.trunks import make_trunk

BENCHMARKS = pathlib.Path(__file__).parents[1] / "benchmarks"
PYTHON = os.environ.get("DC_TF_PEERS_PYTHON", sys.executable)
ROWS = {
    "random": {"peer": "untrained"},
    "deepercluster": {},
    "simclr": {"peer": "simclr", "batch_size": 16, "loaders": 0, "threads": 1},
}
# In PyTorch's process, since its threads and TensorFlow's would wait for one another.
FEATURES = """
import json, sys, numpy, torch
from torch_trunks import TRUNKS
trunk = TRUNKS[sys.argv[3]](**json.loads(sys.argv[4]))
trunk.load_state_dict(torch.load(sys.argv[1])["state_dict"])
with torch.no_grad():
    images = torch.from_numpy(numpy.load(sys.argv[2])).permute(0, 3, 1, 2)
    numpy.save(sys.argv[2] + ".features.npy", trunk.eval()(images).numpy())
"""


def skip_without_lightly():
    if "DC_TF_PEERS_PYTHON" not in os.environ and not importlib.util.find_spec("lightly"):
        pytest.skip("needs lightly, of the extra `peers` (or a Python with it: DC_TF_PEERS_PYTHON)")


def run(*arguments, python=PYTHON, timeout=200):
    # lightly imports torch twice as long as TensorFlow takes; a hang must still end.
    subprocess.run([python, *map(str, arguments)], check=True, cwd=BENCHMARKS, timeout=timeout,
                   env={**os.environ, "PYTHONPATH": str(BENCHMARKS.parent)})  # fmt: skip


SMALL = {"width": 0.125, "resolution": 32}
SLOW, EXTENDED = pytest.mark.slow, pytest.mark.extended
CASES = [
    pytest.param("swav", "vgg16", {"fc": 16, "sobel": False}, "--seconds=0.5", marks=SLOW),
    pytest.param("simclr", "resnet18", {"sobel": False}, "--images=64", marks=SLOW),
    pytest.param("simclr", "vgg16", {"fc": 16, "dropout": False}, "--images=64", marks=EXTENDED),
    pytest.param("dino", "resnet18", {"stem": "small"}, "--images=64", marks=EXTENDED),
]


@pytest.mark.parametrize(("method", "kind", "settings", "budget"), CASES)
def test_a_trained_peer_has_the_same_features_in_dc_tf(method, kind, settings, budget):
    skip_without_lightly()
    folder = tempfile.mkdtemp()
    data = runs.make_data(folder, images=40)
    settings = json.dumps(SMALL | settings)
    weights, images = os.path.join(folder, "trunk.pth"), os.path.join(folder, "images.npy")
    run("peer_training.py", f"--method={method}", f"--data={data}", budget, "--batch_size=16",
        "--threads=1", "--loaders=0", "--jitter=0.5", "--greyscale=0.2", f"--trunk={kind}",
        f"--settings={settings}", f"--output={weights}")  # fmt: skip
    with open(f"{weights}.json", encoding="utf-8") as file:
        found = json.load(file)
    assert np.isfinite(found["loss"])
    if budget == "--images=64":
        assert found["images"] == 64
    else:
        assert found["seconds"] >= 0.5
        assert found["images"] % 32 == 0
    pixels = np.random.default_rng(0).random((4, 32, 32, 3), np.float32)
    np.save(images, pixels)
    run("-c", FEATURES, weights, images, kind, settings)
    network = from_torch(read_checkpoint(weights), 32)
    assert network.kind == kind
    trunk = make_trunk(kind, **network.settings).built_at_resolution()
    assign_weights(network.weights, trunk)
    theirs = np.load(images + ".features.npy")
    found = trunk(tf.constant(pixels))[trunk.feature_layer]
    scale = np.abs(theirs).max()  # hundreds where few steps have moved batch norm's statistics
    assert scale > 0.01
    np.testing.assert_allclose(found, theirs, atol=1e-4 * max(1.0, scale))


@pytest.mark.slow
def test_a_killed_training_goes_on():
    skip_without_lightly()
    folder = tempfile.mkdtemp()
    data = runs.make_data(folder, images=40)
    state = os.path.join(folder, "trunk.pth.state")
    settings = json.dumps(SMALL | {"stem": "small"})
    command = [PYTHON, "peer_training.py", "--method=swav", f"--data={data}", "--images=3200",
               "--batch_size=16", "--threads=1", "--loaders=0", "--trunk=resnet18",
               f"--settings={settings}", "--save_every=0",
               f"--output={folder}/trunk.pth"]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(BENCHMARKS.parent)}
    with subprocess.Popen(command, cwd=BENCHMARKS, env=environment) as training:
        until = time.monotonic() + 150
        while not os.path.exists(state) and time.monotonic() < until:
            time.sleep(0.01)
        training.kill()
    assert not os.path.exists(f"{folder}/trunk.pth")
    done = subprocess.run(command, cwd=BENCHMARKS, env=environment, timeout=200, text=True,
                          check=True, stderr=subprocess.PIPE)  # fmt: skip
    before = int(re.search(r"goes on after ([\d,]+) views", done.stderr)[1].replace(",", ""))
    assert 32 <= before < 3200
    with open(f"{folder}/trunk.pth.json", encoding="utf-8") as file:
        assert json.load(file)["images"] == 3200
    assert not os.path.exists(state)


@pytest.mark.slow
def test_a_gpu_that_is_not_there_is_refused():
    skip_without_lightly()
    command = [PYTHON, "peer_training.py", "--device=cuda", "--method=dino", "--data=none",
               "--settings={}", "--images=1", "--output=none"]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(BENCHMARKS.parent), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=BENCHMARKS, env=environment, timeout=200, text=True,
                          stderr=subprocess.PIPE)  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.endswith("--device=cuda: this PyTorch sees no GPU; use --device=cpu.\n")


@pytest.mark.extended
def test_a_comparison_has_equal_budgets_and_resumes():
    skip_without_lightly()
    folder = tempfile.mkdtemp()
    data = runs.make_data(folder, images=64)
    config = os.path.join(folder, "config.yaml")
    with open(config, "w", encoding="utf-8") as file:
        settings = {**runs.SETTINGS, "data": {"min_crop_area": 0.5, "resize": 32}}
        json.dump(settings, file)  # which is YAML
    rows = os.path.join(folder, "rows.yaml")
    with open(rows, "w", encoding="utf-8") as file:
        json.dump(ROWS, file)
    output = os.path.join(folder, "found")
    arguments = ["peers.py", f"--train={data}", f"--test={data}", f"--config={config}",
                 f"--rows={rows}", f"--workdir={folder}/W", f"--output={output}", "--seeds=3",
                 "--images=200", f"--peers_python={PYTHON}"]  # fmt: skip
    run(*arguments, python=sys.executable, timeout=400)
    with open(f"{output}.json", encoding="utf-8") as file:
        first = json.load(file)
    used = {cell["variant"]: cell["cost"]["images"] for cell in first["cells"]}
    assert used == {"random": 0, "deepercluster": 192, "simclr": 192}
    for cell in first["cells"]:
        assert set(cell["metrics"]) == {"knn", "linear"}
        assert "conv13" in cell["metrics"]["knn"]
        # All have an untrained twin, which is its own.
        assert set(cell["below_random_init"]) == {"knn", "linear"}
        assert None not in cell["below_random_init"].values()
    assert first["cells"][0]["below_random_init"] == {"knn": [], "linear": []}
    for place in ("peers/simclr-seed_3", "dc_tf/evaluations/deepercluster-seed_3"):
        with open(os.path.join(folder, "W", place, "knn.json"), encoding="utf-8") as file:
            assert json.load(file)["result"]["short_side"] == 32
    weights = os.path.join(folder, "W/peers/simclr-seed_3/trunk.pth")
    written = os.path.getmtime(weights)
    run(*arguments, python=sys.executable, timeout=200)
    assert os.path.getmtime(weights) == written
    with open(f"{output}.json", encoding="utf-8") as file:
        assert json.load(file) == first
    # A call for one row keeps the others; one of another budget is refused before anything runs.
    run(*arguments, "--only=random", "--seeds=4", python=sys.executable, timeout=200)
    with open(f"{output}.json", encoding="utf-8") as file:
        more = json.load(file)["cells"]
    found = [(cell["variant"], cell["seed"]) for cell in more]
    assert found == [("random", 3), ("random", 4), ("deepercluster", 3), ("simclr", 3)]
    assert more[0] == first["cells"][0]
    with pytest.raises(subprocess.CalledProcessError):
        run(*arguments, "--images=300", python=sys.executable, timeout=60)
