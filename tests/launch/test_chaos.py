"""A few of the random faults of `benchmarks/chaos.py`."""

import json
import pathlib
import subprocess
import sys

import pytest
import tensorflow as tf

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.mark.slow
class ChaosTest(tf.test.TestCase):
    def test_random_faults_cost_nothing(self):
        command = [sys.executable, "benchmarks/chaos.py", "--faults=4", "--seed=1"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
        self.assertEqual(done.returncode, 0, done.stderr[-3000:])
        self.assertEqual(json.loads(done.stdout.splitlines()[-1])["faults"], 4)


if __name__ == "__main__":
    tf.test.main()
