"""What `dc_tf kmeans` refuses before it starts."""

import os
import pathlib
import shutil
import signal
import sys
import time
from unittest import mock

import fork_server
import numpy as np
import tensorflow as tf
from kmeans_command import DIM, LAUNCHER, LIMIT_S, CommandTest, K, call

from dc_tf.clustering.job import run as kmeans_job


class RefusalTest(CommandTest):
    """Before the work, in one line, and nothing is left behind or written over."""

    def test_more_clusters_than_memory(self):
        with mock.patch.object(kmeans_job, "free_memory", lambda: 300_000_000):
            message = self.refusal(2)
        self.assertRegex(message, r"--k=12 of 8 components takes about \d+ MB of memory on each")
        self.assertIn("300 MB are free; lower --k", message)
        with mock.patch.object(kmeans_job, "free_memory", lambda: 330_000_000):
            self.assertEqual(call(*self.argv())[0], 0)

    def test_more_clusters_than_rows(self):
        message = self.refusal(2, k=601)
        self.assertRegex(message, "--k=601 .*x.npy has 600; use --k=600 or less")
        init = self.save("init.npy", np.concatenate([self.x, self.x]))
        self.assertRegex(self.refusal(2, k=1200, init=init), "--k=1200 .*--iterations=0")

    def test_no_number_of_clusters(self):
        found, _, err = call("--input=" + self.input, "--output=" + self.output)
        self.assertEqual(found, 2)
        self.assertIn("--k is missing; give the number of clusters, or centroids", err)

    def test_files_that_cannot_be_used(self):
        missing = self.refusal(2, input=self.path("y*.npy"))
        self.assertRegex(missing, "y.*npy' matches no file")
        ids = self.save("ids.npy", np.arange(9))
        self.assertRegex(self.refusal(2, input=ids), "ids.npy: int64 of shape")
        narrow = self.save("narrow.npy", self.x[:, :3])
        both = self.refusal(2, input=f"{self.input},{narrow}")
        self.assertRegex(both, "narrow.npy has rows of 3 and .*x.npy rows of 8")
        none = self.save("none.npy", self.x[:0])
        self.assertRegex(self.refusal(2, input=none), "none.npy has no rows")
        self.assertFalse(os.path.exists(self.output))

    def test_rows_that_are_not_finite(self):
        for value in (np.nan, np.inf):
            x = self.x.copy()
            x[17, 2] = value
            message = self.refusal(2, input=f"{self.input},{self.save('bad.npy', x)}")
            self.assertRegex(message, "row 17 of .*bad.npy is not finite")
        self.assertFalse(os.path.exists(self.output))

    def test_rows_that_float32_cannot_square_or_tell_apart(self):
        for size, reason in ((1e-30, "too small"), (1e-300, "too small"), (1e30, "too large")):
            x = self.save("sized.npy", self.x.astype(np.float64) * size)
            self.assertRegex(self.refusal(2, input=x), f"{reason} to be squared in float32")
            self.result("--normalize", input=x, output=self.path(f"scaled-{size}"))
        x = self.save("far.npy", 1e-12 + 1e-21 * self.x.astype(np.float64))
        self.assertRegex(self.refusal(2, input=x), "too small to be squared in float32")
        x = self.save("far.npy", 1e8 + self.x.astype(np.float64))
        self.assertRegex(self.refusal(2, "--spherical", input=x), "leave out --spherical")
        self.assertFalse(os.path.exists(self.output))

    def test_settings_that_cannot_work(self):
        for flag, expected in {
            "--k=0": "--k",
            "--iterations=-1": "iterations",
            "--precision=float8": "precision",
            "--backend=cuda": "backend",
            "--tolerance=1": "--tolerance=1.0; use a share from 0 to less than 1",
            "--init=kmeans++": "k-means",
            "--init=/none.npy": "/none.npy cannot be read",
            "--output=": "--output is empty",
            "--cache_gb=inf": "--cache_gb=inf: use a number from 0 to 1e+09.",
            "--cache_gb=nan": "--cache_gb=nan: use",
            "--cache_gb=-1": "--cache_gb",
            "--save_every_s=nan": "--save_every_s=nan: use",
            "--save_every_s=inf": "--save_every_s=inf: use",
            "--timeout_s=1e300": "--timeout_s=1e300: use",
            "--tolerance=nan": "--tolerance=nan: use",
            "--tolerance=-inf": "--tolerance=-inf: use",
            f"--k={10**30}": f"--k={10**30}: use a whole number",
            f"--iterations={10**30}": "use a whole number",
        }.items():
            self.assertIn(expected, self.refusal(2, flag))
        both = self.refusal(2, backend="faiss", precision="bfloat16")
        self.assertRegex(both, "--precision=bfloat16; use float32 or auto with backend=faiss")

    def test_initial_centroids_of_another_shape(self):
        init = self.save("init.npy", self.x[:5])
        self.assertRegex(self.refusal(2, init=init), r"shape \(5, 8\); .* need \(12, 8\)")
        bad = self.save("bad.npy", np.full((K, DIM), np.nan))
        self.assertRegex(self.refusal(2, init=bad), "bad.npy has values that are not finite")

    def test_an_output_that_cannot_be_written(self):
        self.assertRegex(
            self.refusal(2, output=self.path("x.npy/out")), "cannot be written: .* is a file"
        )
        self.assertRegex(self.refusal(2, output="/proc/out"), "/proc/out cannot be written")
        full = mock.patch.object(shutil, "disk_usage", return_value=mock.Mock(free=1000))
        with full:
            self.assertRegex(self.refusal(1), "needs .* GB more and its disk has 1e-06 GB free")

    def test_files_of_others_are_not_written_over(self):
        os.mkdir(self.output)
        strange = os.path.join(self.output, "centroids.npy")
        np.save(strange, self.x)
        message = self.refusal(2, "--overwrite", input=strange)
        self.assertRegex(message, "would overwrite .*centroids.npy, which is an input")
        self.assertRegex(self.refusal(2, "--overwrite", init=strange), "would overwrite")
        self.assertRegex(self.refusal(2), "centroids.npy exists and is not of a dc_tf clustering")
        self.assertAllEqual(np.load(strange), self.x)

    def test_an_output_that_another_process_is_at(self):
        flags = [*self.argv(iterations=1_000_000), "--save_every_s=0"]
        environment = {**os.environ, "PYTHONPATH": str(LAUNCHER.parents[1]), "TF_CONFIG": ""}
        process = fork_server.start([sys.executable, "-m", "dc_tf", "kmeans", *flags], environment)
        self.addCleanup(process.send_signal, signal.SIGKILL)
        state = pathlib.Path(self.output, "unfinished_kmeans", "state")
        until = time.monotonic() + LIMIT_S
        while not list(state.glob("*/*.npz")) and process.poll() is None:
            self.assertLess(time.monotonic(), until)
            time.sleep(0.02)
        message = self.refusal(2, iterations=1_000_000)
        self.assertRegex(message, f"--output=.*out is in use by process {process.pid} on ")
        heartbeats = pathlib.Path(self.output, "kmeans_workers", "heartbeats")
        self.assertLen(list(heartbeats.glob("*/worker-00000.json")), 1)
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(LIMIT_S), 42)

    def test_the_output_of_another_program(self):
        os.mkdir(self.output)
        with open(os.path.join(self.output, "clustering.json"), "w") as file:
            file.write("[1, 2]")
        self.assertRegex(self.refusal(2), "clustering.json is not of a dc_tf clustering")


if __name__ == "__main__":
    tf.test.main()
