"""The package without its repository: a wheel in an environment of its own."""

import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import urllib.request
import venv

import numpy as np
import pictures
import pytest
import tensorflow as tf

from dc_tf import shipped
from dc_tf.commands.main import COMMANDS

ROOT = pathlib.Path(__file__).resolve().parents[1]
LIMIT_S = 240
INSTALL_S = 1800
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
SMALL = "model.width=0.0625,model.resolution=32,model.fc=64,model.compute_dtype=float32"
SMALL += ",stages[0].epochs=1,stages[1].epochs=1,stages[1].sub_clusters=4"
# What makes the commands and the program of README short: (text, what is put in its place).
SHORTER = (
    ("--workers=4", "--workers=2"),
    ("data.path=DATA", f"data.path=DATA,{SMALL}"),
    ("--k=100", "--k=5"),
    ("--target=10000", "--target=20"),
    (
        "--output=CLASSIFIER",
        "--output=CLASSIFIER --params_override=epochs=1,batch_size=16 --protocol=small",
    ),
)
SHORTER_IN_PYTHON = (
    ("data={", f'"{SMALL}", data={{'),
    ('"RUN"', '"RUN_OF_PYTHON"'),
    ('"MODEL"', '"MODEL_OF_PYTHON"'),
    ("k=100", "k=5"),
)


