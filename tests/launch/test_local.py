import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
from unittest import mock

import tensorflow as tf
import workers
from terminals import Terminal

LOCAL = pathlib.Path(__file__).parents[2] / "launch" / "local.py"
sys.path.insert(0, str(LOCAL.parent))

import local  # noqa: E402

# A worker without TensorFlow: says who it is, then does what its arguments say.
WORKER = """
import json, os, pathlib, signal, subprocess, sys, time
task = json.loads(os.environ["TF_CONFIG"])
index, folder = task["task"]["index"], pathlib.Path(sys.argv[1])
starts = len(list(folder.glob(f"start-{index}-*")))
(folder / f"start-{index}-{starts}").write_text(json.dumps(dict(os.environ, pid=os.getpid())))
print(f"worker {index} here", flush=True)
print(f"worker {index} warns", file=sys.stderr, flush=True)
def wait_for(count):
    while len(list(folder.glob("start-*"))) < count:
        time.sleep(0.01)
"""


class LocalTest(tf.test.TestCase):
    """Each test's workers are Python of a few lines in place of a training run."""

    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(tempfile.mkdtemp(dir=self.get_temp_dir()))

    def launch(self, body, *flags, workers=2, **settings):
        """Starts the launcher on workers that run WORKER + body; returns its process."""
        script = self.folder / "worker.py"
        script.write_text(WORKER + body)
        program = f"--program={sys.executable} {script}"
        command = [sys.executable, str(LOCAL), f"--workers={workers}", program, *flags]
        return subprocess.Popen(
            [*command, "--", str(self.folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1", **settings},
        )

    def finish(self, launcher, timeout=30):
        """Returns (exit code, stdout, stderr)."""
        out, err = launcher.communicate(timeout=timeout)
        return launcher.returncode, out, err

    def environments(self, start=0):
        """What each worker of the given start found in its environment."""
        files = sorted(self.folder.glob(f"start-*-{start}"))
        return [json.loads(file.read_text()) for file in files]

    def wait_until_started(self, workers):
        until = time.monotonic() + 20
        while len(list(self.folder.glob("start-*"))) < workers:
            self.assertLess(time.monotonic(), until, "the workers did not start")
            time.sleep(0.01)
        time.sleep(0.1)  # Written, not only created.

    def assert_all_gone(self):
        """No process of any start is left, nor a child whose pid it wrote to `grandchild-*`."""
        pids = [json.loads(file.read_text())["pid"] for file in self.folder.glob("start-*")]
        pids += [int(file.read_text()) for file in self.folder.glob("grandchild-*")]
        until = time.monotonic() + 5
        while any(map(_alive, pids)) and time.monotonic() < until:
            time.sleep(0.05)
        self.assertEqual([pid for pid in pids if _alive(pid)], [])

    def test_lines_carry_the_name_of_their_worker(self):
        code, out, err = self.finish(self.launch("", workers=3))
        self.assertEqual(code, 0)
        expected = [f"[w{i}] worker {i} here" for i in range(3)]
        self.assertCountEqual(out.splitlines(), expected)
        self.assertCountEqual(err.splitlines(), [f"[w{i}] worker {i} warns" for i in range(3)])

    def test_the_last_line_is_the_chiefs_result_also_when_the_chief_ends_first(self):
        body = "time.sleep(0.5 * index); print(json.dumps({'rank': index}))"
        code, out, _ = self.finish(self.launch(body))
        self.assertEqual(code, 0)
        self.assertEqual(out.splitlines()[-1], '{"rank": 0}')
        self.assertIn('[w1] {"rank": 1}', out)

    def test_a_json_line_in_the_middle_keeps_its_place_and_name(self):
        body = "print('{\"step\": 1}'); print('after'); print('{\"done\": 1}')"
        _, out, _ = self.finish(self.launch(body, workers=1))
        lines = ["[w0] worker 0 here", '[w0] {"step": 1}', "[w0] after", '{"done": 1}']
        self.assertEqual(out.splitlines(), lines)

    def test_workers_form_one_cluster_and_share_the_cores(self):
        code, _, _ = self.finish(self.launch("", "--threads=3", workers=3))
        self.assertEqual(code, 0)
        configs = [json.loads(found["TF_CONFIG"]) for found in self.environments()]
        tasks = [config["task"] for config in configs]
        self.assertEqual(tasks, [{"type": "worker", "index": i} for i in range(3)])
        self.assertLen(set(configs[0]["cluster"]["worker"]), 3)
        for config, found in zip(configs, self.environments(), strict=True):
            self.assertEqual(config["cluster"], configs[0]["cluster"])
            self.assertEqual(found["TF_NUM_INTRAOP_THREADS"], "3")

    def test_each_worker_gets_one_gpu(self):
        launcher = self.launch("", CUDA_VISIBLE_DEVICES="3,5")
        self.assertEqual(self.finish(launcher)[0], 0)
        devices = [found["CUDA_VISIBLE_DEVICES"] for found in self.environments()]
        self.assertEqual(devices, ["3", "5"])

    def test_more_workers_than_gpus_are_refused_before_anything_starts(self):
        code, _, err = self.finish(self.launch("", workers=3, CUDA_VISIBLE_DEVICES="0,1"))
        self.assertEqual(code, 2)
        self.assertIn("at most 2 workers", err)
        self.assertEmpty(self.environments())

    def test_a_failure_ends_the_others_within_seconds(self):
        body = "wait_for(3)\nif index == 1: sys.exit(7)\ntime.sleep(600)"
        start = time.monotonic()
        code, _, err = self.finish(self.launch(body, workers=3))
        self.assertEqual(code, 7)
        self.assertLess(time.monotonic() - start, 10)
        self.assertIn("w1 ended with exit code 7", err)
        self.assert_all_gone()

    def test_a_worker_that_ignores_sigterm_is_killed(self):
        body = (
            "signal.signal(signal.SIGTERM, signal.SIG_IGN); (folder / f'ready-{index}').touch()\n"
        )
        body += "while not (folder / 'ready-0').exists(): time.sleep(0.01)\n"
        body += "if index == 1: sys.exit(1)\ntime.sleep(600)"
        code, _, _ = self.finish(self.launch(body, "--grace_s=0.5"))
        self.assertEqual(code, 1)
        self.assert_all_gone()

    def test_a_failed_set_is_started_again_on_new_ports(self):
        body = "wait_for(2)\nif index == 0 and starts == 0: os.kill(os.getpid(), signal.SIGKILL)\n"
        body += "if starts == 0: time.sleep(600)\nprint('{\"starts\": %d}' % (starts + 1))"
        code, out, err = self.finish(self.launch(body, "--max_restarts=2"))
        self.assertEqual(code, 0, err)
        self.assertEqual(out.splitlines()[-1], '{"starts": 2}')
        self.assertIn("w0 ended with exit code 137", err)
        first, second = (
            json.loads(self.environments(start)[0]["TF_CONFIG"])["cluster"] for start in (0, 1)
        )
        self.assertNotEqual(first, second)

    def test_restarts_end_at_the_given_number(self):
        code, _, _ = self.finish(self.launch("sys.exit(9)", "--max_restarts=2", workers=1))
        self.assertEqual(code, 9)
        self.assertLen(list(self.folder.glob("start-0-*")), 3)

    def test_a_wrong_configuration_is_not_restarted(self):
        code, _, _ = self.finish(self.launch("sys.exit(2)", "--max_restarts=3"))
        self.assertEqual(code, 2)
        self.assertEmpty(self.environments(start=1))

    def test_the_chief_has_time_to_say_what_is_wrong_after_another_worker_has_ended(self):
        body = "wait_for(2)\nindex or (time.sleep(1), print('why', file=sys.stderr))\nsys.exit(2)"
        code, _, err = self.finish(self.launch(body))
        self.assertEqual(code, 2)
        self.assertIn("[w0] why\n", err)

    def test_a_preempted_set_is_restarted(self):
        body = "sys.exit(42 if starts == 0 else 0)"
        code, _, _ = self.finish(self.launch(body, "--max_restarts=1"))
        self.assertEqual(code, 0)
        self.assertLen(self.environments(start=1), 2)

    def test_sigterm_leaves_no_process_behind_and_starts_none_again(self):
        body = "child = subprocess.Popen(['sleep', '600'])\n"
        body += "(folder / f'grandchild-{index}').write_text(str(child.pid))\ntime.sleep(600)"
        launcher = self.launch(body, "--max_restarts=3")
        self.wait_until_started(2)
        launcher.send_signal(signal.SIGTERM)
        code, _, _ = self.finish(launcher)
        self.assertEqual(code, 128 + signal.SIGTERM)
        self.assertEmpty(self.environments(start=1))
        self.assert_all_gone()

    def test_workers_that_save_on_sigterm_make_the_launcher_say_preempted(self):
        body = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(42))\n"
        body += "(folder / f'ready-{index}').touch()\ntime.sleep(600)"
        launcher = self.launch(body)
        self.wait_for("ready-*", 2)
        launcher.send_signal(signal.SIGTERM)
        self.assertEqual(self.finish(launcher)[0], 42)

    def ready_to_save(self):
        """Workers that take a second to save when they are asked to stop; the launcher."""
        body = "def save(*_):\n    print('saves', flush=True); time.sleep(1); sys.exit(42)\n"
        body += "signal.signal(signal.SIGTERM, save)\n"
        body += "(folder / f'ready-{index}').touch()\ntime.sleep(600)"
        launcher = self.launch(body)
        self.wait_for("ready-*", 2)
        return launcher

    def test_a_terminal_and_a_parent_that_pass_on_one_interrupt_count_once(self):
        workers.hear_interrupts(self)
        launcher = self.ready_to_save()
        launcher.send_signal(signal.SIGINT)
        launcher.send_signal(signal.SIGTERM)
        self.assertEqual(self.finish(launcher)[0], 42)

    def test_a_second_request_ends_the_workers_at_once_and_they_say_no_more(self):
        body = "def stay(*_):\n    (folder / f'asked-{index}').touch()\n"
        body += "signal.signal(signal.SIGTERM, stay)\n"
        body += "(folder / f'ready-{index}').touch()\nwhile True: time.sleep(0.05)"
        launcher = self.launch(body)
        self.wait_for("ready-*", 2)
        launcher.send_signal(signal.SIGTERM)
        self.wait_for("asked-*", 2)
        time.sleep(0.4)
        launcher.send_signal(signal.SIGTERM)
        asked = time.monotonic()
        self.assertEqual(self.finish(launcher)[0], 128 + signal.SIGTERM)
        self.assertLess(time.monotonic() - asked, 5)
        self.assert_all_gone()

    def test_a_worker_that_missed_the_request_is_asked_again(self):
        body = (
            "signal.signal(signal.SIGTERM, signal.SIG_IGN); (folder / f'ready-{index}').touch()\n"
        )
        body += "time.sleep(2); signal.signal(signal.SIGTERM, lambda *_: sys.exit(42))\n"
        body += "time.sleep(600)"
        launcher = self.launch(body)
        self.wait_for("ready-*", 2)
        launcher.send_signal(signal.SIGTERM)
        self.assertEqual(self.finish(launcher)[0], 42)

    def test_under_nohup_the_end_of_the_terminal_is_not_heard(self):
        before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup leaves it
        self.addCleanup(signal.signal, signal.SIGHUP, before)
        body = "(folder / f'ready-{index}').touch()\n"
        body += "while not (folder / 'go').exists(): time.sleep(0.01)"
        launcher = self.launch(body)
        self.wait_for("ready-*", 2)
        launcher.send_signal(signal.SIGHUP)
        (self.folder / "go").touch()
        self.assertEqual(self.finish(launcher)[0], 0)

    def test_when_the_window_is_closed_all_workers_save(self):
        script = self.folder / "worker.py"
        body = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(42))\n"
        body += "(folder / f'ready-{index}').touch(); time.sleep(600)"
        script.write_text(WORKER + body)
        program = f"--program={sys.executable} {script}"
        command = [sys.executable, str(LOCAL), "--workers=2", program, "--", str(self.folder)]
        with Terminal(command, limit_s=40) as terminal:
            self.wait_for("ready-*", 2)
            terminal.hang_up()
            self.assertEqual(terminal.wait(), 42)
            self.assertEqual(terminal.left_over(), [])

    def wait_for(self, pattern, count):
        until = time.monotonic() + 20
        while len(list(self.folder.glob(pattern))) < count:
            self.assertLess(time.monotonic(), until, f"{pattern} is missing")
            time.sleep(0.01)

    def test_a_killed_launcher_takes_its_workers_with_it(self):
        launcher = self.launch("time.sleep(600)")
        self.wait_until_started(2)
        launcher.kill()
        self.finish(launcher)
        self.assert_all_gone()

    def test_a_missing_command_is_wrong_usage(self):
        done = subprocess.run(
            [sys.executable, LOCAL, "--workers=2"], capture_output=True, text=True
        )
        self.assertEqual(done.returncode, 2)
        self.assertIn("--workers=2 -- train", done.stderr)

    def test_the_usage_line_names_every_option(self):
        for launcher in (LOCAL, LOCAL.parent / "ray_job.py"):
            command = [sys.executable, launcher, "--help"]
            text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            usage, options = text.partition("\n\n")[0], re.findall(r"(?m)^  (--\w+)", text)
            self.assertIn("--program", options)
            self.assertEmpty([option for option in options if option not in usage], usage)

    def test_numbers_that_cannot_work_are_wrong_usage(self):
        for flag, message in [
            ("--workers=0", "--workers=0; use 1 to 1024"),
            ("--workers=99999999999", "--workers=99999999999; use 1 to 1024"),
            ("--grace_s=nan", "--grace_s=nan; use 0 to"),
            ("--grace_s=inf", "--grace_s=inf; use 0 to"),
            ("--threads=0", "--threads=0; use 1 to"),
            ("--max_restarts=-1", "--max_restarts=-1; use 0 to"),
        ]:
            command = [sys.executable, LOCAL, "--workers=1", flag, "--", "train"]
            done = subprocess.run(command, capture_output=True, text=True)
            self.assertEqual(done.returncode, 2)
            self.assertIn(message, done.stderr)


