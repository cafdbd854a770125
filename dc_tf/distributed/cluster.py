"""From TF_CONFIG to a strategy and communicators; one process is one worker is one replica.

cluster = connect()
with cluster.strategy.scope(): ...
cluster.world.all_sum(tensor)
cluster.group((0, 1)).all_sum(tensor)
"""

from __future__ import annotations

import contextlib
import functools
import os

import numpy as np
import tensorflow as tf
from absl import logging

from dc_tf import kernels
from dc_tf.distributed.collectives import Collective, Communicator, Link, Solo, all_gather
from dc_tf.distributed.ports import check_own_port
from dc_tf.distributed.task import TaskSpec, task_from_environment
from dc_tf.errors import ConfigError

# Above the keys that tf.distribute counts up from 1 for itself.
_FIRST_GROUP_KEY = 1_000_000
# TensorFlow's 10 s would end a job of which one host is busy for so long. The watchdog, which
# notices the end of a process at once, has a limit of its own.
SILENT_S = 30


class Cluster:
    """This worker's view of the world.

    Attributes:
        task: TaskSpec of this worker.
        rank, size: this worker's place among all W workers.
        strategy: tf.distribute.MultiWorkerMirroredStrategy with one replica here.
        world: the communicator of all workers.
    """

    def __init__(self, task: TaskSpec, strategy: tf.distribute.Strategy, link: Link):
        self.task = task
        self.rank = task.rank
        self.size = task.size
        self.strategy = strategy
        self._link = link
        self._groups: dict[tuple[int, ...], Communicator] = {}
        self.world = self.group(tuple(range(self.size)))

    @property
    def is_chief(self) -> bool:
        return self.rank == 0

    def group(self, ranks: tuple[int, ...]) -> Communicator:
        """The communicator of neighbouring ranks, this one among them; made once."""
        if ranks not in self._groups:
            self._groups[ranks] = self._new_group(ranks)
        return self._groups[ranks]

    def leave(self) -> None:
        """Waits for all workers; call it before the process exits, which would break their sums.

        A worker that has exited has passed the second barrier. All workers had entered that, so
        all had passed the first. A failure of the second barrier means only this.
        """
        self.world.barrier()
        try:
            self.world.barrier()
        except tf.errors.OpError as gone:
            logging.debug("a worker has left already: %s", gone.message)

    def _new_group(self, ranks: tuple[int, ...]) -> Communicator:
        if list(ranks) != list(range(ranks[0], ranks[-1] + 1)) or self.rank not in ranks:
            raise ValueError(f"worker {self.rank} needs neighbouring ranks, not {ranks}.")
        if len(ranks) == 1:
            return Solo()
        # First rank and length identify a run of neighbours.
        key = _FIRST_GROUP_KEY + ranks[0] * (self.size + 1) + len(ranks)
        return Collective(self.rank - ranks[0], len(ranks), key, self._link)


def connect(within_s: float | None = None) -> Cluster:
    """Joins the cluster that TF_CONFIG describes; returns when all its workers have.

    Call it before any other use of TensorFlow in this process.

    Args:
        within_s: seconds to wait for the others; None waits as long as TensorFlow does, an hour.

    Raises:
        ConfigError: TF_CONFIG is wrong, this worker's port is in use, or this host has fewer GPUs
            than workers.
        tf.errors.OpError: not all workers joined in time.
    """
    task = task_from_environment()
    check_own_port(task)
    os.environ["TF_CONFIG"] = task.tf_config()  # TensorFlow takes fewer forms of it
    gpu = _claim_gpu(task)
    if not gpu:
        _let_idle_threads_sleep()
    # float32 means float32: clustering and comparisons between machines rely on it.
    tf.config.experimental.enable_tensor_float_32_execution(False)
    hint = "nccl" if gpu else "ring"
    options = tf.distribute.experimental.CommunicationOptions(
        implementation=tf.distribute.experimental.CommunicationImplementation(hint.upper())
    )
    logging.info("worker %d of %d waits for %s", task.rank, task.size, ", ".join(task.addresses))
    with _joining(within_s):
        strategy = tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)
    job, index = task.job[task.rank]
    prefix = f"/job:{job}/replica:0/task:{index}" if task.size > 1 else ""
    device = f"{prefix}/device:{'GPU' if gpu else 'CPU'}:0"
    with tf.device(device):
        order = tf.Variable(0.0, trainable=False, name="order_of_exchanges")
    cluster = Cluster(task, strategy, Link(device, hint, order))
    _compare_kernels(cluster)
    return cluster


def _compare_kernels(cluster):
    """Warns on the chief where some workers compute with oneDNN and others do not."""
    with_onednn = all_gather(kernels.enabled(), cluster.world)
    apart = np.flatnonzero(with_onednn != with_onednn[0])
    if cluster.is_chief and apart.size:
        logging.warning(
            "worker %d computes with %s kernels, worker 0 with %s: results depend on which worker "
            "has which images, and the faster workers wait; set %s=0, or 1, on all workers.",
            apart[0],
            kernels.name(with_onednn[apart[0]]),
            kernels.name(with_onednn[0]),
            kernels.VARIABLE,
        )


def _let_idle_threads_sleep():
    """Makes idle threads of TensorFlow sleep at once instead of spinning for a while.

    Spinning serves a host that feeds a GPU. On CPUs it takes time from the step, from decoding, and
    from other workers on the same cores.
    """
    options = tf.compat.v1.ConfigProto()
    options.experimental.disable_thread_spinning = True
    # There is no public API; the context merges its own settings over these.
    _context()._config = options


def _context():
    # Imported here, since commands that connect no workers import this module, too.
    from tensorflow.python.eager import context

    return context.context()


@contextlib.contextmanager
def _joining(within_s):
    """Inside, creating a strategy waits at most `within_s` for the other workers; None: an hour.

    TensorFlow then takes a worker for lost that is silent for SILENT_S. The strategy configures
    TensorFlow's coordination service itself and takes no such arguments.
    """
    timeouts = {"heartbeat_timeout_in_ms": 1000 * SILENT_S}
    if within_s is not None:
        timeouts["cluster_register_timeout_in_ms"] = int(1000 * within_s)
    context = _context()
    configure = context.configure_coordination_service
    context.configure_coordination_service = functools.partial(configure, **timeouts)
    try:
        yield
    finally:
        del context.configure_coordination_service


def _claim_gpu(task: TaskSpec):
    """Makes this worker's GPU the only visible one; None on a host without GPUs."""
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return None
    # Launchers that give each worker a GPU make only that one visible.
    assigned = len(gpus) == 1 and "CUDA_VISIBLE_DEVICES" in os.environ
    index = 0 if assigned else task.local_index
    if index >= len(gpus):
        raise ConfigError(
            f"TF_CONFIG puts at least {index + 1} workers on this host, which has "
            f"{len(gpus)} visible GPUs; give each worker one, or set CUDA_VISIBLE_DEVICES=-1 to "
            "use CPUs."
        )
    tf.config.set_visible_devices(gpus[index], "GPU")
    tf.config.experimental.set_memory_growth(gpus[index], True)
    return gpus[index]
