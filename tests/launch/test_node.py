"""A worker for each GPU of every machine of TF_CONFIG: the same addresses and ranks on all."""

import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
from unittest import mock

import pytest
import runs
import tensorflow as tf
import workers
from absl.testing import parameterized

from dc_tf.distributed.task import parse_tf_config
from dc_tf.errors import ConfigError
from dc_tf.run_dir import RunDir
from dc_tf.training.monitoring.metrics import read

NODE = pathlib.Path(__file__).parents[2] / "launch" / "node.py"
LIMIT_S = 240
sys.path.insert(0, str(NODE.parent))

import local  # noqa: E402
import node  # noqa: E402


def tf_config(cluster, kind="worker", index=0):
    return json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})


class ConfigsTest(tf.test.TestCase, parameterized.TestCase):
    @parameterized.named_parameters(
        ("workers", {"worker": ["a:2222", "b:2222"]}, [("worker", 0), ("worker", 1)]),
        ("chief", {"chief": ["a:2222"], "worker": ["b:2222"]}, [("chief", 0), ("worker", 0)]),
        ("order", {"worker": ["b:2222"], "chief": ["a:2222"]}, [("chief", 0), ("worker", 0)]),
        ("master", {"master": ["a:2222"], "worker": ["b:2222"]}, [("master", 0), ("worker", "0")]),
        (
            "others",
            {"worker": ["a:2222", "b:2222"], "evaluator": ["c:1"], "ps": []},
            [("worker", 0), ("worker", 1)],
        ),
    )
    def test_all_machines_derive_one_cluster(self, cluster, tasks):
        tasks = [
            parse_tf_config(text) for kind, i in tasks for text in self.configs(cluster, kind, i)
        ]
        expected = ("a:2222", "a:2223", "a:2224", "b:2222", "b:2223", "b:2224")
        for rank, task in enumerate(tasks):
            self.assertEqual((task.addresses, task.rank), (expected, rank))
            self.assertEqual((task.local_index, task.local_size), (rank % 3, 3))

    def configs(self, cluster, kind, index):
        return node.worker_configs(tf_config(cluster, kind, index), 3)

    def test_ipv6_and_one_worker_a_machine(self):
        cluster = {"worker": ["[fe80::1]:2222", "[fe80::2]:2222"]}
        (text,) = node.worker_configs(tf_config(cluster, index=1), 1)
        self.assertEqual(parse_tf_config(text).addresses, tuple(cluster["worker"]))
        self.assertEqual(parse_tf_config(text).rank, 1)

    @parameterized.parameters(None, "", " ", "{}")
    def test_without_tf_config_the_machine_is_alone(self, text):
        self.assertIsNone(node.worker_configs(text, 2))

    @parameterized.parameters(
        ("{", "is not JSON"),
        ("[1]", "is not a JSON object"),
        ('{"cluster": 3}', "has the cluster 3"),
        (tf_config({"ps": ["a:1"], "worker": ["b:1"]}), "1 tasks of the job 'ps'"),
        (tf_config({"worker": ["a:1"]}, "evaluator"), "takes no part in training"),
        (tf_config({"worker": ["a:1"]}, index=1), "worker 1, and its cluster has 1 of that type"),
        (tf_config({"worker": ["a:1"]}, index=-1), "task index -1"),
        (tf_config({"worker": ["a"]}), "'a'.* is not host:port"),
        (tf_config({"worker": ["a:1", "a:1"]}), "a:1 twice"),
        (tf_config({"worker": ["a:1", "A:1"]}), "are one address"),
        (tf_config({"worker": ["localhost:1", "[::1]:1"]}), "are one address"),
        (tf_config({"chief": ["a:1"], "master": ["b:1"]}, "chief"), "a chief and a master"),
        (tf_config({"chief": ["a:1", "b:1"]}, "chief"), "has 2 chiefs"),
        (tf_config({"workers": ["a:1"]}), "the unknown job 'workers'"),
        (tf_config({"worker": {"0": "a:2222"}}), "must be a list of addresses"),
        (tf_config({"worker": 3}), "has 3 as 'worker'"),
        ('{"cluster": {"worker": ["a:1"], "worker": ["b:1"]}}', "'worker' is given twice"),
    )
    def test_it_refuses_what_every_command_refuses_in_the_same_words(self, text, message):
        with self.assertRaisesRegex(ConfigError, message) as command:
            parse_tf_config(text)
        with self.assertRaises(ConfigError) as launcher:
            node.worker_configs(text, 2)
        self.assertEqual(str(launcher.exception), str(command.exception))

    @parameterized.parameters(
        (tf_config({"worker": ["a:1", "a:2"]}), "a:1 and a:2, .* share port 2; .* 2 apart"),
        (tf_config({"worker": ["a:1", "A:2"]}), "a:1 and A:2, .* share port 2"),
        (tf_config({"worker": ["[::1]:1", "localhost:2"]}), "share port 2"),
        (tf_config({"worker": ["a:65535"]}), "need ports up to 65536; use a first port"),
    )
    def test_machines_whose_workers_would_share_a_port_are_refused(self, text, message):
        with self.assertRaisesRegex(local.UsageError, message):
            node.worker_configs(text, 2)