class GpusTest(tf.test.TestCase):
    def why(self, **environment):
        with mock.patch.dict(os.environ):
            os.environ.pop("CUDA_VISIBLE_DEVICES", None)
            os.environ.update(environment)
            self.assertEqual(local.visible_gpus(), [])
            return local.why_no_gpu()

    def test_it_is_said_why_no_gpu_was_found(self):
        folder = pathlib.Path(tempfile.mkdtemp(dir=self.get_temp_dir()))
        self.assertIn("CUDA_VISIBLE_DEVICES is '-1'", self.why(CUDA_VISIBLE_DEVICES="-1"))
        self.assertIn("is not on PATH", self.why(PATH=str(folder)))
        (folder / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
        (folder / "nvidia-smi").chmod(0o755)
        self.assertEqual(self.why(PATH=str(folder)), "nvidia-smi -L lists none")

    def test_workers_on_the_cpu_of_a_machine_with_gpus_are_noticed(self):
        folder = pathlib.Path(tempfile.mkdtemp(dir=self.get_temp_dir()))
        (folder / "nvidia0").touch()
        options, command = local.parse(["--workers=1", "--program=true", "--", "x"])
        seen = {name: value for name, value in os.environ.items() if name[:4] != "CUDA"}
        for environment, expected in ((seen, 1), (seen | {"CUDA_VISIBLE_DEVICES": "-1"}, 0)):
            with (
                mock.patch.dict(os.environ, environment, clear=True),
                mock.patch.object(local, "GPU_DEVICES", str(folder / "nvidia[0-9]*")),
                mock.patch.object(local, "note") as note,
            ):
                self.assertEqual(local.supervise(options, command, None), 0)
            self.assertLen(note.mock_calls, expected)


class CoresTest(tf.test.TestCase):
    def test_a_container_with_a_quota_has_no_more_cores_than_that(self):
        quota = pathlib.Path(tempfile.mkdtemp(dir=self.get_temp_dir())) / "cpu.max"
        every = len(os.sched_getaffinity(0))
        for text, count in (("150000 100000", 1), ("max 100000", every), ("9000000 100000", every)):
            quota.write_text(text)
            with mock.patch.object(local, "CPU_QUOTA", quota):
                self.assertEqual(local.cores(), min(count, every))


def _alive(pid):
    """Whether a process runs; one that has ended and was not yet collected does not."""
    try:
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


if __name__ == "__main__":
    tf.test.main()
