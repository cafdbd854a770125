"""`dc_tf kmeans`: what it writes, what it refuses before it starts, what a kill costs."""

import collections
import contextlib
import io
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import types
from unittest import mock

import fork_server
import numpy as np
import pytest
import tensorflow as tf
import workers
from absl.testing import parameterized

from dc_tf import precision as precision_lib
from dc_tf.clustering.job import run as kmeans_job
from dc_tf.clustering.kmeans import kmeans
from dc_tf.clustering.shared_state import SharedState
from dc_tf.commands.main import main

LAUNCHER = pathlib.Path(__file__).resolve().parents[2] / "launch" / "local.py"
LIMIT_S = 240
ROWS, DIM, K = 600, 8, 12


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


def stopped_after(iteration, function, *args):
    """Calls `function`; k-means ends as by a second Ctrl-C once it has saved `iteration`."""
    save = SharedState.save_if_due

    def save_and_stop(self, state):
        save(self, state)
        if state.iteration == iteration:
            raise KeyboardInterrupt

    with mock.patch.object(SharedState, "save_if_due", save_and_stop):
        return function(*args)


def call_on_until(cluster, iteration, *argv):
    return stopped_after(iteration, call_on, cluster, *argv)


Found = collections.namedtuple("Found", "centroids assignments about")


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


