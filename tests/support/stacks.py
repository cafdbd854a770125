"""The two stacks: TensorFlow 2.20, and 2.15 with tensorflow-addons.

@stacks.needs_addons
class LambTest(tf.test.TestCase): ...

stacks.run_on_the_other("import sys; ...", arguments)
"""

import importlib.util
import os
import subprocess
import unittest

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
OTHER_PYTHON = os.environ.get("DC_TF_OTHER_PYTHON", "")

HAS_ADDONS = importlib.util.find_spec("tensorflow_addons") is not None
needs_no_addons = unittest.skipIf(HAS_ADDONS, "tensorflow-addons is installed")


def needs_addons(test):
    """A test, or a class of them, that .ci/run runs on the second stack."""
    why = "tensorflow-addons is of the other stack: DC_TF_STACK=tf215 launch/test.sh"
    return pytest.mark.tf215(unittest.skipUnless(HAS_ADDONS, why)(test))


def needs_other(test):
    """A test, or a class of them, that calls the other stack's interpreter."""
    why = "DC_TF_OTHER_PYTHON is not set: the interpreter of the other stack"
    return pytest.mark.tf215(unittest.skipUnless(OTHER_PYTHON, why)(test))


def run_on_the_other(program, *arguments, timeout_s=300) -> str:
    """Standard output of a program of tests/support, run by the other stack's interpreter."""
    support = os.path.join(ROOT, "tests", "support")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((ROOT, support))}
    command = [OTHER_PYTHON, os.path.join(support, program), *map(str, arguments)]
    done = subprocess.run(command, env=environment, timeout=timeout_s, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    return done.stdout.decode()
