"""`dc_tf kmeans` on two workers: the same result, errors that end both, a killed chief."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import types
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
import workers
from kmeans_command import LAUNCHER, LIMIT_S, CommandTest, blobs, call, stopped_after

from dc_tf.clustering.job import run as kmeans_job
from dc_tf.clustering.kmeans import kmeans


def call_on(cluster, *argv):
    """`call` on a worker that is in its cluster already, and of no use after a broken exchange."""
    with mock.patch("dc_tf.distributed.session.connect", lambda within_s: cluster):
        code, out, err = call(*argv)
    assert "Traceback" not in err, err
    return code, out, err


def call_on_other_inputs(cluster, inputs, *argv):
    return call_on(cluster, *argv, f"--input={inputs[cluster.rank]}")


def call_on_disk(cluster, usage, *argv):
    with mock.patch.object(shutil, "disk_usage", return_value=usage):
        return call_on(cluster, *argv)


def call_on_until(cluster, iteration, *argv):
    return stopped_after(iteration, call_on, cluster, *argv)


class WorkersTest(CommandTest):
    def on_workers(self, *more, **flags):
        results = workers.on_cluster(2, call_on, *self.argv(*more, **flags))
        return results

    def test_two_workers_find_what_one_finds(self):
        cut = self.save("y.npy", self.x[:150])
        both = f"{self.input},{cut}"
        first, second = self.on_workers(input=both)
        self.assertEqual((first[0], second[0]), (0, 0), first[2] + second[2])
        self.assertEqual(second[1:], ("", ""))  # only the chief speaks
        self.assertIn("inertia", json.loads(first[1]))
        self.result(input=both, output=self.path("alone"))
        found, alone = self.found(), self.found(self.path("alone"))
        self.assertAllClose(found.centroids, alone.centroids, rtol=1e-5, atol=1e-6)
        self.assertAllEqual(found.assignments, alone.assignments)
        self.assertEqual(found.about["workers"], 2)
        self.assertEqual(found.about["settings"], alone.about["settings"])
        again, _ = self.on_workers(input=both)
        self.assertEqual(json.loads(again[1]), json.loads(first[1]))

    def test_a_bad_row_of_one_worker_ends_both(self):
        self.x[550, 0] = np.nan
        self.save("x.npy", self.x)
        for code, out, err in self.on_workers():
            self.assertEqual((code, out), (2, ""))
            self.assertRegex(err.splitlines()[-1], "row 550 of .*x.npy is not finite")

    def test_a_full_disk_of_the_chief_ends_both(self):
        full = types.SimpleNamespace(free=1000)
        first, second = workers.on_cluster(2, call_on_disk, full, *self.argv())
        self.assertEqual((first[0], second[0]), (1, 1))
        self.assertRegex(first[2], "needs .* GB more and its disk has 1e-06 GB free")
        self.assertIn("worker 0 failed; see its log", second[2])

    def test_workers_that_see_other_rows_are_refused(self):
        inputs = [self.input, self.save("y.npy", self.x[:599])]
        first, second = workers.on_cluster(2, call_on_other_inputs, inputs, *self.argv())
        self.assertEqual((first[0], second[0]), (2, 2))
        self.assertIn("worker 1 failed; see its log", first[2])
        self.assertRegex(
            second[2], "finds other files in --input=.*y.npy; start all workers with the same"
        )
        self.assertFalse(os.path.exists(self.output))

    def test_two_workers_that_are_refused_leave_a_folder_as_it_was(self):
        os.mkdir(self.output)
        for code, _, err in self.on_workers(k=601):
            self.assertEqual(code, 2)
            self.assertIn("use --k=600 or less", err)
        self.assertEqual(os.listdir(self.output), [])

    def test_one_worker_resumes_where_two_were_interrupted(self):
        argv = self.argv(save_every_s=0, iterations=6)
        for code, _, err in workers.on_cluster(2, call_on_until, 3, *argv):
            self.assertEqual(code, 1, err)
        with mock.patch.object(kmeans_job, "kmeans", wraps=kmeans) as spy:
            self.result(save_every_s=0, iterations=6)
        self.assertEqual(spy.call_args.kwargs["state"].iteration, 3)
        self.result(iterations=6, output=self.path("alone"))
        alone = self.found(self.path("alone"))
        self.assertAllClose(self.found().centroids, alone.centroids, rtol=1e-5, atol=1e-6)

    @pytest.mark.merge
    @pytest.mark.slow
    def test_a_killed_chief_costs_a_restart_and_nothing_else(self):
        self.input = self.save("large.npy", blobs(rows=20_000, dim=32))
        flags = {"iterations": 60, "save_every_s": 0, "k": 50}
        launcher = self.launch(**flags)
        try:
            self.wait_for_iteration(5, launcher)
            os.kill(workers.worker_of(launcher, index=0), signal.SIGKILL)
            out, log = launcher.communicate(timeout=LIMIT_S)
        finally:
            launcher.kill()
        self.assertEqual(launcher.returncode, 0, log)
        self.assertIn("w0 ended with exit code 137", log)
        self.assertIn("restart 1 of 1", log)
        self.assertEqual(json.loads(out.splitlines()[-1])["iterations"], 60)
        whole = self.path("whole")
        for code, _, err in self.on_workers(**flags, output=whole):
            self.assertEqual(code, 0, err)
        self.assert_same(self.found(), self.found(whole))

    @pytest.mark.slow
    def test_workers_meet_at_ipv6_addresses_and_at_names_in_upper_case(self):
        self.result(output=self.path("alone"))
        for number, host in enumerate(("[::1]", "LOCALHOST")):
            output = self.path(f"at-{number}")
            addresses = [f"{host}:{port}" for port in workers.free_ports(2)]
            both = [self.start(addresses, rank, output=output) for rank in range(2)]
            for worker in both:
                _, log = worker.communicate(timeout=LIMIT_S)
                self.assertEqual(worker.returncode, 0, log)
            found, alone = self.found(output), self.found(self.path("alone"))
            self.assertEqual(found.about["workers"], 2)
            self.assertAllEqual(found.assignments, alone.assignments)

    def start(self, addresses, rank, **flags):
        task = {"type": "worker", "index": rank}
        config = json.dumps({"cluster": {"worker": addresses}, "task": task})
        return subprocess.Popen(
            [sys.executable, "-m", "dc_tf", "kmeans", *self.argv(**flags)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"TF_CONFIG": config, "TF_NUM_INTRAOP_THREADS": "1"},
        )

    def launch(self, **flags):
        command = [sys.executable, str(LAUNCHER), "--workers=2", "--threads=1", "--max_restarts=1"]
        return subprocess.Popen(
            [*command, "--", "kmeans", *self.argv(**flags)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_for_iteration(self, iteration, launcher):
        state = pathlib.Path(self.output, "unfinished_kmeans", "state", "worker-00000-of-00002")
        until = time.monotonic() + LIMIT_S
        while time.monotonic() < until and launcher.poll() is None:
            if any(int(file.stem) >= iteration for file in state.glob("*.npz")):
                return
            time.sleep(0.01)
        launcher.kill()
        self.fail(f"iteration {iteration} was not reached:\n{launcher.communicate()[1][-3000:]}")


if __name__ == "__main__":
    tf.test.main()
