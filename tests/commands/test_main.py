import contextlib
import io
import json
import os
import subprocess
import sys
import types
from unittest import mock

import numpy as np
import tensorflow as tf
from absl import flags, logging

import dc_tf
from dc_tf.commands import main as main_module
from dc_tf.commands.main import COMMANDS, main
from dc_tf.errors import ConfigError, DataError


def command(run):
    """A command module with one required and two other flags, as `dc_tf NAME` would import it."""
    module = types.ModuleType("dc_tf.commands.example", "Counts to a number.\n\nSlowly.")
    module.FLAGS = flags.FlagValues()
    module.TO = flags.DEFINE_integer("to", None, "Last.", flag_values=module.FLAGS, required=True)
    module.STEP = flags.DEFINE_integer("step", 1, "Stride.", flag_values=module.FLAGS)
    module.DOWN = flags.DEFINE_bool("down", False, "Backwards.", flag_values=module.FLAGS)
    module.run = lambda: run(module)
    return module


class MainTest(tf.test.TestCase):
    def call(self, run, *argv):
        """Runs `dc_tf example ARGV` with `run` as its body: (exit code, stdout, stderr)."""
        example = run if isinstance(run, types.ModuleType) else command(run)
        out, err = io.StringIO(), io.StringIO()
        with contextlib.ExitStack() as stack:
            stack.enter_context(mock.patch.dict(COMMANDS, example=example.__name__))
            stack.enter_context(mock.patch.dict(sys.modules, {example.__name__: example}))
            stack.enter_context(contextlib.redirect_stdout(out))
            stack.enter_context(contextlib.redirect_stderr(err))
            return main(["example", *argv]), out.getvalue(), err.getvalue()

    def raising(self, error):
        def run(module):
            raise error

        return self.call(run, "--to=1")

    def test_the_result_is_one_json_line_with_numpy_values_and_without_nan(self):
        result = {"a": np.float32(0.5), "b": np.arange(3), "c": float("nan"), "d": {"e": None}}
        code, out, _ = self.call(lambda module: result, "--to=1")
        self.assertEqual(code, 0)
        expected = {"a": 0.5, "b": [0, 1, 2], "c": None, "d": {"e": None}}
        self.assertEqual(json.loads(out.splitlines()[-1]), expected)

    def test_flags_reach_the_command_and_are_fresh_in_the_next_call(self):
        example = command(lambda m: {"to": m.TO.value, "step": m.STEP.value, "down": m.DOWN.value})
        _, out, _ = self.call(example, "--to=9", "--step", "2", "--down")
        self.assertEqual(json.loads(out), {"to": 9, "step": 2, "down": True})
        _, out, _ = self.call(example, "--to=8")
        self.assertEqual(json.loads(out), {"to": 8, "step": 1, "down": False})

    def test_wrong_flags_are_wrong_usage(self):
        for argv in [["--to=x"], ["--to=1", "--too=2"], [], ["stray", "--to=1"]]:
            code, out, err = self.call(lambda module: {}, *argv)
            self.assertEqual(code, 2, argv)
            self.assertEqual(out, "")
            self.assertNotIn("Traceback", err)
        self.assertIn("stray", err)

    def test_a_flag_that_is_missing_or_unknown_is_reported_with_what_to_do(self):
        _, _, err = self.call(lambda module: {})
        self.assertEqual(err, "dc_tf: dc_tf example needs --to: Last.\n")
        _, _, err = self.call(lambda module: {}, "--to=1", "--end=2")
        self.assertRegex(err, "flag 'end'; see dc_tf example --help")

    def test_errors_of_the_user_are_one_line_with_their_exit_code(self):
        errors = {2: ConfigError("use 4"), 1: DataError("run convert")}
        for expected, error in errors.items():
            code, out, err = self.raising(error)
            self.assertEqual((code, out, err), (expected, "", f"dc_tf: {error}\n"))

    def test_an_interrupt_says_what_is_kept_and_how_to_continue(self):
        code, out, err = self.raising(KeyboardInterrupt())
        self.assertEqual((code, out), (1, ""))
        self.assertRegex(err, r"^dc_tf: interrupted; what was saved is kept\..* to resume.*\.\n$")

    def test_errors_of_the_program_show_where_they_come_from(self):
        code, _, err = self.raising(KeyError("lost"))
        self.assertEqual(code, 1)
        self.assertIn("Traceback", err)
        self.assertIn("KeyError: 'lost'", err)

    def test_help_lists_the_flags_and_starts_nothing(self):
        for argv in [["--help"], ["--to=1", "-h"]]:
            code, out, _ = self.call(lambda module: self.fail("it ran"), *argv)
            self.assertEqual(code, 0)
            for text in ["Counts to a number.", "Slowly.", "--to", "--[no]down", "-v, --verbosity"]:
                self.assertIn(text, out)
            self.assertIn("Stride. (default: 1)", out)

    def test_verbosity_is_a_flag_of_every_command(self):
        self.addCleanup(logging.set_verbosity, logging.get_verbosity())
        for argv, expected in [(["-v=1"], 1), (["--verbosity=0"], 0), ([], -1)]:
            _, out, _ = self.call(lambda module: {"is": logging.get_verbosity()}, "--to=1", *argv)
            self.assertEqual(json.loads(out), {"is": expected})

    def test_a_warning_reads_as_a_message_and_what_else_is_logged_has_its_place(self):
        self.addCleanup(logging.set_verbosity, logging.get_verbosity())
        handler = logging.get_absl_handler()
        self.addCleanup(handler.setFormatter, handler.python_handler.formatter)

        def run(module):
            logging.warning("%d is much", 3)
            logging.info("begins")

        err = io.StringIO()
        with mock.patch.object(handler.python_handler, "stream", err):
            self.call(run, "--to=1", "-v=0")
        lines = err.getvalue().splitlines()
        self.assertEqual(lines[-2], "dc_tf: warning: 3 is much")
        self.assertRegex(lines[-1], r"^I\d{4} .* test_main.py:\d+\] begins$")

    def test_the_version_is_printed(self):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            self.assertEqual(main(["--version"]), 0)
        self.assertEqual(out.getvalue(), f"dc_tf {dc_tf.__version__}\n")

    def test_an_unknown_command_names_those_that_exist(self):
        err = io.StringIO()
        with contextlib.redirect_stderr(err):
            self.assertEqual(main(["trian"]), 2)
        self.assertIn("'trian'", err.getvalue())
        self.assertIn("train", err.getvalue())

    def test_every_command_is_listed_with_its_first_line(self):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            self.assertEqual(main(["--help"]), 0)
        for name, module in COMMANDS.items():
            self.assertRegex(out.getvalue(), rf"\n  {name} +\w")
            self.assertIn(main_module._first_line(module), out.getvalue())

    def test_listing_the_commands_does_not_wait_for_tensorflow(self):
        program = "import sys, dc_tf.commands.main as m; m.main(['--help']); "
        program += "sys.exit('tensorflow' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", program], env=_with_path(), timeout=60)
        self.assertEqual(done.returncode, 0)

    def test_python_dash_m_exits_with_the_commands_code(self):
        ask = [sys.executable, "-m", "dc_tf", "nothing"]
        done = subprocess.run(ask, env=_with_path(), capture_output=True, timeout=60)
        self.assertEqual(done.returncode, 2)


def _with_path():
    """The environment, with this copy of dc_tf where Python looks for packages."""
    root = os.path.dirname(os.path.dirname(os.path.dirname(main_module.__file__)))
    return {**os.environ, "PYTHONPATH": root}


if __name__ == "__main__":
    tf.test.main()
