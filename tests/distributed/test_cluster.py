"""Joining the cluster of TF_CONFIG."""

import json
import os
import subprocess
import sys

import pytest
import tensorflow as tf
import workers


class ConnectTest(tf.test.TestCase):
    @pytest.mark.slow
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
