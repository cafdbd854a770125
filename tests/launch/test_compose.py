"""The three workers of the Compose file, each on a host of its own.

One is killed: all start again by themselves. One is asked to stop: all save and end, until the next
`up`.

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
# `restart: on-failure:N` of a container whose network names the others; Docker says so in no log.
CONTAINER = """
mount --bind "$1" /etc/hosts
left=$2
shift 2
until "$@"; do
    [ "$left" -gt 0 ] || exit 1
    left=$((left - 1))
    echo "container: started again"
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
        generate(os.path.join(self.folder, "data"), images=200, size=48, processes=1)

    def start(self, number):
        service = list(self.services.values())[number]
        policy, _, restarts = service["restart"].partition(":")
        self.assertEqual(policy, "on-failure")
        words = [
            text.replace("/opt/dc_tf", str(ROOT)).replace("/shared", self.folder)
            for text in (*service["entrypoint"], *service["command"])
        ]
        programs = {"python3": [sys.executable], "dc_tf": [sys.executable, "-m", "dc_tf"]}
        worker = [word for text in words for word in programs.get(text, [text])]
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
        path, until = pathlib.Path(self.folder, "run", "metrics.jsonl"), time.monotonic() + 300
        while not path.exists() or steps(path)[-1] < step:
            self.assertLess(time.monotonic(), until, self.log(0)[-3000:])
            time.sleep(0.2)

    def up(self):
        return [self.start(number) for number in range(len(self.services))]

    def assert_all_end(self, containers):
        for number, container in enumerate(containers):
            self.assertEqual(container.wait(480), 0, self.log(number)[-3000:])

    def assert_whole(self):
        """Every step was logged once, up to the last one of the result."""
        result = json.loads(self.log(0).splitlines()[-1])
        found = steps(pathlib.Path(self.folder, "run", "metrics.jsonl"))
        self.assertEqual(found[-1], result["steps"])
        self.assertEqual(found, sorted(set(found)))

    def test_a_worker_that_is_killed_starts_again_and_the_run_resumes(self):
        containers = self.up()
        self.wait_for_step(10)
        (first,) = children(containers[1].pid)
        (worker,) = children(first)
        os.kill(worker, signal.SIGKILL)
        self.assert_all_end(containers)
        for number in (0, 2):
            self.assertRegex(self.log(number), r"worker 1 \(worker1:2222\)")
            self.assertIn("container: started again", self.log(number))
        self.assert_whole()

    def test_a_service_that_is_stopped_ends_all_until_they_are_started_again(self):
        containers = self.up()
        self.wait_for_step(10)
        (first,) = children(containers[1].pid)
        os.kill(first, signal.SIGTERM)  # as `docker compose stop worker1`
        self.assert_all_end(containers)
        stopped_at = steps(pathlib.Path(self.folder, "run", "metrics.jsonl"))[-1]
        for number in range(3):
            self.assertEqual(self.log(number).count("exit code 42 becomes 0"), 1)
            self.assertNotIn("container: started again", self.log(number))
        self.assert_all_end(self.up())
        self.assertGreater(steps(pathlib.Path(self.folder, "run", "metrics.jsonl"))[-1], stopped_at)
        self.assertNotIn("container: started again", self.log(0))
        self.assert_whole()


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
