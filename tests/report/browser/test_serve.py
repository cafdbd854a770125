"""The command itself: prints an address, answers there, and ends quietly at Ctrl-C."""

import http.cookiejar
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import urllib.request

import clustered
import pytest
import tensorflow as tf

LIMIT_S = 120


class CommandTest(tf.test.TestCase):
    @pytest.mark.slow
    def test_it_serves_until_it_is_interrupted_and_writes_only_in_its_folder(self):
        folder = tempfile.mkdtemp(dir=self.get_temp_dir())
        data = clustered.write_data(os.path.join(folder, "data"))
        run = clustered.write_run(os.path.join(folder, "run"), data)
        before = {path: sorted(os.listdir(path)) for path in (data, run)}
        process = subprocess.Popen(
            [sys.executable, "-m", "dc_tf", "browse", f"--run={run}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.addCleanup(process.kill)
        lines = []
        for line in process.stderr:
            lines.append(line)
            address = re.search(r"Open (http://127\.0\.0\.1:\d+/\?token=\S+) in a browser", line)
            if address:
                break
        self.assertIsNotNone(address, lines)
        jar = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
        with urllib.request.build_opener(jar).open(address[1], timeout=LIMIT_S) as answer:
            self.assertIn("Cluster 0.0", answer.read().decode())
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=LIMIT_S)
        self.assertEqual(process.returncode, 0, err)
        self.assertEqual(err.strip(), "")
        result = json.loads(out)
        work = os.path.join(run, "browser")
        self.assertEqual(result, {"workdir": work, "selections": {}})
        before[run] = sorted([*before[run], "browser"])
        self.assertEqual({path: sorted(os.listdir(path)) for path in before}, before)


if __name__ == "__main__":
    tf.test.main()