def build_wheel(folder) -> pathlib.Path:
    """Builds the wheel of a copy of the repository, since building writes beside setup.py."""
    source = folder / "source"
    for name in ("dc_tf", "configs", "launch"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml"):
        shutil.copy(ROOT / name, source)
    build = [*PIP, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source]
    subprocess.run(build, check=True, timeout=LIMIT_S)
    shutil.rmtree(source)
    (wheel,) = folder.glob("*.whl")
    return wheel


def readme_blocks(language="") -> list[str]:
    """The code blocks of README in one language."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [block for name, block in blocks if name == language]


def readme_commands() -> list[str]:
    """The lines of README's code blocks that call dc_tf, without their comments."""
    lines = "\n".join(readme_blocks()).splitlines()
    return [line.split(" #")[0].strip() for line in lines if line.startswith("dc_tf ")]


def replaced(text, pairs) -> str:
    for old, new in pairs:
        text = text.replace(old, new)
    return text


class ReadmeTest(tf.test.TestCase):
    def test_the_commands_of_readme_are_found_and_there(self):
        found = [line.split()[1] for line in readme_commands()]
        self.assertContainsSubset(found, COMMANDS)
        expected = {
            "convert",
            "launch",
            "export",
            "evaluate",
            "embed",
            "kmeans",
            "report",
            "browse",
        }
        self.assertContainsSubset(expected, found)

    def test_all_that_makes_commands_shorter_is_in_them(self):
        commands, (program,) = "\n".join(readme_commands()), readme_blocks("python")
        for text, pairs in ((commands, SHORTER), (program, SHORTER_IN_PYTHON)):
            for old, _ in pairs:
                self.assertIn(old, text)


class Installed:
    """A wheel in an environment of its own, and an empty folder to work in."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.folder = pathlib.Path(tempfile.mkdtemp())
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        cls.wheel, own = build_wheel(cls.folder), cls.folder / "venv"
        venv.create(own, with_pip=False, symlinks=True)
        cls.python = own / "bin" / "python"
        cls.install(own)
        cls.work = cls.folder / "work"
        cls.work.mkdir()

    @classmethod
    def environment(cls):
        """The variables of this process that do not lead to the repository."""
        return {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "TF_CONFIG")}

    def run_in(self, *command):
        """stdout of a command of the environment, far from the repository."""
        done = subprocess.run(
            [str(self.python.parent / command[0]), *command[1:]],
            cwd=self.work,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
        )
        self.assertEqual(done.returncode, 0, f"{command}\n{done.stderr}")
        return done.stdout


class Borrowed(Installed):
    """The wheel alone; its dependencies are those of this environment."""

    @classmethod
    def install(cls, own):
        target = ["--python", cls.python, "install", "--no-deps", "--no-index", cls.wheel]
        subprocess.run([*PIP, *target], check=True, timeout=LIMIT_S, env=cls.environment())
        # The packages of this environment come after the wheel's. Its own .pth files, one of which
        # may lead to the repository, are not read.
        dependencies = {sysconfig.get_path(kind) for kind in ("purelib", "platlib")}
        (site,) = own.glob("lib/python*/site-packages")
        (site / "dependencies.pth").write_text("\n".join(sorted(dependencies)) + "\n")


@pytest.mark.slow
class WheelTest(Borrowed, tf.test.TestCase):
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

    def test_data_a_plan_and_kmeans_of_two_workers(self):
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


@pytest.mark.extended
class ReadmeCommandsTest(Borrowed, tf.test.TestCase):
    def test_all_commands_and_the_program_of_readme_run(self):
        for split, seed in (("DIR", 0), ("TEST_IMAGES", 1000)):
            for number in range(seed, seed + 64):
                name = f"{'cats' if number % 2 else 'dogs'}/{number}.png"
                pictures.write(self.work / split, name, pictures.encoded(number, size=(40, 40)))
        self.run_in(
            *("dc_tf", "convert", "--input=TEST_IMAGES", "--output=TEST", "--labels_from_folders")
        )
        for line in readme_commands():
            words = shlex.split(replaced(line, SHORTER))
            self.browse(words) if words[1] == "browse" else self.run_in(*words)
        self.assertNotEmpty((self.work / "report.html").read_text())
        self.assertLen(np.load(self.work / "CLUSTERS" / "centroids.npy"), 5)
        (program,) = readme_blocks("python")
        program = replaced(program, SHORTER_IN_PYTHON) + "print(features.shape[0])"
        self.assertEqual(self.run_in("python", "-c", program).split()[-1], "64")

    def browse(self, words):
        """Starts the browser, waits for its address, and interrupts it."""
        process = subprocess.Popen(
            [str(self.python.parent / words[0]), *words[1:]],
            cwd=self.work,
            env=self.environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.addCleanup(process.kill)
        lines = []
        for line in process.stderr:  # until it serves, or ends
            lines.append(line)
            if "http://127.0.0.1:" in line:
                address = re.search(r"http://\S+", line)[0]
                # It redirects to a page that asks for the cookie that it sets.
                client = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
                with client.open(address, timeout=LIMIT_S) as page:
                    self.assertEqual(page.status, 200)
                process.send_signal(signal.SIGINT)
                break
        lines.append(process.communicate(timeout=LIMIT_S)[1])
        self.assertEqual(process.returncode, 0, "".join(lines))


@pytest.mark.extended
class DependenciesTest(Installed, tf.test.TestCase):
    """The wheel with what it requires, installed by pip into an empty environment."""

    @classmethod
    def install(cls, own):
        pins = ["--build-constraint", ROOT / "constraints.txt", "-c", ROOT / "constraints.txt"]
        target = ["--python", cls.python, "install", *pins, f"{cls.wheel}[cpu]"]
        subprocess.run([*PIP, *target], check=True, timeout=INSTALL_S, env=cls.environment())

    def test_it_trains_with_what_it_requires(self):
        self.assertRegex(self.run_in("dc_tf", "--version"), r"^dc_tf \d")
        self.assertRegex(self.run_in("dc_tf", "doctor"), r"ok +faiss")
        self.run_in("dc_tf", "generate", "--output=DATA", "--images=128")
        flags = "--config_file=quickstart", f"--params_override=data.path=DATA,{SMALL}"
        out = self.run_in("dc_tf", "train", *flags, "--workdir=RUN")
        self.assertEqual(json.loads(out.splitlines()[-1])["rows"], 128)


def names(folder):
    return sorted(folder.glob("*.yaml"))


if __name__ == "__main__":
    tf.test.main()
