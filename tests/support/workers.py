"""Runs a function on several real workers: processes joined by TF_CONFIG on localhost.

The processes of the last calls are kept warm and reused, since starting TensorFlow costs more than
many tests; at most seven, since each holds hundreds of MiB, and several processes run tests at a
time. A worker that raises or exceeds the time limit ends its whole pool, by process id.

    def share(comm, x):                        # at module level of the test
        return comm.all_sum(x[comm.rank]).numpy()

    results = workers.on_workers(4, share, x)  # by rank
"""

import atexit
import concurrent.futures
import contextlib
import json
import os
import pathlib
import pickle
import signal
import socket
import sys
import tempfile
import traceback

import cloudpickle
import fork_server

_SUPPORT = os.path.dirname(os.path.abspath(__file__))
REPOSITORY = os.path.dirname(os.path.dirname(_SUPPORT))


def on_workers(n, function, *args, timeout_s=300):
    """`[function(world communicator, *args) for each of n workers]`, run in parallel."""
    return on_cluster(n, _with_world, function, args, timeout_s=timeout_s)


def on_cluster(n, function, *args, timeout_s=300):
    """`[function(cluster, *args) for each of n workers]`, run in parallel."""
    pool = _pools.get(n)
    try:
        return pool.call(function, args, timeout_s)
    except BaseException:
        _pools.end(pool)
        raise


def free_ports(n):
    """n ports that were free a moment ago."""
    sockets = [socket.socket() for _ in range(n)]
    for s in sockets:
        s.bind(("localhost", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def hear_interrupts(test):
    """Until `test` ends, this process and those it starts hear Ctrl-C, as in a terminal.

    What a script runs in the background, tests too, does not.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    test.addCleanup(signal.signal, signal.SIGINT, before)


def worker_of(launcher, index):
    """Process id of a worker that `launch/local.py` started, found by its TF_CONFIG."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            stat = pathlib.Path("/proc", pid, "stat").read_text()
            environment = pathlib.Path("/proc", pid, "environ").read_text()
        except (OSError, UnicodeDecodeError):
            continue
        child = int(stat.rpartition(")")[2].split()[1]) == launcher.pid
        if child and f'"index": {index}' in environment:
            return int(pid)
    raise AssertionError("the worker is not running")


def _with_world(cluster, function, args):
    return function(cluster.world, *args)


class _Pools:
    """Of each size the pool that was used last, as long as all have few processes."""

    def __init__(self, most):
        self._most = most
        self._by_size = {}  # the one used last comes last
        atexit.register(self.end_all)

    def get(self, n):
        pool = self._by_size.pop(n, None)
        while self._by_size and n + sum(self._by_size) > self._most:
            self.end(next(iter(self._by_size.values())))
        self._by_size[n] = pool or _Pool(n)
        return self._by_size[n]

    def end(self, pool):
        self._by_size.pop(pool.size, None)
        pool.end()

    def end_all(self):
        for pool in list(self._by_size.values()):
            self.end(pool)


_pools = _Pools(most=7)  # one, two and four


class _Pool:
    def __init__(self, n):
        self.size = n
        addresses = [f"localhost:{port}" for port in free_ports(n)]
        self._logs = [tempfile.TemporaryFile() for _ in range(n)]
        self._workers = [self._start(addresses, i) for i in range(n)]
        self._threads = concurrent.futures.ThreadPoolExecutor(n)

    def _start(self, addresses, index):
        task = {"type": "worker", "index": index}
        config = {"cluster": {"worker": addresses}, "task": task} if len(addresses) > 1 else {}
        environment = os.environ | {
            "TF_CONFIG": json.dumps(config),
            "TF_NUM_INTRAOP_THREADS": "1",
            "TF_NUM_INTEROP_THREADS": "2",
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "PYTHONPATH": REPOSITORY + os.pathsep + _SUPPORT,
        }
        return _Worker(environment, self._logs[index], index)

    def call(self, function, args, timeout_s):
        for part in (function, *args):
            if hasattr(part, "__module__") and callable(part):
                module = sys.modules.get(part.__module__)
                if module is not None and module.__name__ != __name__:
                    cloudpickle.register_pickle_by_value(module)
        request = cloudpickle.dumps((_Function(function), args))
        futures = [self._threads.submit(_exchange, w, request) for w in self._workers]
        done, waiting = concurrent.futures.wait(
            futures, timeout_s, return_when=concurrent.futures.FIRST_EXCEPTION
        )
        if waiting and all(future.exception() is None for future in done):
            late = [i for i, future in enumerate(futures) if future in waiting]
            raise TimeoutError(f"workers {late} gave no answer in {timeout_s} s.\n{self._tails()}")
        for index, future in enumerate(futures):
            if future in done and future.exception() is not None:
                raise AssertionError(
                    f"worker {index} failed: {future.exception()}\n{self._tails()}"
                )
        return [future.result() for future in futures]

    def end(self):
        for worker in self._workers:
            worker.process.send_signal(signal.SIGKILL)
            worker.process.wait()
        self._threads.shutdown()  # their reads have ended with the processes
        for worker in self._workers:
            worker.close()
        for log in self._logs:
            log.close()

    def _tails(self):
        parts = []
        for index, log in enumerate(self._logs):
            size = log.seek(0, os.SEEK_END)
            log.seek(max(0, size - 2000))
            parts.append(f"--- log of worker {index}\n{log.read().decode(errors='replace')}")
        return "\n".join(parts)


class _Worker:
    """A process with a pipe to it and a pipe from it."""

    def __init__(self, environment, log, index):
        theirs, ours = os.pipe()
        self.requests = open(ours, "wb")
        ours, answers = os.pipe()
        self.answers = open(ours, "rb")
        command = [sys.executable, os.path.abspath(__file__)]
        self.process = fork_server.start(command, environment, theirs, answers, log, kin=index)
        os.close(theirs)
        os.close(answers)

    def close(self):
        self.answers.close()
        with contextlib.suppress(BrokenPipeError):  # half a request may be left for the dead
            self.requests.close()


class _Function:
    """Pickles a function of this module by reference to `workers`, others by value."""

    def __init__(self, function):
        own = function.__module__ == __name__
        self._function = None if own else function
        self._name = function.__name__ if own else None

    def __call__(self, *args):
        return (self._function or globals()[self._name])(*args)

    def __reduce__(self):
        return _rebuild, (self._function, self._name)


def _rebuild(function, name):
    return function or globals()[name]


def _exchange(worker, request):
    worker.requests.write(len(request).to_bytes(8, "little") + request)
    worker.requests.flush()
    size = worker.answers.read(8)
    if len(size) < 8:
        raise RuntimeError(f"the process ended with code {worker.process.wait()}")
    failed, result = pickle.loads(worker.answers.read(int.from_bytes(size, "little")))
    if failed:
        raise RuntimeError(result)
    return result


def _serve():
    """The worker's side: answers requests until standard input closes."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever libraries print goes to the log
    from dc_tf.distributed.cluster import connect

    cluster = connect()
    while len(size := sys.stdin.buffer.read(8)) == 8:
        function, args = pickle.loads(sys.stdin.buffer.read(int.from_bytes(size, "little")))
        try:
            answer = (False, function(cluster, *args))
        except BaseException:
            answer = (True, traceback.format_exc())
        data = cloudpickle.dumps(answer)
        answers.write(len(data).to_bytes(8, "little") + data)
        answers.flush()


if __name__ == "__main__":
    sys.modules["workers"] = sys.modules["__main__"]
    _serve()
