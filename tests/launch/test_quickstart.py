"""The quickstart on a terminal: Ctrl-C in each of its phases, and a start after it."""

import contextlib
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile

import pictures
import pytest
import tensorflow as tf
from terminals import Terminal

ROOT = pathlib.Path(__file__).resolve().parents[2]
QUICKSTART = ROOT / "launch" / "quickstart.py"

# In place of Python: `-m dc_tf COMMAND` writes what the command would and, where a file says so,
# takes its time first; launch/local.py is the real one, on workers that are this program again.
FAKE = """
import json, os, pathlib, signal, sys, time
folder = pathlib.Path(os.environ["FAKE_FOLDER"])
arguments = sys.argv[1:]
if arguments[0].endswith("local.py"):
    split = arguments.index("--")
    program = f"--program={sys.executable} {__file__} -m dc_tf"
    os.execv(sys.executable, [sys.executable, *arguments[:split], program, *arguments[split:]])
command = arguments[2] if arguments[1] == "dc_tf" else "train_test_split"
flags = dict(a[2:].partition("=")[::2] for a in arguments if a.startswith("--"))
name = "measure" if "measure" in flags else command
task = json.loads(os.environ.get("TF_CONFIG", "{}")).get("task", {"index": 0})["index"]
with open(folder / "calls", "a") as calls:
    calls.write(" ".join([name, *arguments[3:]]) + "\\n")
def save(*_):
    (folder / f"saved-{name}-{task}").touch()
    sys.exit(42)
if name == "train":
    signal.signal(signal.SIGTERM, save)
if (folder / f"deaf-{name}").exists():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(f"{name} {task} begins", file=sys.stderr, flush=True)
if (folder / f"slow-{name}").exists():
    time.sleep(60)
    print(f"{name} {task} ends", file=sys.stderr, flush=True)
stage = {"name": "rotnet", "epochs": 10, "reassign_every": 0, "drops": [8], "clusterings": 0}
stage |= {"images_per_second": 100.0, "clustering_seconds": None}
stage |= {"steps_per_epoch": 62, "batch_per_worker": 32, "warmup_epochs": 0.0}
measured = {"seconds": 0.0, "first_steps_seconds": 1.0, "extract_images_per_second": 1e4}
measured["notes"] = []
layers = {"conv4": {"top1": 0.6}, "conv13": {"top1": 0.5}, "fc7": {"top1": 0.3}}
twins = {"conv4": {"top1": 0.5}, "conv13": {"top1": 0.4}, "fc7": {"top1": 0.35}}
result = {
    "generate": {"rows": 4000},
    "measure": {"rows": 4000, "workers": 2, "stages": [stage], "measured": measured,
                "compute_dtype": "float32"},
    "train": {"rows": 4000, "workers": 2, "rounds": 1, "rotation_accuracy": 0.9},
    "evaluate": {"top1": 0.6, "best_layer": "conv4", "layers": layers, "random_init": twins,
                 "random_init_top1": 0.5, "random_init_best_layer": "conv4",
                 "below_random_init": ["fc7"]},
}
if name == "generate":
    output = pathlib.Path(flags["output"])
    output.mkdir(parents=True)
    (output / "manifest.json").write_text(json.dumps({"rows": 4000}))
if name == "export":
    output = pathlib.Path(flags["output"])
    output.mkdir()
    (output / "saved_model.pb").touch()
print(json.dumps(result.get(name, {})), flush=True)
"""
DRIVER = """
import sys
sys.path.insert(0, sys.argv[1])
import quickstart
sys.executable = sys.argv[2]
quickstart.local.end(quickstart.main(sys.argv[3:]))
"""
PHASES = ("generate", "measure", "train", "export", "evaluate", "report")