class ResultTest(CommandTest):
    def test_it_writes_what_the_function_finds_and_prints_the_metrics(self):
        code, out, err = call(*self.argv("--seed=3", iterations=5))
        self.assertEqual(code, 0, err)
        printed = json.loads(out.splitlines()[-1])
        expected = kmeans(self.x, K, iterations=5, seed=3)
        found = self.found()
        self.assertAllEqual(found.centroids, expected.centroids)
        self.assertAllEqual(found.assignments, expected.assignments)
        self.assertEqual((found.centroids.dtype, found.assignments.dtype), (np.float32, np.int32))
        distances = np.sum((self.x - found.centroids[found.assignments]) ** 2)
        self.assertAllClose(printed["inertia"], distances, rtol=1e-5)
        self.assertEqual(printed["iterations"], 5)
        self.assertEqual(printed["empty_clusters"], 0)
        self.assertEqual(printed["backend"], expected.backend)
        self.assertIn(f"kmeans: iteration 5/5, {ROWS} rows, done", err)
        self.assertEndsWith(err, f"objective {printed['inertia']:,.0f}\n")
        speed = printed["rows_per_second"] * printed["seconds_per_iteration"]
        self.assertAllClose(speed, ROWS)

    def test_clustering_json_has_settings_versions_objective_and_sizes(self):
        printed = self.result("--tolerance=0.5", iterations=4)
        about = self.found().about
        self.assertEqual(about["result"], printed)
        self.assertEqual(about["settings"]["tolerance"], 0.5)
        self.assertEqual(about["settings"]["rows"], ROWS)
        self.assertEqual(about["input"], [{"path": self.input, "rows": ROWS}])
        self.assertLen(about["objective"], printed["iterations"] + 1)
        self.assertLess(printed["iterations"], 4)
        counts = np.bincount(self.found().assignments, minlength=K)
        self.assertAllClose(about["clusters"]["largest_share"], counts.max() / ROWS)
        self.assertEqual(sum(about["clusters"]["sizes"]), K)
        self.assertEqual(about["versions"]["tensorflow"], tf.__version__)
        self.assertGreater(about["exchanged_bytes_per_iteration"], 0)

    def test_a_collapse_is_reported_in_plain_words(self):
        self.result(input=self.save("equal.npy", np.ones((100, 4), np.float32)))
        crowded, empty = self.found().about["warnings"]
        self.assertIn("holds 100% of all rows", crowded)
        self.assertIn(f"{K - 1} of {K} clusters are empty", empty)
        self.result(output=self.path("even"))
        self.assertEqual(self.found(self.path("even")).about["warnings"], [])

    def test_shards_of_any_precision_are_one_matrix(self):
        exact = self.x.astype(np.float16)
        self.save("part-0.npy", exact[:100])
        self.save("part-1.npy", exact[100:])
        self.result(input=self.path("part-*.npy"))
        parts = self.found()
        self.result(input=self.save("whole.npy", exact), output=self.path("whole"))
        self.assert_same(parts, self.found(self.path("whole")))
        bfloat16 = self.save("bfloat16.npy", self.x.astype(tf.bfloat16.as_numpy_dtype))
        self.result(input=bfloat16, output=self.path("bfloat16"))
        self.assertEqual(self.found(self.path("bfloat16")).about["settings"]["dtype"], "bfloat16")

    def test_it_starts_from_centroids_in_a_file(self):
        init = self.save("init.npy", self.x[:K].astype(np.float64))
        self.result(init=init, iterations=0)
        found = self.found()
        self.assertAllEqual(found.centroids, self.x[:K])
        distances = ((self.x[:, None] - self.x[None, :K]) ** 2).sum(axis=2)
        self.assertAllEqual(found.assignments, distances.argmin(axis=1))

    def test_no_iterations_assign_any_number_of_rows_to_given_centroids(self):
        centroids = self.x[[0, 1, 1, 2, 3]]  # one twice
        init = self.save("init.npy", centroids)
        rows = self.save("new.npy", self.x[5:8])
        flags = ["--input=" + rows, "--init=" + init, "--iterations=0"]
        code, _, err = call(*flags, "--output=" + self.output)
        self.assertEqual(code, 0, err)
        found = self.found()
        self.assertAllEqual(found.centroids, centroids)
        distances = ((self.x[5:8, None] - centroids[None]) ** 2).sum(axis=2)
        self.assertAllEqual(found.assignments, distances.argmin(axis=1))
        self.assertEqual(found.about["settings"]["k"], 5)
        self.assertEqual(found.about["warnings"], [])

    def test_float64_rows_with_a_large_offset_are_clustered_and_assigned(self):
        offset = 2.0**27
        x = self.save("x64.npy", self.x.astype(np.float64) + offset)
        self.result(input=x, iterations=5)
        found = self.found()
        self.assertEqual(found.centroids.dtype, np.float64)
        distances = np.sum((self.x - (found.centroids - offset)[found.assignments]) ** 2)
        self.assertAllClose(found.about["objective"][-1], distances, rtol=1e-4)
        init, again = os.path.join(self.output, "centroids.npy"), self.path("again")
        self.result(input=x, init=init, iterations=0, output=again)
        self.assertAllEqual(self.found(again).assignments, found.assignments)

    def test_rows_and_centroids_of_length_1(self):
        self.result("--normalize", "--spherical", init="k-means++")
        found = self.found()
        self.assertAllClose(np.linalg.norm(found.centroids, axis=1), np.ones(K), rtol=1e-5)
        nearest = np.argmax(self.x @ found.centroids.T, axis=1)
        self.assertGreater(np.mean(nearest == found.assignments), 0.999)

    def test_faiss_finds_the_same(self):
        flags = {"iterations": 2, "precision": "float32"}
        self.assertEqual(self.result(backend="faiss", **flags)["backend"], "faiss")
        self.result(backend="tensorflow", output=self.path("tensorflow"), **flags)
        self.assertAllClose(self.found().centroids, self.found(self.path("tensorflow")).centroids)

    @pytest.mark.bfloat16
    def test_precision_is_measured_said_and_kept_by_a_clustering_that_goes_on(self):
        flags = {"backend": "tensorflow", "save_every_s": 0}
        with mock.patch.multiple(
            precision_lib, product_speed=lambda dim: 2.0, excess_error=lambda *_: 0.9
        ):
            code, _, err = stopped_after(1, call, *self.argv(**flags))
            self.assertEqual(code, 1, err)
            whole = self.result(**flags, output=self.path("whole"))
        self.assertIn("computes in bfloat16 (auto: bfloat16 is 2 times as fast as float32", err)
        with mock.patch.multiple(
            precision_lib, product_speed=lambda dim: 0.1, excess_error=lambda *_: 0.9
        ):
            found = self.result(**flags)
        self.assertEqual((whole["precision"], found["precision"]), ("bfloat16", "bfloat16"))
        self.assertEqual(self.found().about["settings"]["precision"], "bfloat16")
        self.assertAllEqual(self.found().centroids, self.found(self.path("whole")).centroids)

    def test_bfloat16_is_left_where_its_products_lose_digits(self):
        with mock.patch.object(precision_lib, "excess_error", lambda *_: 1.8):
            _, out, err = call(*self.argv(backend="tensorflow", precision="bfloat16"))
        self.assertEqual(json.loads(out.splitlines()[-1])["precision"], "float32")
        self.assertIn("float32 (bfloat16 products round 1.8 times as coarsely", err)


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
        self.assertRegex(both, "'faiss' has float32 only")

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


