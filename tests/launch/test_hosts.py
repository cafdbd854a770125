"""Several hosts for real: every worker in a network namespace with an address of its own."""

import os
import shutil
import subprocess
import sys
import tempfile

import pytest
import runs
import tensorflow as tf
from jobs import Job
from namespaces import Hosts, Unavailable

HOSTS = 4
HELD_UP = 43
LATENCY_S = 0.01
# How long the second host takes to say that nothing listens there.
REFUSED_AFTER = """
import socket, time
started = time.monotonic()
with socket.socket() as one:
    one.settimeout(20)
    assert one.connect_ex(("10.231.7.2", 9)) == 111
print(time.monotonic() - started)
"""


@pytest.mark.extended
@pytest.mark.alone
class HostsTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.folder)

    def make_hosts(self, count, **how):
        try:
            self.hosts = Hosts(count, **how).__enter__()
        except Unavailable as error:
            self.skipTest(f"needs network namespaces: root, and ip and tc of iproute2: {error}")
        self.addCleanup(self.hosts.__exit__)

    def experiment(self):
        """The stage that has everything: clusters, heads that some hosts hold, 8 steps."""
        stages = [{**runs.SETTINGS["stages"][1], "epochs": 2}]
        return {"data": runs.make_data(self.folder), "stages": stages}

    def job(self, name, data, slow=None, **changes):
        settings = runs.settings(data, watchdog={"timeout_s": 8.0}, **changes)
        workdir = os.path.join(self.folder, "run")
        command = ["train", f"--params_override={settings!r}", f"--workdir={workdir}"]
        folder = os.path.join(self.folder, name)
        return Job(self.hosts.count, command, folder, slow, self.hosts)

    def test_far_from_one_another_they_train_all_the_same(self):
        self.make_hosts(2, latency_s=LATENCY_S)
        seconds = self.hosts.start(0, [sys.executable, "-c", REFUSED_AFTER], stdout=subprocess.PIPE)
        self.assertGreater(float(seconds.communicate(timeout=30)[0]), 2 * LATENCY_S)
        with self.job("far", **self.experiment()) as job:
            self.assertEqual(job.wait(240), [0, 0], job.log(0))
            self.assertEqual(job.result()["steps"], 8)

    def test_a_host_that_is_cut_off_ends_all_and_the_run_resumes_when_it_is_back(self):
        self.make_hosts(HOSTS)
        experiment = self.experiment()
        for host in range(HOSTS):
            self.hosts.shape(host, "20mbit")
        with self.job("cut", slow=("a training step", 0.3), **experiment) as job:
            job.wait_for_step(3, os.path.join(self.folder, "run"))
            self.hosts.cut(3)
            codes = job.wait(60)
            self.assertEqual(codes, [HELD_UP] * HOSTS, job.log(0))
            for rank in range(HOSTS):
                self.assertRegex(
                    job.log(rank), r"worker 3 \(10\.231\.7\.4:2222\) cannot be reached"
                )
        self.hosts.mend(3)
        with self.job("back", **experiment) as job:
            self.assertEqual(job.wait(240), [0] * HOSTS, job.log(0))
            self.assertEqual(job.result()["steps"], 8)


if __name__ == "__main__":
    tf.test.main()
