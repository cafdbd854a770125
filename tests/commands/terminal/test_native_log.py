"""Lines that C++ code writes to descriptor 2: in a file, and on the screen only at a crash."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile

import numpy as np
import pytest
import runs
import tensorflow as tf
import terminals

from dc_tf.commands.terminal.native_log import Sorter
from dc_tf.experiment import load

ROOT = pathlib.Path(__file__).resolve().parents[3]
# As TensorFlow 2.20 writes them.
STARTED = b"I0000 00:00:1795906006.714353   20939 grpc_server_lib.cc:466] Started server\n"
STRAGGLERS = (
    b"2026-11-28 22:46:46.831117: I external/xla/service.cc:509] Stragglers:\n/job:worker\n"
)
CUINIT = b"2026-11-28 22:46:46.481758: E external/xla/cuda_platform.cc:51] failed call to cuInit\n"
BEFORE = b"WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\n"
FATAL = b"F0000 00:00:1795906006.714353   20939 tensor.cc:31] Check failed: a == b\n"
NATIVE = [BEFORE, STARTED, STRAGGLERS, CUINIT]
OTHERS = [
    b"libpng warning: iCCP: known incorrect sRGB profile\n",
    b"Traceback (most recent call last):\n",
    b"W1128 22:45:07.819200 140140526324608 cluster.py:8] a child's absl\n",
]

# A process that logs in all ways. What it is to do comes as code.
PROGRAM = """
import os, sys
from absl import logging
from dc_tf.commands.terminal import native_log
begun = native_log.begin()
logging.use_absl_handler()
{body}
native_log.end()
"""


class NativeLogTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(tempfile.mkdtemp(dir=self.get_temp_dir()))
        self.log = self.folder / "log"

    def program(self, body):
        body = body.replace("LOG", repr(str(self.log)))
        return [sys.executable, "-c", PROGRAM.format(body=body)]

    def run_piped(self, body, **variables):
        """(exit code, standard error as bytes)."""
        done = subprocess.run(
            self.program(body),
            env=self.environment(**variables),
            stderr=subprocess.PIPE,
            timeout=60,
        )
        return done.returncode, done.stderr

    def environment(self, **variables):
        return os.environ | {"PYTHONPATH": str(ROOT)} | variables

    def writes(self, lines):
        return "".join(f"os.write(2, {line!r})\n" for line in lines)

    def test_native_lines_go_to_the_file_in_order_and_all_others_to_the_screen(self):
        mixed = [line for pair in zip(NATIVE, [*OTHERS, OTHERS[0]], strict=True) for line in pair]
        early, late = mixed[:4], mixed[4:]
        code, err = self.run_piped(
            self.writes(early) + "native_log.send_to(LOG)\n" + self.writes(late)
        )
        self.assertEqual((code, err), (0, b"".join([*OTHERS, OTHERS[0]])))
        self.assertEqual(self.log.read_bytes(), b"".join(NATIVE))

    def test_what_python_prints_logs_and_raises_stays_on_the_screen(self):
        body = "print('own', file=sys.stderr)\nlogging.warning('of absl')\n1 / 0"
        code, err = self.run_piped(body)
        self.assertEqual(code, 1)
        self.assertStartsWith(err, b"own\n")
        self.assertIn(b"of absl\n", err)
        self.assertEndsWith(err, b"ZeroDivisionError: division by zero\n")

    def test_standard_error_is_still_a_terminal_and_descriptor_2_is_not(self):
        body = "print(sys.stderr.isatty(), os.isatty(2), begun, file=sys.stderr)\n"
        body += self.writes([CUINIT, b"other\n"])
        code, shown = terminals.run(self.program(body), self.environment())
        self.assertEqual((code, shown), (0, "True False True\r\nother\r\n"))

    def test_without_a_file_native_lines_are_dropped(self):
        self.assertEqual(self.run_piped(self.writes([*NATIVE, OTHERS[0]])), (0, OTHERS[0]))

    def test_an_unexpected_error_shows_the_last_lines_before_its_traceback(self):
        body = """
from dc_tf.commands import main
def fail(name, arguments):
    for number in range(30): os.write(2, b"%s" % number)
    1 / 0
