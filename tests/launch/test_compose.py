"""The three workers of the Compose file, each on a host of its own: one is killed, all start again.

Docker itself is replaced: a host for a container, a loop of the shell for its restarts.
"""

import json
import os
import pathlib
import shutil
import signal
import sys
import tempfile
import time

import pytest
import tensorflow as tf
import yaml
from namespaces import Hosts, Unavailable

from dc_tf.data.synthetic.generate import generate

ROOT = pathlib.Path(__file__).resolve().parents[2]
COMPOSE = ROOT / "launch" / "docker" / "compose.yaml"
# `restart: on-failure:N` of a container whose network names the others.
CONTAINER = """
mount --bind "$1" /etc/hosts
left=$2
shift 2
until "$@"; do
    [ "$left" -gt 0 ] || exit 1
    left=$((left - 1))
done
"""


@pytest.mark.extended
@pytest.mark.alone
class ComposeTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.folder)
        self.services = yaml.safe_load(COMPOSE.read_text())["services"]
        try:
            self.hosts = Hosts(len(self.services)).__enter__()
        except Unavailable as error:
            self.skipTest(f"needs network namespaces: root, and ip of iproute2: {error}")
        self.addCleanup(self.hosts.__exit__)
        self.names = os.path.join(self.folder, "hosts")
        with open(self.names, "w") as file:
            for number, name in enumerate(self.services):
                file.write(f"{self.hosts.address(number)} {name}\n")

    def start(self, number):
        service = list(self.services.values())[number]
        policy, _, restarts = service["restart"].partition(":")
        self.assertEqual(policy, "on-failure")
        arguments = [
            text.replace("/opt/dc_tf", str(ROOT)).replace("/shared", self.folder)
            for text in service["command"]
        ]
        worker = [sys.executable, str(ROOT / "launch" / "tf_config.py"), "--"]
        worker += [sys.executable, "-m", "dc_tf", *arguments]
        environment = {**os.environ, **service["environment"], "PYTHONPATH": str(ROOT)}
        with open(os.path.join(self.folder, f"log-{number}"), "ab") as log:
            return self.hosts.start(
                number,
                ["sh", "-c", CONTAINER, "container", self.names, restarts, *worker],
                env=environment | {"TF_NUM_INTRAOP_THREADS": "1"},
                stdout=log,
                stderr=log,
            )

    def log(self, number):
        return pathlib.Path(self.folder, f"log-{number}").read_text(errors="replace")

    def wait_for_step(self, step):
        path, until = pathlib.Path(self.folder, "run", "metrics.jsonl"), time.monotonic() + 120
        while not path.exists() or steps(path)[-1] < step:
            self.assertLess(time.monotonic(), until, self.log(0)[-3000:])
            time.sleep(0.2)

    def test_a_worker_that_is_killed_starts_again_and_the_run_resumes(self):
        generate(os.path.join(self.folder, "data"), images=200, size=48, processes=1)
        containers = [self.start(number) for number in range(len(self.services))]
        self.wait_for_step(10)
        (worker,) = children(containers[1].pid)
        os.kill(worker, signal.SIGKILL)
        for number, container in enumerate(containers):
            self.assertEqual(container.wait(240), 0, self.log(number)[-3000:])
        for number in (0, 2):
            self.assertRegex(self.log(number), r"worker 1 \(worker1:2222\)")
        result = json.loads(self.log(0).splitlines()[-1])
        found = steps(pathlib.Path(self.folder, "run", "metrics.jsonl"))
        self.assertEqual(found[-1], result["steps"])
        self.assertEqual(found, sorted(set(found)))


def steps(path):
    """The steps of a run's metrics, in the order of their lines; at least one."""
    lines = map(json.loads, path.read_text().splitlines())
    return [line["step"] for line in lines if line["event"] == "train"] or [0]


def children(pid):
    """Process ids of the children of a process."""
    text = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return list(map(int, text.split()))


if __name__ == "__main__":
    tf.test.main()
