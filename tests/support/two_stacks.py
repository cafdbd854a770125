"""What one stack leaves for the other: a run, the same run half way, exports and a classifier.

As a program it does both for a folder of the other stack, in one process:

    python two_stacks.py THEIRS OURS        # prints the version of TensorFlow
"""

import json
import os
import shutil
import sys

import numpy as np
import runs

from dc_tf import keras
from dc_tf.classification.finetune import finetune
from dc_tf.exporting.weights import weights_digest
from dc_tf.run_dir import RunDir
from dc_tf.training.checkpoint import complete_checkpoints, load_trunk, read_position
from dc_tf.training.export_run import export_run
from dc_tf.training.monitoring.metrics import read

STOP, STEPS = 9, 20  # the checkpoint in the first round of the second stage


def make(cluster, folder, settings) -> None:
    """Leaves in `folder` a run, its exports, a classifier, and the run as it was at STOP."""
    whole, part = _path(folder, "whole"), _path(folder, "part")
    runs.train(cluster, settings, whole)
    shutil.copytree(whole, part)
    _go_back(RunDir(part))
    export_run(whole, _path(folder, "saved_model"))
    export_run(whole, _path(folder, "network.keras"), "keras")
    export_run(whole, _path(folder, "network.weights.h5"), "keras_weights")
    data = settings["data"]["path"]
    finetune(
        _path(folder, "saved_model"),
        *(data, data, _path(folder, "classifier")),
        params_override=["epochs=1,batch_size=32,learning_rate=0.02,drops=[],init_deviation=0.3"],
        compute_dtype="float32",
    )
    with open(_path(folder, "settings.json"), "w") as file:
        json.dump(settings, file)
    expected = _of_trunk(load_trunk(whole)[0]) | {"classifier": _probabilities(folder)}
    np.savez(_path(folder, "expected.npz"), **expected)


def visit(cluster, folder) -> dict[str, np.ndarray]:
    """What the networks in `folder` compute, and losses of the half run, which is continued."""
    import tensorflow as tf

    with open(_path(folder, "settings.json")) as file:
        settings = json.load(file)
    trunk, _ = load_trunk(_path(folder, "whole"))
    found = _of_trunk(trunk)
    found["saved_model"] = tf.saved_model.load(_path(folder, "saved_model"))(images())["fc7"]
    found["keras"] = keras.models.load_model(_path(folder, "network.keras"))(images())
    trunk.load_weights(_path(folder, "network.weights.h5"))
    found["keras_weights"] = trunk(images())["fc7"]
    found["classifier"] = _probabilities(folder)
    result = runs.train(cluster, settings, _path(folder, "part"))
    found["steps"] = result["steps"]
    found["losses"] = losses(_path(folder, "part"))
    return {name: np.asarray(value) for name, value in found.items()}


def losses(workdir) -> list[float]:
    """Of each step of a run."""
    return [line["loss"] for line in read(RunDir(workdir).metrics) if line["event"] == "train"]


def images() -> np.ndarray:
    """(4, 32, 32, 3) float32 in [0, 1]."""
    return np.random.default_rng(0).random((4, 32, 32, 3), np.float32)


def _go_back(run):
    """Removes what a run has left since STOP."""
    for path in complete_checkpoints(run.checkpoints):
        if read_position(path).global_step > STOP:
            shutil.rmtree(path)
    shutil.rmtree(run.clustering(1, 1))
    os.remove(run.result)


def _of_trunk(trunk):
    return {"digest": np.array(weights_digest(trunk)), "fc7": np.asarray(trunk(images())["fc7"])}


def _probabilities(folder):
    """Of the classifier, by its SavedModel."""
    import tensorflow as tf

    model = tf.saved_model.load(os.path.join(_path(folder, "classifier"), "model"))
    return np.asarray(model(images())["probabilities"])


def _path(folder, name):
    return os.path.join(folder, name)


def _main(theirs, ours):
    from dc_tf.distributed.cluster import connect

    cluster = connect()
    with open(_path(theirs, "settings.json")) as file:
        settings = json.load(file)
    make(cluster, ours, settings)
    np.savez(_path(theirs, "found.npz"), **visit(cluster, theirs))
    import tensorflow as tf

    print(tf.__version__)


if __name__ == "__main__":
    _main(*sys.argv[1:])
