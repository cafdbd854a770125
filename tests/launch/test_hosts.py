"""Several hosts for real: every worker in a network namespace with an address of its own."""

import os
import shutil
import tempfile

import pytest
import runs
import tensorflow as tf
from jobs import Job
from namespaces import Hosts, Unavailable

HOSTS = 4
HELD_UP = 43


@pytest.mark.slow
class HostsTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        try:
            self.hosts = Hosts(HOSTS).__enter__()
        except Unavailable as error:
            self.skipTest(f"network namespaces cannot be made: {error}")
        self.addCleanup(self.hosts.__exit__)
        self.folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.folder)

    def job(self, name, data, slow=None):
        settings = runs.settings(data, watchdog={"timeout_s": 8.0})
        workdir = os.path.join(self.folder, "run")
        command = ["train", f"--params_override={settings!r}", f"--workdir={workdir}"]
        return Job(HOSTS, command, os.path.join(self.folder, name), slow, self.hosts)

    def test_a_host_that_is_cut_off_ends_all_and_the_run_goes_on_when_it_is_back(self):
        data = runs.make_data(self.folder)
        for host in range(HOSTS):
            self.hosts.shape(host, "20mbit")
        with self.job("cut", data, slow=("a training step", 0.3)) as job:
            job.wait_for_step(3, os.path.join(self.folder, "run"))
            self.hosts.cut(3)
            codes = job.wait(60)
            self.assertEqual(codes, [HELD_UP] * HOSTS, job.log(0))
            for rank in range(HOSTS):
                self.assertRegex(
                    job.log(rank), r"worker 3 \(10\.231\.7\.4:2222\) cannot be reached"
                )
        self.hosts.mend(3)
        with self.job("back", data) as job:
            self.assertEqual(job.wait(240), [0] * HOSTS, job.log(0))
            self.assertEqual(job.result()["steps"], 20)


if __name__ == "__main__":
    tf.test.main()
