"""TF_CONFIG is understood in its usual forms and refused, with an example, in others."""

import json
import os
import subprocess
import sys

import tensorflow as tf
import workers

from dc_tf.distributed.task import parse_tf_config
from dc_tf.errors import ConfigError


class TfConfigTest(tf.test.TestCase):
    def test_without_it_a_process_is_alone(self):
        for text in (None, "", "{}", "  "):
            self.assertEqual(parse_tf_config(text).size, 1)

    def test_a_chief_comes_before_the_workers(self):
        cluster = {"worker": ["b:1", "b:2"], "chief": ["a:1"]}
        text = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": 1}})
        task = parse_tf_config(text)
        self.assertEqual((task.rank, task.size, task.local_index), (2, 3, 1))
        self.assertEqual(task.addresses, ("a:1", "b:1", "b:2"))

    def test_what_cannot_be_understood_is_refused_with_what_would_work(self):
        worker = {"worker": ["a:1", "a:2"]}
        for text, message in [
            ("nonsense", "expected the form"),
            (json.dumps({"cluster": {"worker": "a:1"}, "task": {}}), "expected the form"),
            (json.dumps({"cluster": worker}), "expected the form"),
            (json.dumps({"cluster": worker, "task": {"type": "worker", "index": 2}}), "not one of"),
            (
                json.dumps({"cluster": {"ps": ["a:1"]}, "task": {"type": "ps", "index": 0}}),
                "'chief' and 'worker'",
            ),
        ]:
            with self.assertRaisesRegex(ConfigError, message):
                parse_tf_config(text)


class ConnectTest(tf.test.TestCase):
    def test_a_first_worker_that_is_gone_is_not_waited_for_longer_than_allowed(self):
        addresses = [f"localhost:{port}" for port in workers.free_ports(2)]
        config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": 1}}
        code = (
            "import tensorflow as tf\n"
            "from dc_tf.distributed.cluster import connect\n"
            "try: connect(within_s=2)\n"
            "except tf.errors.OpError as error: print('refused:', type(error).__name__)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"TF_CONFIG": json.dumps(config), "PYTHONPATH": workers.REPOSITORY},
            capture_output=True,
            text=True,
            timeout=120,
        )
        self.assertIn("refused:", done.stdout, done.stderr[-2000:])

    def test_idle_threads_of_a_worker_sleep_instead_of_taking_a_core(self):
        for size in (1, 2):
            self.assertEqual(workers.on_cluster(size, threads_sleep), [True] * size)


def threads_sleep(cluster):
    """Whether TensorFlow's threads were made like that on this worker."""
    from tensorflow.python.eager import context

    del cluster
    return context.get_config().experimental.disable_thread_spinning


if __name__ == "__main__":
    tf.test.main()
