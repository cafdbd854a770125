"""`benchmarks/feature_rank.py`: the rank in closed form, and what changes with the statistics."""

import json
import os
import pathlib
import sys
import tempfile

import numpy as np
import pytest
import runs
from striped import write_stripes

from dc_tf.atomic import write_text
from dc_tf.evaluation.frozen import knn
from dc_tf.evaluation.models import FrozenModel
from dc_tf.evaluation.splits import open_splits
from dc_tf.experiment import load
from dc_tf.nn.trunks import trunk_of

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "benchmarks"))
import feature_rank  # noqa: E402


@pytest.mark.parametrize("shares", [[1.0], [0.5, 0.5], [0.25] * 4, [0.9, 0.05, 0.05]])
def test_the_rank_is_the_exponential_of_the_entropy_of_the_variances(shares):
    random = np.random.default_rng(0)
    x = random.standard_normal((100, len(shares)))
    basis, _ = np.linalg.qr(x - x.mean(0))  # orthonormal columns of mean 0
    rotation, _ = np.linalg.qr(random.standard_normal((6, len(shares))))
    vectors = 3 + basis * np.sqrt(shares) @ rotation.T
    expected = np.prod([share**-share for share in shares])
    assert feature_rank.effective_rank(vectors) == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
def test_a_network_is_measured_with_both_statistics():
    folder = tempfile.mkdtemp()
    train = write_stripes(os.path.join(folder, "train"), 40, seed=0)
    test = write_stripes(os.path.join(folder, "test"), 30, seed=1)
    experiment = load(params_override=[repr(runs.settings(train)), "seed=3,data.resize=32"])
    other = trunk_of(experiment.model, seed=5).built_at_resolution()
    running, recomputed = feature_rank.measured(experiment, other, train, test, ["conv2"])
    assert [one["statistics"] for one in (running, recomputed)] == ["running", "recomputed"]
    assert running["layer"] == "conv13"
    # What batch norm begins with normalises nothing.
    assert 1 <= running["rank"] < recomputed["rank"]
    splits = open_splits(train, test)
    found = knn.evaluate(FrozenModel("", other, 32), *splits, ["conv2"], knn.Protocol())
    assert running["knn"] == {"conv2": round(100 * found["conv2"]["top1"], 2)}
    asked = feature_rank.untrained(experiment_file(folder, experiment), seed=4, train=train)
    found = next(feature_rank.measured(asked, None, train, test))
    assert list(found["knn"]) == ["conv13", "fc7"]
    assert found["rank"] != running["rank"]


def experiment_file(folder, experiment):
    """A configuration without images, as presets are."""
    path = os.path.join(folder, "mine.yaml")
    settings = experiment.as_dict()
    write_text(path, json.dumps({**settings, "data": {**settings["data"], "path": ""}}))
    return path
