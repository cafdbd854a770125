"""The package without its repository: a wheel in an environment of its own."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv

import numpy as np
import pytest
import tensorflow as tf

from dc_tf import shipped

ROOT = pathlib.Path(__file__).resolve().parents[1]
LIMIT_S = 240


@pytest.mark.slow
class WheelTest(tf.test.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.folder = pathlib.Path(tempfile.mkdtemp())
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        source, own = cls.folder / "source", cls.folder / "venv"
        for name in ("dc_tf", "configs", "launch"):  # a copy, since building writes beside setup.py
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, source / name, ignore=ignored)
        for name in ("setup.py", "pyproject.toml"):
            shutil.copy(ROOT / name, source)
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
        build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", cls.folder]
        subprocess.run([*build, source], check=True, timeout=LIMIT_S)
        shutil.rmtree(source)
        venv.create(own, with_pip=False, symlinks=True)
        (wheel,) = cls.folder.glob("*.whl")
        cls.python = own / "bin" / "python"
        install = [*pip, "--python", cls.python, "install", "--no-deps", "--no-index", wheel]
        subprocess.run(install, check=True, timeout=LIMIT_S)
        # The packages of this environment come after the wheel's. Its own .pth files, one of which
        # may lead to the repository, are not read.
        dependencies = {sysconfig.get_path(kind) for kind in ("purelib", "platlib")}
        (site,) = own.glob("lib/python*/site-packages")
        (site / "dependencies.pth").write_text("\n".join(sorted(dependencies)) + "\n")
        cls.work = cls.folder / "work"
        cls.work.mkdir()

    def run_in(self, *command):
        """stdout of a command of the environment, far from the repository."""
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "TF_CONFIG")}
        done = subprocess.run(
            [str(self.python.parent / command[0]), *command[1:]],
            cwd=self.work,
            env=environment,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def test_it_is_the_wheel_and_has_the_presets(self):
        program = "import dc_tf, json; from dc_tf import shipped; e = dc_tf.load_experiment("
        program += "'cifar10_small', data={'path': 'D'}); print(json.dumps([dc_tf.__file__, "
        program += "*[p for kind in shipped.KINDS for p in shipped.presets(kind)], "
        program += "e.stages[0].epochs]))"
        file, *presets, epochs = json.loads(self.run_in("python", "-c", program))
        self.assertStartsWith(file, str(self.folder))
        expected = [p.stem for kind in shipped.KINDS for p in names(ROOT / "configs" / kind)]
        self.assertEqual(presets, expected)
        self.assertEqual(epochs, 20)

    def test_the_commands_of_the_readme_run(self):
        self.assertRegex(self.run_in("dc_tf", "--version"), r"^dc_tf \d")
        made = self.run_in("dc_tf", "generate", "--output=DATA", "--images=128")
        self.assertEqual(json.loads(made)["rows"], 128)
        flags = "--config_file=quickstart", "--params_override=data.path=DATA", "--workdir=RUN"
        out = self.run_in("dc_tf", "launch", "--workers=2", "--", "train", "--dry_run", *flags)
        plan = json.loads(out.splitlines()[-1])
        self.assertEqual((plan["workers"], plan["rows"]), (2, 128))
        x = np.random.default_rng(0).random((60, 8), np.float32)
        np.save(self.work / "x.npy", x)
        flags = "--input=x.npy", "--k=3", "--output=CLUSTERS"
        out = self.run_in("dc_tf", "launch", "--workers=2", "--", "kmeans", *flags)
        self.assertEqual(json.loads(out.splitlines()[-1])["rows"], 60)
        self.assertEqual(np.load(self.work / "CLUSTERS" / "centroids.npy").shape, (3, 8))


def names(folder):
    return sorted(folder.glob("*.yaml"))


if __name__ == "__main__":
    tf.test.main()
