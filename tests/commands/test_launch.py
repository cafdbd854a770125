"""`dc_tf launch`: launch/local.py as a command. Its own tests are in tests/launch."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

import runs
import tensorflow as tf

ROOT = pathlib.Path(__file__).resolve().parents[2]
# A worker in place of `python -m dc_tf`.
WORKER = "import json, os, sys; task = json.loads(os.environ['TF_CONFIG'])['task']; "
WORKER += "print('is', task['index']); print(json.dumps({'got': sys.argv[1:]}))"


class LaunchTest(tf.test.TestCase):
    def call(self, *argv, path=ROOT):
        """(exit code, stdout, stderr) of a process, since a launcher takes all signals."""
        done = subprocess.run(
            [sys.executable, "-m", "dc_tf", "launch", *argv],
            env=os.environ | {"PYTHONPATH": str(path), "CUDA_VISIBLE_DEVICES": "-1"},
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done.returncode, done.stdout, done.stderr

    def test_it_starts_workers_and_ends_with_the_chiefs_result(self):
        program = f'--program={sys.executable} -c "{WORKER}"'
        code, out, err = self.call("--workers=2", program, "--", "train", "--workdir=R")
        self.assertEqual(code, 0, err)
        lines = out.splitlines()
        self.assertContainsSubset(["[w0] is 0", "[w1] is 1"], lines)
        self.assertEqual(json.loads(lines[-1]), {"got": ["train", "--workdir=R"]})

    def test_wrong_usage_and_failures_name_the_command(self):
        code, _, err = self.call("--workers=2")
        self.assertEqual(code, 2)
        self.assertRegex(err, "dc_tf launch --workers=2 -- train")
        program = f'--program={sys.executable} -c "raise SystemExit(7)"'
        code, _, err = self.call("--workers=1", program, "--", "train")
        self.assertEqual(code, 7)
        self.assertIn("dc_tf launch: w0 ended with exit code 7", err)

    def test_too_few_images_for_a_run_are_refused_in_one_message_before_tensorflow_starts(self):
        folder = pathlib.Path(tempfile.mkdtemp(dir=self.get_temp_dir()))
        (folder / "tensorflow.py").write_text("raise SystemExit('TensorFlow was imported')")
        data = runs.make_data(folder, images=8)
        flags = f"--params_override=data.path={data}", f"--workdir={folder}/run"
        for more in ((), ("--dry_run", "--measure")):
            code, out, err = self.call(
                *("--workers=2", "--", "train", "--config_file=quickstart", *flags, *more),
                path=f"{ROOT}{os.pathsep}{folder}",
            )
            self.assertEqual((code, out), (2, ""), err)
            said, launcher = sorted(err.splitlines())  # either worker may end first
            self.assertRegex(said, r"^\[w0\] dc_tf: .* at least 80 images .* the data set has 8;")
            self.assertStartsWith(launcher, "dc_tf launch: w")
            self.assertFalse((folder / "run").exists())


if __name__ == "__main__":
    tf.test.main()