class StopTest(tf.test.TestCase):
    """The commands are of a few lines; terminal, quickstart and launcher are the real ones."""

    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(tempfile.mkdtemp(dir=self.get_temp_dir()))
        self.workdir = self.folder / "work"
        (self.folder / "fake.py").write_text(FAKE)
        python = self.folder / "python"
        # Quoted: in a process of pytest-xdist the folder's name has < and > in it.
        script = shlex.join([sys.executable, str(self.folder / "fake.py")])
        python.write_text(f'#!/bin/sh\nexec {script} "$@"\n')
        python.chmod(0o755)

    def command(self, *flags):
        launch = str(ROOT / "launch")
        workdir = f"--workdir={self.workdir}"
        python = str(self.folder / "python")
        return [sys.executable, "-c", DRIVER, launch, python, workdir, "--workers=2", *flags]

    def environment(self):
        return {"FAKE_FOLDER": str(self.folder), "CUDA_VISIBLE_DEVICES": "-1"}

    def on_terminal(self, *flags):
        return Terminal(self.command(*flags), limit_s=40, environment=self.environment())

    @contextlib.contextmanager
    def slow(self, phase, how="slow"):
        marks = [self.folder / f"{kind}-{phase}" for kind in {"slow", how}]
        for mark in marks:
            mark.touch()
        yield
        for mark in marks:
            mark.unlink()

    def calls(self):
        """What was called, as "command flags", each call of several workers once."""
        return list(dict.fromkeys((self.folder / "calls").read_text().splitlines()))

    def test_one_interrupt_in_any_phase_ends_with_code_42_and_says_how_to_resume(self):
        for phase in PHASES:
            with self.subTest(phase), self.slow(phase), self.on_terminal() as terminal:
                terminal.wait_for(f"{phase} 0 begins" if phase != "measure" else "Measuring the")
                while phase == "measure" and "measure" not in self.calls()[-1]:
                    pass
                terminal.interrupt()
                self.assertEqual(terminal.wait(), 42, terminal.text)
                self.assertEqual(terminal.left_over(), [])
                last = terminal.text.splitlines()[-1]
                self.assertEqual(
                    last, f"stopped; start again with --workdir={self.workdir} to resume"
                )
                self.assertNotIn("failed", terminal.text)
                self.assertNotIn("Traceback", terminal.text)
        with self.on_terminal() as terminal:
            self.assertEqual(terminal.wait(), 0, terminal.text)

    def test_at_one_interrupt_all_workers_save_and_the_launcher_counts_it_once(self):
        with self.slow("train"), self.on_terminal() as terminal:
            terminal.wait_for("train 0 begins")
            terminal.wait_for("train 1 begins")
            terminal.interrupt()
            self.assertEqual(terminal.wait(), 42, terminal.text)
        saved = sorted(path.name for path in self.folder.glob("saved-*"))
        self.assertEqual(saved, ["saved-train-0", "saved-train-1"])

    def test_a_second_interrupt_ends_at_once_and_leaves_nothing(self):
        for phase in ("generate", "train"):
            with self.subTest(phase), self.slow(phase, "deaf"), self.on_terminal() as terminal:
                terminal.wait_for(f"{phase} 0 begins")
                if phase == "train":
                    terminal.wait_for("train 1 begins")
                terminal.interrupt()
                terminal.wait_for("Ctrl-C again ends it at once")
                with self.assertRaisesRegex(AssertionError, "is late"):
                    self.while_waiting(terminal, 0.6)
                terminal.interrupt()
                self.assertEqual(terminal.wait(), 130, terminal.text)
                self.assertEqual(terminal.left_over(), [])
                self.assertIn("ended at once", terminal.text)
                self.assertIn("start again with --workdir", terminal.text.splitlines()[-1])

    def while_waiting(self, terminal, seconds):
        """It continues for a while after the first request, since the workers do not obey."""
        try:
            terminal.process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            raise AssertionError("is late") from error

    def test_a_signal_to_the_whole_process_group_saves_and_ends_like_an_interrupt(self):
        with self.slow("train"), self.on_terminal() as terminal:
            terminal.wait_for("train 0 begins")
            terminal.wait_for("train 1 begins")
            os.killpg(terminal.process.pid, signal.SIGTERM)
            self.assertEqual(terminal.wait(), 42, terminal.text)
        self.assertIn("start again", terminal.text.splitlines()[-1])
        self.assertNotIn("failed", terminal.text)

    def test_when_the_window_is_closed_all_workers_save(self):
        with self.slow("train"), self.on_terminal() as terminal:
            terminal.wait_for("train 0 begins")
            terminal.wait_for("train 1 begins")
            terminal.hang_up()
            self.assertEqual(terminal.wait(), 42)
            self.assertEqual(terminal.left_over(), [])
        self.assertLen(list(self.folder.glob("saved-train-*")), 2)

    def test_a_killed_quickstart_takes_its_steps_with_it(self):
        with self.slow("train"), self.on_terminal() as terminal:
            terminal.wait_for("train 1 begins")
            terminal.process.kill()
            self.assertEqual(terminal.wait(), -signal.SIGKILL)
            self.assertEqual(terminal.left_over(), [])

    def test_started_again_it_keeps_its_epochs_and_its_settings_and_does_nothing_twice(self):
        override = "--params_override=seed=3"
        with self.slow("train"), self.on_terminal("--minutes=3", override) as terminal:
            terminal.wait_for("train 0 begins")
            terminal.interrupt()
            self.assertEqual(terminal.wait(), 42, terminal.text)
        with self.on_terminal("--minutes=100") as terminal:
            self.assertEqual(terminal.wait(), 0, terminal.text)
        calls = self.calls()
        names = [call.split()[0] for call in calls]
        self.assertEqual(names[:4], ["generate", "generate", "measure", "train"])
        self.assertEqual(
            names[4:], ["export", "evaluate", "evaluate", "report"]
        )  # the same train again
        self.assertIn("--params_override=seed=3", calls[3])
        self.assertRegex(
            calls[3], r"stages\[0\].epochs=[2-5],stages\[0\].optimizer.drops=\[[1-4]\]"
        )

    def test_epochs_of_the_user_win_over_the_minutes_and_it_says_so(self):
        override = "--params_override=stages[0].epochs=7"
        with self.on_terminal("--minutes=1", override) as terminal:
            self.assertEqual(terminal.wait(), 0, terminal.text)
        self.assertIn("epochs are those of --params_override", terminal.text)
        (train,) = [call for call in self.calls() if call.startswith("train")]
        self.assertNotIn("drops", train)

    def test_epochs_that_are_given_later_are_taken_too(self):
        with self.slow("train"), self.on_terminal("--minutes=3") as terminal:
            terminal.wait_for("train 0 begins")
            terminal.interrupt()
            self.assertEqual(terminal.wait(), 42, terminal.text)
        with self.on_terminal("--params_override=stages[0].epochs=7") as terminal:
            self.assertEqual(terminal.wait(), 0, terminal.text)
        trainings = [call for call in self.calls() if call.startswith("train")]
        self.assertRegex(trainings[0], r"epochs=[2-5],")
        self.assertIn("stages[0].epochs=7", trainings[1])
        self.assertNotIn("drops", trainings[1])

    def test_a_terminal_gets_a_table_and_a_path_and_a_pipe_one_json_line(self):
        with self.on_terminal() as terminal:
            self.assertEqual(terminal.wait(), 0, terminal.text)
        self.assertEqual(terminal.text.splitlines()[-1], f"result: {self.workdir}/result.json")
        self.assertRegex(
            terminal.text, r"k-NN top-1, best layer +60.0 % \(conv4\) +50.0 % \(conv4\)"
        )
        self.assertRegex(terminal.text, r"\n  fc7 +30.0 % +35.0 %")
        self.assertIn("fc7 in k-NN (30.0 % against 35.0 %)", terminal.text)
        self.assertIn("Use layer conv4", terminal.text)
        done = subprocess.run(
            self.command(),
            capture_output=True,
            text=True,
            timeout=40,
            env={**os.environ, **self.environment()},
        )
        kept = json.loads((self.workdir / "result.json").read_text())
        self.assertEqual(json.loads(done.stdout.splitlines()[-1]), kept)
        self.assertEqual(kept["epochs"], {"rotnet": 10})

    def test_flags_that_cannot_work_are_refused_before_the_first_step(self):
        file = self.folder / "a file"
        file.touch()
        for flag, message in [
            ("--minutes=nan", "--minutes=nan; use 0.01 to"),
            ("--minutes=-1", "--minutes=-1; use"),
            ("--workers=99999", "--workers=99999; use 1 to 1024"),
            ("--pictures=0", "--pictures=0; use 1 to"),
            ("--images=~nobody-here/x", "names no home folder"),
            (f"--workdir={file}/x", "cannot be written: Not a directory"),
        ]:
            command = [sys.executable, QUICKSTART, flag]
            done = subprocess.run(command, capture_output=True, text=True, timeout=60)
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertIn(message, done.stderr)
            self.assertNotIn("Traceback", done.stderr)

    def test_another_set_of_images_needs_another_folder(self):
        with self.on_terminal() as terminal:
            self.assertEqual(terminal.wait(), 0, terminal.text)
        with self.on_terminal(f"--images={self.folder}") as terminal:
            self.assertEqual(terminal.wait(), 2)
        self.assertIn("was made from generated images; use another --workdir", terminal.text)
        with self.on_terminal("--pictures=7") as terminal:
            self.assertEqual(terminal.wait(), 2)
        self.assertIn("was made from 4000; use another --workdir for --pictures=7", terminal.text)


