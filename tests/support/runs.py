"""Small experiments for the tests of training, and what they leave behind."""

import atexit
import contextlib
import fcntl
import functools
import json
import os
import shutil
import tempfile

import numpy as np
import tensorflow as tf
import workers

from dc_tf.atomic import write_text
from dc_tf.data.storage.manifest import Dataset
from dc_tf.data.synthetic.generate import generate
from dc_tf.experiment import load, to_yaml
from dc_tf.run_dir import RunDir
from dc_tf.training.checkpoint import complete_checkpoints
from dc_tf.training.loop import pretrain

SETTINGS = {
    "model": {"width": 1 / 16, "resolution": 32, "fc": 16},
    "data": {"min_crop_area": 0.5},
    "log_every": 1,
    "checkpoint_every": 3,
    "keep_checkpoints": 100,
    "stages": [
        {
            "name": "rotnet",
            "epochs": 2,
            "clusters": 1,
            "sub_clusters": 0,
            "batch_size": 32,
            "optimizer": {"learning_rate": 0.01},
        },
        {
            "name": "deepercluster",
            "epochs": 3,
            "clusters": 2,
            "sub_clusters": 4,
            "reassign_every": 2,
            "batch_size": 32,
            "optimizer": {"learning_rate": 0.01},
            "clustering": {"iterations": 3, "whitening_dim": 8, "init": "previous"},
        },
    ],
}


def make_data(folder, images=128):
    """A generated data set of `images` pictures, to change at will; returns its folder."""
    path = os.path.join(folder, "data")
    shutil.copytree(_generated(images), path)
    return path


@functools.cache
def _generated(images):
    with _shared(f"images-{images}") as folder:
        path = os.path.join(folder, "data")
        if not os.path.exists(path):
            generate(path, images=images, size=64, processes=1)
    return path


def settings(data, **changes):
    """SETTINGS on a data set, with some top-level settings changed."""
    return {**SETTINGS, **changes, "data": {**SETTINGS["data"], "path": data}}


@functools.cache
def undisturbed(size):
    """(settings, run folder) of SETTINGS on 128 images, trained by so many workers.

    For all tests that ask for it, to read. One process of tests trains it for all; each has a copy.
    """
    with _shared(f"undisturbed-{size}") as shared:
        workdir = os.path.join(shared, "run")
        ours = settings(_generated(128))
        if not os.path.exists(RunDir(workdir).result):
            workers.on_cluster(size, train, ours, workdir)
    own = os.path.join(_folder(), "run")
    shutil.copytree(workdir, own)
    return ours, own


@contextlib.contextmanager
def _shared(name):
    """A folder of all processes of tests; inside, it is this one's alone."""
    folder = os.path.join(os.environ["DC_TF_TEST_FOLDER"], name)
    os.makedirs(folder, exist_ok=True)
    with open(folder + ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


def _folder():
    """Lasts as long as the tests."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder)
    return folder


class Stopped(Exception):
    """Ends a run in the middle, as a kill would."""


def finished(folder, settings, data):
    """A run folder as `dc_tf train` leaves it, as far as its settings and its result go."""
    workdir = tempfile.mkdtemp(dir=folder)
    experiment = load(params_override=[repr(settings)])
    found = {"fingerprint": Dataset.open(data).fingerprint(), "path": data}
    files = {"experiment.yaml": to_yaml(experiment), "data.json": json.dumps(found)}
    for name, text in {**files, "result.json": "{}"}.items():
        with open(os.path.join(workdir, name), "w") as f:
            f.write(text)
    return workdir


def train(cluster, settings, workdir, stop_at=None):
    """Runs what is left of an experiment on this worker; all that it leaves is in `workdir`.

    Args:
        stop_at: (event, global step) before which the process gives up, without saving: "train" is
            after that step's update, "clustering" after the reassignment at that step.
    """
    from dc_tf.training.monitoring import metrics

    write = metrics.MetricsLog.write

    def write_or_stop(self, event, step, **values):
        if (event, step) == stop_at:
            raise Stopped
        write(self, event, step, **values)

    metrics.MetricsLog.write = write_or_stop
    try:
        experiment = load(params_override=[repr(settings)])
        run = RunDir(workdir)
        run.create()
        if cluster.is_chief:
            write_text(run.config, to_yaml(experiment))
        return pretrain(experiment, run, cluster)
    except Stopped:
        return None
    finally:
        metrics.MetricsLog.write = write


def train_until(cluster, settings, workdir, step):
    """`train`, but every worker gives up after `step`, before it is saved."""
    from dc_tf.training import trainer

    log = trainer.StageTrainer._log

    def give_up(self, output):
        if self.position.global_step == step:
            raise Stopped
        log(self, output)

    trainer.StageTrainer._log = give_up
    try:
        return train(cluster, settings, workdir)
    finally:
        trainer.StageTrainer._log = log


def end_state(workdir):
    """{name: array} of everything in the newest checkpoint of a run."""
    newest = complete_checkpoints(RunDir(workdir).checkpoints)[-1]
    state = {"checkpoint": np.array(os.path.basename(newest))}
    for name in sorted(os.listdir(newest)):
        if name.endswith(".index"):
            reader = tf.train.load_checkpoint(os.path.join(newest, name[: -len(".index")]))
            for key in reader.get_variable_to_shape_map():
                if not key.startswith(("_CHECKPOINTABLE", "save_counter")):
                    state[f"{name}/{key}"] = reader.get_tensor(key)
    return state
