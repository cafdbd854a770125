"""What commands import before they do something: none waits for a package that it does not need."""

import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import pictures
import pytest
import tensorflow as tf

from dc_tf.commands.main import COMMANDS

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Each takes a tenth of a second or more to import, TensorFlow and what it brings seconds.
SLOW = {
    *("tensorflow", "keras", "tf_keras", "official", "orbit", "tensorflow_datasets"),
    *("tensorflow_hub", "pandas", "scipy", "sklearn", "matplotlib", "faiss", "torch", "h5py"),
    *("googleapiclient", "tqdm"),
}
# Calls one command after the other and says which brought a slow package.
PROGRAM = """
import sys
from dc_tf.commands.main import main
slow, calls = eval(sys.argv[1])
for expected, *call in calls:
    code = main(call)
    assert code == expected, (code, call)
    found = slow & set(sys.modules)
    if "tensorflow.python" not in sys.modules:  # it waits for its first use
        found.discard("tensorflow")
    found = sorted(found)
    print("IMPORTED", call[0], *found, file=sys.stderr)
"""


class StartupTest(tf.test.TestCase):
    def imported(self, *calls, slow=frozenset(SLOW)):
        """Slow packages that are there after calls of dc_tf, (exit code, *arguments) each."""
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, repr((set(slow), calls))],
            env=os.environ | {"PYTHONPATH": str(ROOT), "TF_CONFIG": ""},
            capture_output=True,
            text=True,
            timeout=300,
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        lines = [line for line in done.stderr.splitlines() if line.startswith("IMPORTED")]
        self.assertLen(lines, len(calls))
        return {line.split()[1]: line.split()[2:] for line in lines}

    def test_no_help_and_no_wrong_flag_imports_anything_slow(self):
        helps = [(0, name, "--help") for name in COMMANDS]
        wrong = [(2, name, "--no_such_flag=1") for name in COMMANDS]
        for name, found in self.imported((0, "--help"), *helps, *wrong).items():
            self.assertEmpty(found, name)

    def test_commands_on_local_data_sets_import_nothing_slow(self):
        folder = tempfile.mkdtemp(dir=self.get_temp_dir())
        for number in range(3):
            pictures.write(f"{folder}/images", f"{number}.png", pictures.encoded(number))
        generated = f"{folder}/generated"
        found = self.imported(
            (0, "generate", f"--output={generated}", "--images=3"),
            (0, "convert", f"--input={folder}/images", f"--output={folder}/out", "--workers=1"),
            (0, "index", f"--input={generated}/*.tfrecord", f"--output={folder}/index"),
            (0, "inspect", generated, "--verify", f"--output={folder}/sheet.png"),
            (1, "embed", "--model=M", f"--data={folder}/nowhere", "--output=O"),
            (2, "kmeans", f"--input={folder}/nowhere.npy", "--k=3", f"--output={folder}/k"),
        )
        for name, packages in found.items():
            self.assertEmpty(packages, name)

    def test_train_refuses_settings_and_few_images_without_tensorflow(self):
        folder = tempfile.mkdtemp(dir=self.get_temp_dir())
        data, run = f"{folder}/data", f"--workdir={folder}/run"
        quick, few = "--config_file=quickstart", f"--params_override=data.path={data}"
        found = self.imported(
            (0, "generate", f"--output={data}", "--images=8"),
            (2, "train", run, quick, f"{few},model.nothing=1"),
            (2, "train", run, quick, few),
            (2, "train", run, quick, few, "--dry_run", "--measure"),
            slow=SLOW - {"official"},  # of which only the settings are imported
        )
        self.assertEqual(found, {"generate": [], "train": []})
        self.assertFalse(os.path.exists(f"{folder}/run"))

    def test_commands_refuse_a_wrong_run_or_model_before_they_import_anything_slow(self):
        folder = tempfile.mkdtemp(dir=self.get_temp_dir())
        run, model = f"--run={folder}", f"--model={folder}/nothing"
        data, table = ("--train=D", "--test=T"), f"--output={folder}/table.csv"
        found = self.imported(
            (2, "assign", run, f"--data={folder}", table),
            (2, "browse", run),
            (2, "clusters", run, table),
            (2, "curate", run, "--target=3", f"--output={folder}/view"),
            (2, "curate", f"--data={folder}", "--target=3", f"--output={folder}/view"),
            (2, "duplicates", run, f"--output={folder}/copies"),
            (2, "search", run, "--query=1"),
            (2, "report", run, f"--output={folder}/report.html"),
            (2, "export", f"--workdir={folder}", f"--output={folder}/model"),
            (2, "evaluate", "--task=knn", model, *data),
            (2, "evaluate", "--task=none", f"--model={folder}", *data),
            (2, "finetune", model, *data, f"--output={folder}/classifier"),
            (2, "predict", model, f"--images={folder}", table),
        )
        for name, packages in found.items():
            self.assertEmpty(packages, name)

    @pytest.mark.slow
    def test_commands_on_features_and_clusters_do_without_tensorflow(self):
        folder = tempfile.mkdtemp(dir=self.get_temp_dir())
        np.save(f"{folder}/x.npy", np.random.default_rng(0).random((24, 64), np.float32))
        data, features = f"--data={folder}/data", f"--features={folder}/x.npy"
        clusters, sets = (
            f"--clusters={folder}/k",
            (f"--train={folder}/data", f"--test={folder}/data"),
        )
        kmeans = f"--input={folder}/x.npy", f"--output={folder}/k", "--k=3", "--backend=tensorflow"
        with_official = SLOW - {"official"}  # of which only the settings are imported
        made = self.imported(
            (0, "generate", f"--output={folder}/data", "--images=24", "--size=64"),
            (0, "kmeans", *kmeans),
            # The first that needs distances to centroids computes them, and they are kept.
            (0, "report", clusters, data, f"--output={folder}/first.html"),
            slow=with_official,
        )
        made_with = ["tensorflow"]
        self.assertEqual(made, {"generate": [], "kmeans": made_with, "report": made_with})
        # What one has imported stays for the next, so each adds its own.
        found = self.imported(
            (0, "evaluate", "--task=nmi", f"--model={folder}/k", sets[0]),
            (0, "curate", clusters, data, "--max_per_cluster=2", f"--output={folder}/view"),
            (0, "report", clusters, data, f"--output={folder}/report.html"),
            (0, "search", features, data, "--query=7"),
            (0, "clusters", clusters, data, f"--output={folder}/clusters.csv"),
            (0, "duplicates", features, data, "--dry_run"),
            (0, "assign", clusters, features, data, f"--output={folder}/assigned.csv"),
            slow=with_official,
        )
        expected = {
            **dict.fromkeys(("evaluate", "curate", "report"), []),
            **dict.fromkeys(("search", "clusters"), ["faiss"]),
            "duplicates": ["faiss", "scipy"],  # which groups the pairs
            "assign": ["faiss", "scipy", "tensorflow"],  # which finds the nearest centroids
        }
        self.assertEqual(found, expected)

    def test_doctor_checks_versions_before_it_imports_anything_slow(self):
        program = (
            "import sys\n"
            "from dc_tf.doctor.beginning import begin\n"
            "report, task, trouble = begin()\n"
            f"sys.exit(str({SLOW!r} & set(sys.modules) or ''))"
        )
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        self.assertRegex(done.stdout, r"ok +tensorflow +2\.")
        self.assertEqual(done.stderr.strip(), "")


if __name__ == "__main__":
    tf.test.main()