class AgainTest(CommandTest, parameterized.TestCase):
    """A second call with the same output."""

    def test_a_finished_clustering_prints_its_result_again(self):
        printed = self.result()
        before = os.stat(os.path.join(self.output, "clustering.json"))
        code, out, err = call(*self.argv())
        self.assertEqual((code, json.loads(out)), (0, printed))
        self.assertIn("is finished; this is its result again", err)
        after = os.stat(os.path.join(self.output, "clustering.json"))
        self.assertEqual(after.st_mtime_ns, before.st_mtime_ns)

    def test_other_settings_or_rows_are_refused_and_named(self):
        self.result(iterations=1)
        expected = self.found()
        message = self.refusal(2, seed=1)
        self.assertRegex(message, r"other settings \(iterations: 1, 10; seed: 0, 1\); use another")
        self.x[5, 5] += 1
        self.save("x.npy", self.x)
        self.assertRegex(self.refusal(2, iterations=1), r"other settings \(input_checksum: ")
        self.assert_same(self.found(), expected)

    def test_overwrite_replaces_it(self):
        self.result(iterations=1)
        self.result("--overwrite", k=3)
        self.assertEqual(self.found().centroids.shape, (3, DIM))

    @parameterized.parameters("float32", "bfloat16")
    def test_an_interrupted_one_goes_on_and_ends_the_same(self, precision):
        # One cloud: so many rows are almost as near to two centroids that bfloat16 goes on the
        # same way only with the labels of the last iteration.
        cloud = self.save("cloud.npy", blobs(rows=2000, dim=64, k=1))
        flags = {"input": cloud, "k": 64, "precision": precision, "save_every_s": 0}
        whole, part = self.path("whole"), self.path("part")
        self.result(**flags, output=whole)
        code, _, err = stopped_after(1, call, *self.argv(**flags, output=part))
        self.assertEqual(code, 1, err)
        self.assertFalse(os.path.exists(os.path.join(part, "centroids.npy")))
        self.assertRegex(self.refusal(2, **flags, output=part, seed=5), "other settings")
        with mock.patch.object(kmeans_job, "kmeans", wraps=kmeans) as spy:
            self.result("--overwrite", **flags, output=part)
        self.assertEqual(spy.call_args.kwargs["state"].iteration, 1)
        self.assert_same(self.found(part), self.found(whole))

    def test_what_is_there_already_needs_no_more_room(self):
        flags = {"save_every_s": 0, "iterations": 3, "k": 300}
        full = mock.patch.object(shutil, "disk_usage", return_value=mock.Mock(free=1_080_000))
        with full:
            self.assertIn("and its disk has 0.00108 GB free", self.refusal(1, **flags))
        self.assertEqual(stopped_after(2, call, *self.argv(**flags))[0], 1)
        with full:
            printed = self.result(**flags)
        with mock.patch.object(shutil, "disk_usage", return_value=mock.Mock(free=0)):
            self.assertEqual(self.result(**flags), printed)

    def test_a_disk_that_fills_at_the_end_costs_the_last_step_only(self):
        full = OSError(28, "No space left on device")
        with mock.patch.object(np.lib.format, "write_array_header_1_0", side_effect=full):
            message = call(*self.argv(save_every_s=0))[2].splitlines()[-1]
        self.assertRegex(message, "cannot be written: No space left.*which resumes")
        self.assertFalse(os.path.exists(os.path.join(self.output, "clustering.json")))
        self.result(save_every_s=0)
        self.assertAllEqual(self.found().assignments, kmeans(self.x, K).assignments)


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

    def test_one_worker_goes_on_where_two_were_interrupted(self):
        argv = self.argv(save_every_s=0, iterations=6)
        for code, _, err in workers.on_cluster(2, call_on_until, 3, *argv):
            self.assertEqual(code, 1, err)
        with mock.patch.object(kmeans_job, "kmeans", wraps=kmeans) as spy:
            self.result(save_every_s=0, iterations=6)
        self.assertEqual(spy.call_args.kwargs["state"].iteration, 3)
        self.result(iterations=6, output=self.path("alone"))
        alone = self.found(self.path("alone"))
        self.assertAllClose(self.found().centroids, alone.centroids, rtol=1e-5, atol=1e-6)

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
