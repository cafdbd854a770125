"""A run folder that gets full or cannot be written: on real file systems, in a namespace."""

import os
import shutil
import subprocess
import sys
import tempfile

import pytest
import runs
import tensorflow as tf
import workers

# Runs a command on a small disk, then on the same one made larger.
ON_SMALL_DISK = """
mount -t tmpfs -o size=$SIZE tmpfs "$DISK" || exit 77
"$@"; echo "first: $?"
ls "$DISK/run/checkpoints"
mount -o remount,size=200m "$DISK"
"$@"; echo "second: $?"
cp -r "$DISK/run" "$KEPT"
"""
ON_READ_ONLY_DISK = """
mount -t tmpfs -o ro tmpfs "$DISK" || exit 77
"$@"; echo "first: $?"
"""


class DiskTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.folder)
        self.settings = runs.settings(runs.make_data(self.folder))
        self.disk = os.path.join(self.folder, "disk")
        self.kept = os.path.join(self.folder, "kept")
        os.mkdir(self.disk)

    def run_on_disk(self, script, size=""):
        """(stdout, stderr) of `train` under a script that makes the disk."""
        workdir = os.path.join(self.disk, "run")
        command = [sys.executable, "-m", "dc_tf", "train", f"--workdir={workdir}"]
        command.append(f"--params_override={self.settings!r}")
        own = [] if os.geteuid() == 0 else ["--map-root-user"]
        done = subprocess.run(
            ["unshare", *own, "--mount", "sh", "-c", script, "sh", *command],
            env={
                **os.environ,
                "DISK": self.disk,
                "KEPT": self.kept,
                "SIZE": size,
                "PYTHONPATH": workers.REPOSITORY,
                "TF_CONFIG": "",
                "TF_NUM_INTRAOP_THREADS": "1",  # as the one it is compared with
                "TF_NUM_INTEROP_THREADS": "2",
            },
            capture_output=True,
            text=True,
            timeout=240,
        )
        if done.returncode == 77 or "unshare failed" in done.stderr:
            self.skipTest(f"needs root or user namespaces, to mount: {done.stderr[-200:]}")
        return done.stdout, done.stderr

    @pytest.mark.slow
    def test_a_full_disk_stops_the_run_and_with_more_room_it_ends_as_if_nothing_had_been(self):
        whole = os.path.join(self.folder, "whole")
        workers.on_cluster(1, runs.train, self.settings, whole)
        out, err = self.run_on_disk(ON_SMALL_DISK, size="2500k")
        self.assertIn("first: 1\nstep-", out, err)
        self.assertNotIn("Traceback", err)
        self.assertRegex(err, r"(?s)No space left.*(ake room|ree space)")
        self.assertIn("second: 0", out, err)
        state, expected = runs.end_state(self.kept), runs.end_state(whole)
        for name, value in expected.items():
            self.assertAllEqual(state[name], value, name)

    def test_a_folder_that_cannot_be_written_is_refused(self):
        out, err = self.run_on_disk(ON_READ_ONLY_DISK)
        self.assertEqual(out, "first: 2\n", err)
        self.assertRegex(err, "--workdir=.* cannot be written: .* is on a read-only file system")


if __name__ == "__main__":
    tf.test.main()
