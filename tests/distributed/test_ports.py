"""A port in use is named, with the process that has it, before gRPC starts."""

import socket

import tensorflow as tf
from ports import held_port

from dc_tf.distributed import ports
from dc_tf.distributed.task import TaskSpec
from dc_tf.errors import ConfigError


class PortsTest(tf.test.TestCase):
    def test_a_port_in_use_is_named_with_the_process_that_has_it(self):
        with held_port() as (port, holder):
            task = TaskSpec((f"localhost:{port}", "localhost:1"))
            with self.assertRaises(ConfigError) as caught:
                ports.check_own_port(task)
        text = str(caught.exception)
        self.assertStartsWith(text, f"port {port} of this worker, localhost:{port} in TF_CONFIG")
        self.assertIn(f"in use by process {holder} (", text)
        self.assertEndsWith(text, "change the port on all workers.")

    def test_a_free_port_passes_and_stays_free(self):
        with socket.create_server(("", 0)) as other:
            port = other.getsockname()[1]
        task = TaskSpec((f"localhost:{port}", "localhost:1"))
        ports.check_own_port(task)
        ports.check_own_port(task)

    def test_only_this_workers_own_port_counts_and_none_of_a_process_alone(self):
        with held_port() as (taken, _):
            taken = f"localhost:{taken}"
            with socket.create_server(("", 0)) as free:
                port = free.getsockname()[1]
            ports.check_own_port(TaskSpec((taken, f"localhost:{port}"), rank=1))
            ports.check_own_port(TaskSpec((taken,)))
            ports.check_own_port(TaskSpec())

    def test_a_port_of_this_process_itself_is_no_obstacle(self):
        with socket.create_server(("", 0)) as joined:
            port = joined.getsockname()[1]
            ports.check_own_port(TaskSpec((f"localhost:{port}", "localhost:1")))


if __name__ == "__main__":
    tf.test.main()
