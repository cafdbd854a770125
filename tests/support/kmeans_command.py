"""Calls of `dc_tf kmeans` on a few rows, for its tests."""

import collections
import contextlib
import io
import json
import os
import pathlib
import tempfile
from unittest import mock

import numpy as np
import tensorflow as tf

from dc_tf.clustering.shared_state import SharedState
from dc_tf.commands.main import main

LAUNCHER = pathlib.Path(__file__).resolve().parents[2] / "launch" / "local.py"
LIMIT_S = 240
ROWS, DIM, K = 600, 8, 12


Found = collections.namedtuple("Found", "centroids assignments about")


def blobs(rows=ROWS, dim=DIM, k=K, seed=0):
    """(rows, dim) float32: clouds that overlap, so that Lloyd needs many iterations."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(k, dim))
    return (centers[rng.integers(0, k, rows)] + rng.normal(size=(rows, dim))).astype(np.float32)


def call(*argv):
    """(exit code, stdout, stderr) of a command line."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["kmeans", *argv])
    return code, out.getvalue(), err.getvalue()


def stopped_after(iteration, function, *args):
    """Calls `function`; k-means ends as by a second Ctrl-C once it has saved `iteration`."""
    save = SharedState.save_if_due

    def save_and_stop(self, state):
        save(self, state)
        if state.iteration == iteration:
            raise KeyboardInterrupt

    with mock.patch.object(SharedState, "save_if_due", save_and_stop):
        return function(*args)


class CommandTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = tempfile.mkdtemp(dir=self.get_temp_dir())
        self.x = blobs()
        self.input = self.save("x.npy", self.x)
        self.output = self.path("out")

    def path(self, name):
        return os.path.join(self.folder, name)

    def save(self, name, array):
        np.save(self.path(name), array)
        return self.path(name)

    def argv(self, *more, **flags):
        """Flags for a small job; `flags` over the usual ones."""
        flags = {"input": self.input, "output": self.output, "k": K, **flags}
        return [*(f"--{name}={value}" for name, value in flags.items()), *more]

    def result(self, *more, **flags):
        """What a command prints that has to work."""
        code, out, err = call(*self.argv(*more, **flags))
        self.assertEqual(code, 0, err)
        return json.loads(out.splitlines()[-1])

    def refusal(self, code, *more, **flags):
        """The one line of a command that has to be refused."""
        found, out, err = call(*self.argv(*more, **flags))
        self.assertEqual((found, out), (code, ""), err)
        *progress, line = err.splitlines()
        self.assertTrue(all(text.startswith("check: ") for text in progress), err)
        return line

    def found(self, output=None):
        folder = output or self.output
        self.assertCountEqual(
            os.listdir(folder), ["centroids.npy", "assignments.npy", "clustering.json"]
        )
        with open(os.path.join(folder, "clustering.json")) as file:
            about = json.load(file)
        arrays = [
            np.load(os.path.join(folder, name)) for name in ("centroids.npy", "assignments.npy")
        ]
        return Found(*arrays, about)

    def assert_same(self, found, expected):
        self.assertAllEqual(found.centroids, expected.centroids)
        self.assertAllEqual(found.assignments, expected.assignments)
        self.assertEqual(found.about["objective"], expected.about["objective"])