# A network of seconds, and a k-means that can be interrupted.
SMALL = (
    "model.width=0.0625,model.fc=16,model.resolution=32,model.compute_dtype=float32,"
    "stages[0].batch_size=32,stages[1].batch_size=32,stages[1].clusters=2,"
    "stages[1].sub_clusters=4,stages[1].clustering.whitening_dim=8,log_every=1,"
    "stages[0].epochs=12,stages[1].epochs=2,stages[1].clustering.iterations=400,"
    "stages[1].clustering.save_every_s=0"
)


@pytest.mark.slow
class QuickstartTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)

    def start(self, *flags):
        command = [sys.executable, str(QUICKSTART), f"--workdir={self.folder}/work", *flags]
        return Terminal(command, limit_s=300, environment={"CUDA_VISIBLE_DEVICES": "-1"})

    def interrupted(self, pattern, *flags):
        """What it has written when it was interrupted once after `pattern`; all else is checked."""
        with self.start(*flags) as terminal:
            terminal.wait_for(pattern)
            terminal.interrupt()
            self.assertEqual(terminal.wait(), 42, terminal.text)
            self.assertEqual(terminal.left_over(), [])
        self.assertIn("start again with --workdir", terminal.text.splitlines()[-1])
        self.assertNotRegex(terminal.text, "Traceback|failed|UNAVAILABLE|CANCELLED|grpc_status")
        return terminal.text

    @pytest.mark.extended
    def test_an_interrupt_in_training_costs_nothing_but_the_start(self):
        few = SMALL.replace("iterations=400", "iterations=3")
        self.interrupt_in_training("--pictures=300", "--workers=2", f"--params_override={few}")
        self.check_end()

    @pytest.mark.extended
    def test_an_interrupt_in_each_phase_costs_nothing_but_the_start(self):
        first = ["--pictures=300", "--workers=2", f"--params_override={SMALL}"]
        self.interrupted(r"/300", *first)
        self.interrupted("== Measuring the speed")
        self.interrupt_in_training()
        text = self.interrupted(r"cluster, level 2")
        self.assertRegex(text, "saved|is kept")
        self.interrupted("== Export")
        self.interrupted("== Measuring: knn")
        self.check_end(trained=True)

    def interrupt_in_training(self, *flags):
        text = self.interrupted(r"rotnet epoch [2-9]", *flags)
        saved = set(re.findall(r"saved at step (\d+)", text))
        self.assertLen(saved, 1, text)

    def check_end(self, trained=False):
        with self.start() as terminal:
            self.assertEqual(terminal.wait(), 0, terminal.text)
        self.assertEqual("== Training" in terminal.text, not trained)
        result = json.loads((self.folder / "work" / "result.json").read_text())
        self.assertEqual(result["epochs"], {"rotnet": 12, "deepercluster": 2})
        self.assertGreater(result["knn_top1"], 0)

    @pytest.mark.extended
    def test_a_second_interrupt_in_training_ends_it_at_once_and_quietly(self):
        with self.start("--pictures=300", "--workers=2", f"--params_override={SMALL}") as terminal:
            terminal.wait_for(r"rotnet epoch [2-9]")
            terminal.interrupt()
            terminal.wait_for("stopping; finished work is kept")
            terminal.interrupt()
            self.assertIn(terminal.wait(), (42, 130), terminal.text)
            self.assertEqual(terminal.left_over(), [])
        self.assertNotRegex(terminal.text, "Traceback|UNAVAILABLE|CANCELLED|grpc_status")

    def test_eight_images_are_refused_in_one_message_before_anything_is_trained(self):
        for number in range(8):
            kind = "one" if number % 2 else "other"
            pictures.write(self.folder / "images" / kind, f"{number}.png", pictures.encoded(number))
        with self.start(f"--images={self.folder}/images", "--workers=2") as terminal:
            self.assertEqual(terminal.wait(), 2, terminal.text)
        needs = "needs at least 80 images for its clusters, the data set has 6"
        self.assertEqual(terminal.text.count(needs), 1, terminal.text)
        self.assertIn("has 8 images, 2 of them held out for evaluation. ", terminal.text)
        self.assertFalse((self.folder / "work" / "run").exists())


if __name__ == "__main__":
    tf.test.main()
