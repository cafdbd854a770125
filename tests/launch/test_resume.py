"""The real thing: workers started by the launcher, one killed, all restarted, nothing lost."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import pytest
import runs
import tensorflow as tf
import workers

from dc_tf.run_dir import RunDir
from dc_tf.training.monitoring.metrics import read

LAUNCHER = pathlib.Path(__file__).resolve().parents[2] / "launch" / "local.py"
LIMIT_S = 240


@pytest.mark.extended
@pytest.mark.alone
class ResumeTest(tf.test.TestCase):
    def test_a_killed_worker_costs_a_restart_and_nothing_else(self):
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        settings, whole = runs.undisturbed(2)
        killed = os.path.join(folder, "killed")
        launcher = start(settings, killed)
        try:
            wait_for_step(killed, 11, launcher)
            os.kill(workers.worker_of(launcher, index=1), signal.SIGKILL)
            out, log = launcher.communicate(timeout=LIMIT_S)
        finally:
            launcher.kill()
        self.assertEqual(launcher.returncode, 0, log)
        self.assertIn("w1 ended with exit code 137", log)
        self.assertIn("restart 1 of 1", log)
        self.assertEqual(json.loads(out.splitlines()[-1])["steps"], 20)
        self.assertNotRegex(log, r"\.(cc|h):\d+\]|TensorFlow binary|absl::")  # of C++ code
        for rank in range(2):
            with open(RunDir(killed).log(rank)) as file:
                logged = file.read()
            self.assertIn("Started server with target", logged)
            self.assertIn("This TensorFlow binary is optimized", logged)

        state, expected = runs.end_state(killed), runs.end_state(whole)
        self.assertEqual(state.keys(), expected.keys())
        for name, value in expected.items():
            self.assertAllEqual(state[name], value, name)


def start(settings, workdir):
    flags = ["train", f"--params_override={settings!r}", f"--workdir={workdir}"]
    command = [sys.executable, str(LAUNCHER), "--workers=2", "--threads=1", "--max_restarts=1"]
    return subprocess.Popen(
        [*command, "--", *flags],
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_step(workdir, step, launcher):
    until = time.monotonic() + LIMIT_S
    while time.monotonic() < until and launcher.poll() is None:
        path = RunDir(workdir).metrics
        if os.path.exists(path) and any(line["step"] >= step for line in read(path)):
            return
        time.sleep(0.05)
    launcher.kill()
    raise AssertionError(f"step {step} was not reached:\n{launcher.communicate()[1][-3000:]}")


if __name__ == "__main__":
    tf.test.main()