class NodeTest(tf.test.TestCase):
    def start(self, number, ports, folder, *flags):
        """Starts the launcher as on machine `number` of two, whose workers write what they got."""
        body = (
            "import json, os, pathlib; "
            "task = json.loads(os.environ['TF_CONFIG'])['task']['index']; "
            f"pathlib.Path({str(folder)!r}, str(task)).write_text(json.dumps(dict(os.environ)))"
        )
        script = pathlib.Path(folder, "worker.py")
        script.write_text(body)
        cluster = {"worker": [f"localhost:{port}" for port in ports]}
        return subprocess.Popen(
            [sys.executable, str(NODE), f"--program={sys.executable} {script}", *flags, "--", "x"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"TF_CONFIG": tf_config(cluster, index=number)},
        )

    def test_every_machine_starts_its_workers_with_a_gpu_each(self):
        folder = tempfile.mkdtemp(dir=self.get_temp_dir())
        first = workers.free_ports(1)[0] % 60000
        with self.visible("0,1"):
            for number in (0, 1):
                launcher = self.start(number, (first, first + 2), folder)
                out, err = launcher.communicate(timeout=60)
                self.assertEqual(launcher.returncode, 0, out + err)
        found = [json.loads(pathlib.Path(folder, str(rank)).read_text()) for rank in range(4)]
        self.assertEqual([one["CUDA_VISIBLE_DEVICES"] for one in found], ["0", "1", "0", "1"])
        tasks = [parse_tf_config(one["TF_CONFIG"]) for one in found]
        self.assertEqual([task.rank for task in tasks], [0, 1, 2, 3])
        self.assertLen({task.addresses for task in tasks}, 1)

    def test_wrong_usage_is_said_under_its_own_name(self):
        launcher = self.start(0, (1, 1), tempfile.mkdtemp(dir=self.get_temp_dir()), "--workers=2")
        out, err = launcher.communicate(timeout=60)
        self.assertEqual((launcher.returncode, out), (2, ""))
        self.assertStartsWith(err, "node.py: ")

    def test_a_machine_without_a_gpu_is_refused_unless_workers_are_asked_for(self):
        folder = tempfile.mkdtemp(dir=self.get_temp_dir())
        with self.visible(""):
            launcher = self.start(0, (1111, 2222), folder)
            out, err = launcher.communicate(timeout=60)
            self.assertEqual((launcher.returncode, out), (2, ""))
            self.assertRegex(err, "no GPU was found: CUDA_VISIBLE_DEVICES is ''.* --workers=N")
            launcher = self.start(0, (1111, 2222), folder, "--workers=1")
            self.assertEqual((launcher.communicate(timeout=60)[1], launcher.returncode), ("", 0))
        self.assertIn("0", os.listdir(folder))

    def test_a_tf_config_that_is_refused_is_one_line(self):
        done = subprocess.run(
            [sys.executable, str(NODE), "--workers=1", "--", "x"],
            env=os.environ | {"TF_CONFIG": tf_config({"worker": 3}), "CUDA_VISIBLE_DEVICES": ""},
            capture_output=True,
            text=True,
            timeout=60,
        )
        self.assertEqual(done.returncode, 2)
        self.assertRegex(done.stderr, "^node.py: TF_CONFIG has 3 as 'worker'; .*\n$")

    def visible(self, devices):
        return mock.patch.dict(os.environ, {"CUDA_VISIBLE_DEVICES": devices})


@pytest.mark.slow
class TrainTest(tf.test.TestCase):
    def test_chief_and_worker_with_a_launcher_each_train_to_the_end(self):
        self.check_trained([f"localhost:{port}" for port in workers.free_ports(2)], each=1)

    @pytest.mark.extended
    def test_two_processes_of_each_of_two_hosts_train_on_the_ports_behind_the_named_ones(self):
        # TensorFlow listens on all addresses of a machine, so two hosts on it need other ports.
        ports = (p for p in workers.free_ports(20) if all(is_free(p + n) for n in range(4)))
        port = next(ports)
        self.check_trained([f"127.0.0.1:{port}", f"127.0.0.2:{port + 2}"], each=2)

    def check_trained(self, addresses, each):
        """Starts the launcher of `each` workers on two hosts."""
        folder = tempfile.mkdtemp(dir=self.get_temp_dir())
        run = RunDir(os.path.join(folder, "run"))
        stages = [runs.SETTINGS["stages"][0] | {"epochs": 1}]
        settings = runs.settings(runs.make_data(folder), stages=stages)
        cluster = {"chief": addresses[:1], "worker": addresses[1:]}
        flags = f"--params_override={settings!r}", f"--workdir={run.path}"
        launchers = [start(tf_config(cluster, kind), each, "train", *flags) for kind in cluster]
        try:
            ended = [launcher.communicate(timeout=LIMIT_S) for launcher in launchers]
        finally:
            for launcher in launchers:
                launcher.kill()
        self.assertEqual([launcher.returncode for launcher in launchers], [0, 0], ended)
        result = json.loads(ended[0][0].splitlines()[-1])
        self.assertEqual((result["workers"], result["steps"]), (2 * each, 4))
        self.assertEqual(ended[1][0], "")  # the result is the chief's
        steps = [line["step"] for line in read(run.metrics) if line["event"] == "train"]
        self.assertEqual(steps, [1, 2, 3, 4])


def is_free(port):
    """Whether nothing listens on a port of any address of this machine."""
    with socket.socket() as one:
        try:
            one.bind(("", port))
        except OSError:
            return False
    return True


def start(config, workers, *command):
    """Starts the launcher of a host's workers on the CPU."""
    return subprocess.Popen(
        [sys.executable, str(NODE), f"--workers={workers}", "--threads=1", "--", *command],
        env=os.environ | {"TF_CONFIG": config, "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


if __name__ == "__main__":
    tf.test.main()
