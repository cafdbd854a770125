"""Commands as processes of their own: they end, with nothing of theirs left running."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from unittest import mock

import fork_server
import numpy as np
import pictures
import pytest
import tensorflow as tf
import workers
from PIL import Image

from dc_tf.commands.main import _sees_gpu

ROOT = pathlib.Path(__file__).resolve().parents[2]
LIMIT_S = 120


class ProcessTest(tf.test.TestCase):
    def call(self, *arguments):
        """The finished process; a child that kept its pipes open would exceed the time limit."""
        return subprocess.run(
            command_line(*arguments),
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            timeout=LIMIT_S,
        )

    def call_forked(self, *arguments):
        """The same without the time to import TensorFlow, where only the work matters."""
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return fork_server.run(command_line(*arguments), environment, LIMIT_S)

    def test_convert_ends_with_its_pool_and_prints_its_result_last(self):
        folder = pathlib.Path(self.get_temp_dir())
        (folder / "images").mkdir()
        random = np.random.default_rng(0)
        for i in range(300):  # enough for more than one process
            pixels = random.integers(0, 255, (16, 16, 3), np.uint8)
            Image.fromarray(pixels).save(folder / "images" / f"{i}.png")
        done = self.call(
            "convert", f"--input={folder}/images", f"--output={folder}/data", "--workers=2"
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(json.loads(done.stdout.splitlines()[-1])["rows"], 300)

    def test_convert_asked_to_stop_with_its_pool_resumes_to_the_same_bytes(self):
        folder = pathlib.Path(self.get_temp_dir())
        for number in range(60):
            pictures.write(folder / "images", f"{number:02}.png", pictures.encoded(number))

        def command(output):
            return [
                "convert",
                f"--input={folder}/images",
                f"--output={folder / output}",
                "--rows_per_shard=20",
                "--workers=2",
            ]

        self.assertEqual(self.call_forked(*command("whole")).returncode, 0)
        support = ROOT / "tests" / "support"
        slowed = [sys.executable, str(support / "slowed.py"), "convert", "0.05"]
        marker = folder / "marker"
        with subprocess.Popen(
            [*slowed, str(marker), *command("stopped")],
            env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{support}"},
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # a scheduler signals all processes of a job
        ) as process:
            until = time.monotonic() + LIMIT_S
            while not list((folder / "stopped").glob("*/0.json")):
                self.assertLess(time.monotonic(), until)
                time.sleep(0.02)
            os.killpg(process.pid, signal.SIGTERM)
            _, log = process.communicate(timeout=LIMIT_S)
        self.assertEqual(process.returncode, 42, log)
        self.assertIn("was asked to stop", log)
        done = self.call_forked(*command("stopped"))
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("rejected", json.loads(done.stdout.splitlines()[-1]))
        self.assertEqual(pictures.files(folder / "stopped"), pictures.files(folder / "whole"))

    @pytest.mark.slow
    def test_kmeans_saves_at_an_interrupt_and_resumes_to_the_same_centroids(self):
        workers.hear_interrupts(self)
        folder = pathlib.Path(self.get_temp_dir())
        np.save(folder / "x.npy", np.random.default_rng(0).random((5000, 4), np.float32))

        def command(output):
            flags = ["--k=50", "--iterations=300", "--save_every_s=0"]
            return ["kmeans", f"--input={folder}/x.npy", f"--output={folder / output}", *flags]

        self.assertEqual(self.call_forked(*command("whole")).returncode, 0)
        with subprocess.Popen(
            [sys.executable, "-m", "dc_tf", *command("stopped")],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            self.addCleanup(process.kill)
            until = time.monotonic() + LIMIT_S
            while not list((folder / "stopped").rglob("state/*")):
                self.assertLess(time.monotonic(), until)
                time.sleep(0.005)
            process.send_signal(signal.SIGINT)
            _, log = process.communicate(timeout=LIMIT_S)
        self.assertEqual(process.returncode, 42, log)
        self.assertIn("Ctrl-C again ends it at once", log)
        self.assertIn("Start it again with the same flags", log.splitlines()[-1])
        done = self.call_forked(*command("stopped"))
        self.assertEqual(done.returncode, 0, done.stderr)
        for name in ("centroids.npy", "assignments.npy"):
            self.assertAllEqual(
                np.load(folder / "stopped" / name), np.load(folder / "whole" / name)
            )

    def test_a_worker_that_waits_for_another_obeys_at_once(self):
        folder = pathlib.Path(self.get_temp_dir())
        np.save(folder / "x.npy", np.ones((20, 4), np.float32))
        output = folder / "clusters"
        first, second = workers.free_ports(2)
        addresses = {"worker": [f"localhost:{first}", f"localhost:{second}"]}
        task = {"cluster": addresses, "task": {"type": "worker", "index": 0}}
        flags = [f"--input={folder}/x.npy", "--k=2", f"--output={output}"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CONFIG": json.dumps(task)}
        with open(folder / "log", "w+") as log:
            process = fork_server.start(command_line("kmeans", *flags), environment, stderr=log)
            self.addCleanup(process.send_signal, signal.SIGKILL)
            until = time.monotonic() + LIMIT_S
            while not list(output.glob("kmeans_workers/heartbeats/*/*")):
                self.assertLess(time.monotonic(), until)
                time.sleep(0.02)
            process.send_signal(signal.SIGTERM)
            code = process.wait(30)
            log.seek(0)
            said = log.read()
        self.assertEqual(code, 42, said)
        self.assertIn("was waiting for the other workers", said)

    def test_without_a_gpu_nobody_sees_more_than_the_command_says(self):
        if _sees_gpu():
            self.skipTest("needs a machine without a GPU")
        folder = pathlib.Path(self.get_temp_dir())
        np.save(folder / "half.npy", np.random.default_rng(0).normal(size=(50, 8)).astype("f2"))
        flags = [f"--input={folder}/half.npy", "--k=2", f"--output={folder}/quiet"]
        environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
        with mock.patch.dict(os.environ, environment, clear=True):
            done = self.call("kmeans", *flags)
        self.assertEqual(done.returncode, 0, done.stderr)
        for line in done.stderr.splitlines():
            self.assertRegex(line, "^(check|kmeans): ")

    def test_who_stops_reading_gets_no_trace(self):
        reads, writes = os.pipe()
        os.close(reads)
        for arguments in (["--help"], ["train", "--help"]):
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            process = subprocess.run(
                command_line(*arguments),
                stdout=writes,
                stderr=subprocess.PIPE,
                env=environment,
                timeout=LIMIT_S,
            )
            self.assertEqual((process.returncode, process.stderr), (0, b""))
        os.close(writes)

    def test_exit_codes_reach_the_caller(self):
        done = self.call("train", "--workdir=/nowhere", "--params_override=nonsense=1")
        self.assertEqual(done.returncode, 2)
        self.assertIn("unknown setting 'nonsense'", done.stderr)


def command_line(*arguments):
    return [sys.executable, "-m", "dc_tf", *arguments]


if __name__ == "__main__":
    tf.test.main()
