"""`benchmarks/gpu_workers.sh` itself, on CPUs; what it shows of GPUs needs a host that has some."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

import pytest
import tensorflow as tf

SCRIPT = pathlib.Path(__file__).parents[1] / "benchmarks" / "gpu_workers.py"


def run(*flags, **options):
    command = [sys.executable, str(SCRIPT), *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=400, **options)


class GpuWorkersTest(tf.test.TestCase):
    def test_unknown_checks_and_one_worker_are_refused(self):
        for flag, text in (("--checks=speed", "there are groups"), ("--workers=1", "use 2 or")):
            done = run("--cpu", flag)
            self.assertEqual(done.returncode, 2)
            self.assertIn(text, done.stderr)

    def test_a_host_with_too_few_gpus_is_refused_with_what_it_would_need(self):
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "0"}
        for flags, needed in ((), 2), (("--workers=3",), 3):
            done = run(*flags, env=environment)
            self.assertEqual(done.returncode, 1)
            self.assertRegex(done.stderr, rf"[01] visible GPUs for {needed} workers: .* two GPUs")
            self.assertIn("--cpu --workers=2", done.stderr)

    @pytest.mark.extended
    def test_all_checks_pass_on_two_cpu_workers(self):
        output = os.path.join(tempfile.mkdtemp(dir=self.get_temp_dir()), "found.json")
        done = run("--cpu", "--workers=2", f"--output={output}")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        found = json.loads(pathlib.Path(output).read_text())
        self.assertEqual(found["groups"], {"2": [0, 1]})
        self.assertGreater(found["equality"]["factors, bfloat16"], found["equality"]["factors"])
        self.assertGreater(found["stop"]["steps"], found["stop"]["stopped_at"])
        self.assertGreater(min(found["messages"].values()), 0)
        self.assertContainsSubset(["alone", "before", "factors"], found["step"])

    @pytest.mark.extended
    def test_groups_of_four_cpu_workers_share_heads(self):
        output = os.path.join(tempfile.mkdtemp(dir=self.get_temp_dir()), "found.json")
        done = run("--cpu", "--workers=4", "--checks=groups,equality", f"--output={output}")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        found = json.loads(pathlib.Path(output).read_text())
        self.assertEqual(sorted(found["groups"]), ["2", "4"])
        self.assertContainsSubset(["factors, groups", "gradients, groups"], found["equality"])


if __name__ == "__main__":
    tf.test.main()
