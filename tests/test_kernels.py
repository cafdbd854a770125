"""oneDNN is decided before TensorFlow is imported, by whatever way of dc_tf that happens."""

import os
import pathlib
import subprocess
import sys
import tempfile
import warnings
from unittest import mock

import pytest
import tensorflow as tf
import workers
from absl.testing import parameterized

from dc_tf import kernels

# It would look for TensorFlow itself to find an interpreter.
PROGRAM = f"--program={sys.executable} -m dc_tf"
LOCAL = [os.path.join(workers.REPOSITORY, "launch", "local.py"), PROGRAM]

# As sitecustomize: a process ends where it would import TensorFlow, and says what is set by then.
ENDS_AT_TENSORFLOW = """
import os, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "tensorflow":
            print("decided:", os.environ.get("TF_ENABLE_ONEDNN_OPTS"), flush=True)
            os._exit(0)
sys.meta_path.insert(0, Finder())
"""


class ChoiceTest(tf.test.TestCase, parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.enterContext(mock.patch.dict(os.environ))
        os.environ.pop(kernels.VARIABLE, None)
        self.on = self.enterContext(mock.patch.object(kernels, "enabled", lambda: True))

    def choose(self, flags, machine="x86_64"):
        """What is chosen on a processor with these flags; a warning is an error."""
        cpuinfo = pathlib.Path(tempfile.mkdtemp(dir=self.get_temp_dir())) / "cpuinfo"
        cpuinfo.write_text(f"processor\t: 0\nflags\t\t: {flags}\n\nprocessor\t: 1\n")
        with warnings.catch_warnings(), mock.patch.object(os, "uname") as uname:
            warnings.simplefilter("error")
            uname.return_value.machine = machine
            return kernels.choose(cpuinfo)

    def test_it_is_on_with_avx2_and_fma(self):
        choice = self.choose("fpu sse2 fma avx avx2")
        self.assertEqual((choice.value, os.environ[kernels.VARIABLE]), ("1", "1"))
        self.assertIn("has AVX2 and FMA", choice.why)

    @parameterized.parameters(
        ("fpu sse2 avx fma4", "x86_64", "no AVX2 and no FMA"),
        ("fpu sse2 avx avx2 avx2_vnni", "x86_64", "no FMA"),
        ("fpu fma avx avx512f", "x86_64", "no AVX2"),
        ("fp asimd", "aarch64", "aarch64"),
        ("avx2 fma", "ppc64le", "ppc64le"),
    )
    def test_elsewhere_tensorflow_decides(self, flags, machine, why):
        choice = self.choose(flags, machine)
        self.assertIsNone(choice.value)
        self.assertIn(why, choice.why)
        self.assertNotIn(kernels.VARIABLE, os.environ)

    def test_a_processor_that_cannot_be_looked_at_is_left_to_tensorflow(self):
        with mock.patch.object(os, "uname") as uname:
            uname.return_value.machine = "x86_64"
            choice = kernels.choose("/nowhere/cpuinfo")
        self.assertIn("cannot be read", choice.why)
        self.assertNotIn(kernels.VARIABLE, os.environ)

    @parameterized.parameters("0", "1")
    def test_the_users_own_setting_stays(self, value):
        os.environ[kernels.VARIABLE] = value
        for flags in ("avx2 fma", "sse2"):
            choice = self.choose(flags)
            self.assertEqual((choice.value, os.environ[kernels.VARIABLE]), (value, value))
            self.assertIn(f"{kernels.VARIABLE}={value}", choice.why)

    def test_too_late_is_a_warning_only_where_tensorflow_computes_without_it(self):
        self.assertEqual(self.choose("avx2 fma").value, "1")  # TensorFlow is imported, with it
        del os.environ[kernels.VARIABLE]
        with mock.patch.object(kernels, "enabled", lambda: False):
            self.assertIsNone(self.choose("sse2").value)
            with self.assertRaisesRegex(RuntimeWarning, "before dc_tf.*Import dc_tf first"):
                self.choose("avx2 fma")
        self.assertNotIn(kernels.VARIABLE, os.environ)


class Bfloat16FaultTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.parameters(
        ("AVX2", True, "ONEDNN_MAX_CPU_ISA=AVX2 leaves oneDNN no bfloat16"),
        ("avx", True, "ONEDNN_MAX_CPU_ISA=AVX leaves oneDNN no bfloat16"),
        ("AVX2", False, ""),
        ("AVX512_CORE", True, ""),
        ("ALL", True, ""),
        (None, True, ""),
    )
    def test_it_is_the_limit_of_onednn_that_tensorflow_does_not_know(self, limit, on, fault):
        variables = {} if limit is None else {kernels.LIMIT: limit}
        self.enterContext(mock.patch.dict(os.environ, variables))
        if limit is None:
            os.environ.pop(kernels.LIMIT, None)
        self.enterContext(mock.patch.object(kernels, "enabled", lambda: on))
        self.assertEqual(kernels.bfloat16_fault(), fault)

    @pytest.mark.slow
    def test_auto_is_float32_in_a_process_that_bfloat16_would_end(self):
        limited = os.environ | {kernels.LIMIT: "AVX2", kernels.VARIABLE: "1"}
        lines = "from dc_tf.precision import choose; print(choose('auto', 'product'))"
        ended = subprocess.run(
            [sys.executable, "-c", lines], env=limited, capture_output=True, text=True, timeout=120
        )
        self.assertEqual(ended.returncode, 0, ended.stderr)
        self.assertIn("float32 (auto: ONEDNN_MAX_CPU_ISA=AVX2", ended.stdout)


class ProcessTest(tf.test.TestCase):
    """Real processes, without TF_ENABLE_ONEDNN_OPTS of their own."""

    def environment(self, **settings):
        folder = tempfile.mkdtemp(dir=self.get_temp_dir())
        pathlib.Path(folder, "sitecustomize.py").write_text(ENDS_AT_TENSORFLOW)
        environment = {k: v for k, v in os.environ.items() if k != kernels.VARIABLE}
        environment["PYTHONPATH"] = os.pathsep.join([folder, workers.REPOSITORY])
        return environment | {"CUDA_VISIBLE_DEVICES": "-1"} | settings

    def run_python(self, *arguments, environment=None):
        done = subprocess.run(
            [sys.executable, *arguments],
            env=environment or self.environment(),
            capture_output=True,
            text=True,
            timeout=120,
        )
        return done.stdout + done.stderr

    def expected(self):
        """What is right on this processor."""
        with mock.patch.dict(os.environ), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            os.environ.pop(kernels.VARIABLE, None)
            with mock.patch.object(kernels, "enabled", lambda: True):
                return kernels.choose().value

    def test_every_way_into_the_package_decides_before_tensorflow(self):
        decided = f"decided: {self.expected()}\n"
        ways = {
            "python": ["-c", "from dc_tf.clustering.kmeans import kmeans"],
            "module": ["-m", "dc_tf", "doctor"],
            "console": ["-c", "from dc_tf.commands.main import main; main(['doctor'])"],
            "worker": [*LOCAL, "--workers=1", "--", "doctor"],
        }
        for way, arguments in ways.items():
            with self.subTest(way):
                self.assertIn(decided, self.run_python(*arguments))

    def test_workers_of_the_launcher_get_the_users_own_setting(self):
        arguments = [*LOCAL, "--workers=2", "--", "doctor"]
        environment = self.environment(**{kernels.VARIABLE: "0"})
        out = self.run_python(*arguments, environment=environment)
        self.assertIn("[w0] decided: 0\n", out)
        self.assertIn("[w1] decided: 0\n", out)

    @pytest.mark.slow
    def test_tensorflow_follows_the_setting_and_a_late_import_of_dc_tf_warns(self):
        code = (
            "import os, tensorflow, warnings\n"
            "del os.environ['TF_ENABLE_ONEDNN_OPTS']\n"
            "warnings.simplefilter('always')\n"
            "import dc_tf\n"
            "print('enabled:', dc_tf.kernels.enabled(), dc_tf.KERNELS)\n"
        )
        environment = os.environ | {"PYTHONPATH": workers.REPOSITORY}
        off, on = (
            self.run_python("-c", code, environment=environment | {kernels.VARIABLE: value})
            for value in "01"
        )
        self.assertIn("enabled: False", off)
        self.assertIn("enabled: True", on)
        self.assertNotIn("imported before dc_tf", on)
        if self.expected() == "1":
            self.assertIn("RuntimeWarning: TensorFlow was imported before dc_tf", off)
            self.assertIn("too late", off)


def share_of_mixed(cluster):
    """The warnings of workers of which only the first has oneDNN."""
    from dc_tf.distributed import cluster as module

    said = []
    log = mock.patch.object(module.logging, "warning", lambda text, *a: said.append(text % a))
    with mock.patch.object(kernels, "enabled", lambda: cluster.rank == 0), log:
        module._compare_kernels(cluster)
    with mock.patch.object(kernels, "enabled", lambda: True), log:
        module._compare_kernels(cluster)
    return said


class AlikeTest(tf.test.TestCase):
    def test_workers_with_different_kernels_are_named_once(self):
        chief, other = workers.on_cluster(2, share_of_mixed)
        self.assertLen(chief, 1)
        self.assertIn(
            "worker 1 computes with TensorFlow's own kernels, worker 0 with oneDNN", *chief
        )
        self.assertIn("set TF_ENABLE_ONEDNN_OPTS=0, or 1, on all workers", *chief)
        self.assertEmpty(other)


if __name__ == "__main__":
    tf.test.main()
