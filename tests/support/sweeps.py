"""A sweep small enough to be run by tests, and processes for it that start at once."""

import contextlib
import os
import signal
from unittest import mock

import fork_server

from dc_tf.data.synthetic.generate import generate
from dc_tf.sweep import processes
from dc_tf.sweep.run import prepare

# Eight cells: two variants of one stage, at two shares of the images, with two seeds.
SWEEP = {
    "title": "Tiny",
    "settings": {
        "model": {"width": 1 / 16, "resolution": 32, "fc": 16},
        "log_every": 1,
        "checkpoint_every": 1,
        "keep_checkpoints": 100,
        "stages": [
            {
                "name": "rotnet",
                "epochs": 2,
                "clusters": 1,
                "sub_clusters": 0,
                "batch_size": 16,
                "optimizer": {"learning_rate": 0.01},
            }
        ],
    },
    "seeds": [0, 1],
    "axes": {"images": {"fractions": [0.5, 1]}},
    "variants": {"first": {}, "second": {"after": "first"}},
    "evaluations": {"knn": {"task": "knn", "layers": ["conv4", "conv13"]}},
}


def changed(**fields):
    """SWEEP with some of its fields replaced."""
    return {**SWEEP, **fields}


def make_data(folder):
    """Two labelled data sets of 60 and 40 images: arguments of `read_sweep`."""
    found = {"data": os.path.join(folder, "data"), "test": os.path.join(folder, "test")}
    generate(found["data"], images=60, size=40, processes=1)
    generate(found["test"], images=40, size=40, split="test", processes=1)
    return found


def prepared(data, workdir):
    """SWEEP on the data sets of `make_data`, checked."""
    return prepare(SWEEP, workdir, data["data"], None, data["test"], 1)


class Forked:
    """A process of `fork_server` in the place of processes.Process."""

    def __init__(self, arguments, slot, log):
        with open(log, "ab") as out:
            command, environment = slot.command(arguments), slot.environment()
            self.process = fork_server.start(command, environment, stdout=out, stderr=out)

    def poll(self):
        code = self.process.poll()
        return 128 - code if code is not None and code < 0 else code

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)

    def kill(self):
        self.process.send_signal(signal.SIGKILL)


@contextlib.contextmanager
def forked(watch=None):
    """Inside, jobs are forked; yields the list of the jobs that were started, by their arguments.

    Args:
        watch: function of (arguments, process), called after each start.
    """
    started = []

    def start(arguments, slot, log):
        process = Forked(arguments, slot, log)
        started.append(arguments)
        if watch:
            watch(arguments, process)
        return process

    with mock.patch.object(processes, "start", start):
        yield started