main._dispatch = fail
code = main.main(["kmeans"])
""".replace('b"%s" % number', f"{STRAGGLERS!r}.replace(b'509', b'%d' % (100 + number))")
        for send in ("", "native_log.send_to(LOG)\n"):
            code, err = self.run_piped(send + body)
            self.assertEqual(code, 0)
            first, *last = err[: err.index(b"Traceback")].decode().splitlines()
            self.assertEqual(first, "dc_tf: the last lines of TensorFlow itself:")
            if send:
                self.assertEqual(last.pop(), f"dc_tf: TensorFlow's log is in {self.log}.")
            self.assertLen(last, 10)
            self.assertIn("service.cc:129]", last[-2])
            self.assertEndsWith(err, b"ZeroDivisionError: division by zero\n")

    def test_an_expected_error_shows_none_of_them(self):
        body = self.writes(NATIVE) + "from dc_tf.commands.main import main\nmain(['nothing'])"
        _, err = self.run_piped(body)
        self.assertRegex(err, rb"^dc_tf: there is no command 'nothing'; .*\n$")

    def test_the_variable_names_a_file_or_leaves_all_on_the_screen(self):
        body = "native_log.send_to(LOG)\n" + self.writes([CUINIT])
        other = self.folder / "other"
        self.assertEqual(self.run_piped(body, DC_TF_TENSORFLOW_LOG=str(other)), (0, b""))
        self.assertEqual(other.read_bytes(), CUINIT)
        self.assertEqual(self.run_piped(body, DC_TF_TENSORFLOW_LOG="-"), (0, CUINIT))
        self.assertFalse(self.log.exists())

    def test_an_abort_shows_the_fatal_line_those_before_it_and_the_stack(self):
        many = [re.sub(b"509", b"%d" % (100 + number), STRAGGLERS) for number in range(30)]
        body = "import faulthandler\nfaulthandler.enable(2)\nnative_log.send_to(LOG)\n"
        body += self.writes([*many, CUINIT, FATAL, b"*** Check failure stack trace: ***\n"])
        code, err = self.run_piped(body + "os.abort()")
        self.assertEqual(code, -6)
        for expected in (CUINIT, FATAL, b"*** Check failure stack", b"Fatal Python error: Aborted"):
            self.assertEqual(err.count(expected), 1, expected)
        self.assertIn(f"TensorFlow's log is in {self.log}.\n".encode(), err)
        self.assertIn(b"service.cc:129]", err)
        self.assertNotIn(b"service.cc:110]", err)
        self.assertIn(b"service.cc:110]", self.log.read_bytes())

    def test_a_segmentation_fault_shows_the_last_native_lines_too(self):
        body = "import ctypes, faulthandler\nfaulthandler.enable(2)\n" + self.writes([CUINIT])
        code, err = self.run_piped(body + "ctypes.string_at(0)")
        self.assertEqual(code, -11)
        self.assertStartsWith(err, CUINIT + b"Fatal Python error: Segmentation fault")

    def test_a_file_that_cannot_be_written_does_not_stop_the_process(self):
        body = "native_log.send_to('/nowhere/log')\n"
        body += f"for _ in range(9000): os.write(2, {CUINIT!r})\n"
        code, err = self.run_piped(body + "print('end', file=sys.stderr)")
        self.assertEqual(code, 0)
        self.assertIn(b"dc_tf: the log of TensorFlow cannot be written: ", err)
        self.assertIn(b"end\n", err)

    def test_a_line_that_comes_in_pieces_and_messages_larger_than_a_pipe_stay_whole(self):
        reads, writes = os.pipe()
        sorter = Sorter(writes)
        sorter.log_to(str(self.log))
        long = CUINIT[:-1] + b"x" * 5000 + b"\n"
        for piece in (b"lib", b"png\n", long[:4096], long[4096:], b"after\n", b"end"):
            sorter.add(piece)
        sorter.finish()
        os.close(writes)
        with os.fdopen(reads, "rb") as screen:
            self.assertEqual(screen.read(), b"libpng\nafter\nend\n")
        self.assertEqual(self.log.read_bytes(), long)

    def test_nobody_waits_for_the_reader_after_the_end(self):
        body = "import subprocess\nsleeps = subprocess.Popen(['sleep', '60'])\n"
        process = subprocess.Popen(
            self.program(body + "print(sleeps.pid, file=sys.stderr)"),
            env=self.environment(),
            stderr=subprocess.PIPE,
        )
        self.addCleanup(process.stderr.close)
        self.addCleanup(os.kill, int(process.stderr.readline()), signal.SIGKILL)
        self.assertEqual(process.wait(timeout=20), 0)

    def test_a_command_shows_none_of_tensorflows_lines_and_keeps_them_all(self):
        np.save(self.folder / "x.npy", np.random.default_rng(0).random((99, 4), np.float32))
        done = subprocess.run(
            [
                *(sys.executable, "-m", "dc_tf", "kmeans", "--k=3"),
                *(f"--input={self.folder}/x.npy", f"--output={self.folder}/clusters"),
            ],
            env=self.environment(
                DC_TF_TENSORFLOW_LOG=str(self.log), TF_CPP_MIN_LOG_LEVEL="0", TF_CONFIG=""
            ),
            capture_output=True,
            text=True,
            timeout=120,
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        for line in done.stderr.splitlines():
            self.assertRegex(line, "^(check|kmeans): ")
        self.assertIn("cpu_feature_guard.cc", self.log.read_text())

    @pytest.mark.slow
    def test_train_shows_none_of_tensorflows_lines_and_keeps_them_in_the_run(self):
        data = runs.make_data(self.folder, images=40)
        model = {**runs.SETTINGS["model"], "compute_dtype": "auto"}
        settings = runs.settings(data, model=model, stages=runs.SETTINGS["stages"][:1])
        run = self.folder / "run"
        done = subprocess.run(
            [
                *(sys.executable, "-m", "dc_tf", "train", f"--workdir={run}"),
                f"--params_override={settings!r}",
            ],
            env=self.environment(TF_CPP_MIN_LOG_LEVEL="0", TF_CONFIG=""),
            capture_output=True,
            text=True,
            timeout=300,
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        native = r"\.cc:\d+\] "
        self.assertNotRegex(done.stdout + done.stderr, native)
        # The first line says what `auto` has become, and the run keeps it.
        chosen = re.match(r"train: compute_dtype: (\w+) \(auto: ", done.stderr)
        self.assertIsNotNone(chosen, done.stderr)
        kept = load([str(run / "experiment.yaml")])
        self.assertEqual(kept.model.compute_dtype, chosen.group(1))
        log = (run / "logs" / "worker-00000.log").read_text()
        self.assertRegex(log, r"cpu_feature_guard" + native)


if __name__ == "__main__":
    tf.test.main()
