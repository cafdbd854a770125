"""The short version of `benchmarks/chaos.py`: a few random faults, and nothing is lost."""

import json
import os
import subprocess
import sys

import fork_server
import pytest
import tensorflow as tf
import workers

FAULTS = 4


@pytest.mark.extended
@pytest.mark.alone
class ChaosTest(tf.test.TestCase):
    def test_runs_under_random_faults_end_as_the_one_that_nobody_disturbed(self):
        self.check("--seed=1")

    def test_so_do_runs_that_exchange_factors(self):
        self.check("--seed=2", "--exchange=factors")

    def check(self, *flags):
        done = subprocess.run(
            [sys.executable, "benchmarks/chaos.py", f"--faults={FAULTS}", *flags],
            cwd=workers.REPOSITORY,
            env=os.environ | {"PYTHONPATH": workers.REPOSITORY},
            capture_output=True,
            text=True,
            timeout=900,
            preexec_fn=fork_server.die_with_parent,
        )
        self.assertEqual(done.returncode, 0, done.stderr[-5000:])
        result = json.loads(done.stdout.splitlines()[-1])
        self.assertEqual((result["faults"], result["lost"]), (FAULTS, 0))


if __name__ == "__main__":
    tf.test.main()
