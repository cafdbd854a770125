"""Python processes that start at once: forked from one that has imported TensorFlow and dc_tf.

    process = fork_server.start([sys.executable, "-m", "dc_tf", "train", ...], env=environment)
    process.wait(60)

Importing takes seconds, more than most tests. What is forked has imported and done nothing else: no
thread, no operation of TensorFlow. It continues as the interpreter would have: as `__main__`, with
arguments, environment and files of its own. There are two parents, which differ in the order of
their sets of strings, as processes of a real job do; `kin` chooses.

A process that is killed, or the end of the tests, leaves none of them behind.
"""

import contextlib
import ctypes
import functools
import os
import pickle
import runpy
import select
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading

_NEW_NETWORK = 0x40000000
_SUPPORT = os.path.dirname(os.path.abspath(__file__))
_REPOSITORY = os.path.dirname(os.path.dirname(_SUPPORT))
# As every worker of the tests has it, since libraries read it when they are loaded.
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def start(command, env, stdin=None, stdout=None, stderr=None, namespace=None, kin=0):
    """Starts `sys.executable` on a file or, with -m, a module; returns a Process.

    Args:
        command: list of str, without other flags of the interpreter.
        env: dict, the whole environment.
        stdin, stdout, stderr: file numbers or files; None for nothing.
        namespace: file of a network namespace that it runs in.
        kin: number; those of even and of odd ones have different parents.
    """
    assert command[0] == sys.executable
    request = {"arguments": command[1:], "env": env, "namespace": namespace}
    with open(os.devnull, "r+b") as nothing:
        files = [nothing if file is None else file for file in (stdin, stdout, stderr)]
        return _parents()[kin % 2].start(request, files)


def run(command, env, timeout) -> subprocess.CompletedProcess:
    """What `subprocess.run` does with captured text, for what `start` can start."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = start(command, env, stdout=out, stderr=err)
        try:
            process.wait(timeout)
        finally:
            process.send_signal(signal.SIGKILL)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode())
        return subprocess.CompletedProcess(command, process.returncode, *texts)


class Process:
    """What subprocess.Popen is, as far as tests need it.

    Attributes:
        pid: process id.
        returncode: None while it runs; negative where a signal ended it.
    """

    def __init__(self, pid, end):
        self.pid = pid
        self.returncode = None
        self._end = end
        self._reads = threading.Lock()

    def poll(self):
        self._await(0)
        return self.returncode

    def wait(self, timeout=None):
        self._await(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
        return self.returncode

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def _await(self, timeout_s):
        if self.returncode is None and select.select([self._end], [], [], timeout_s)[0]:
            with self._reads:  # Several threads may wait for one process.
                if self.returncode is None:
                    status = self._end.recv(4)
                    # Nothing comes from a parent that is gone, and its children are gone with it.
                    code = int.from_bytes(status, "little") if status else signal.SIGKILL
                    self.returncode = os.waitstatus_to_exitcode(code)


@functools.cache
def _parents():
    return _Parent(), _Parent()


class _Parent:
    """The process that the others are forked from, seen from the tests."""

    def __init__(self):
        self._log = tempfile.TemporaryFile()
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        paths = _REPOSITORY, _SUPPORT
        environment = os.environ | _ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(paths)}
        environment.pop("PYTHONHASHSEED", None)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, os.path.abspath(__file__), str(theirs.fileno())],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                pass_fds=[theirs.fileno()],
                preexec_fn=die_with_parent,
            )

    def start(self, request, files) -> Process:
        ours, theirs = socket.socketpair()
        with theirs, tempfile.TemporaryFile() as body:  # larger than a message may be
            body.write(pickle.dumps(request))
            body.flush()
            numbers = [file if isinstance(file, int) else file.fileno() for file in files]
            socket.send_fds(self._requests, [b"+"], [theirs.fileno(), body.fileno(), *numbers])
        pid = ours.recv(4)
        if not pid:
            self._log.seek(0)
            raise AssertionError(f"nothing was forked: {self._log.read().decode()[-3000:]}")
        return Process(int.from_bytes(pid, "little"), ours)


def die_with_parent():
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def _serve(requests):
    """Forks at each request and reports each end. Returns in a child: its request and files."""
    children = selectors.DefaultSelector()
    children.register(requests, selectors.EVENT_READ)
    while True:
        for key, _ in children.select():
            if key.fileobj is not requests:
                _, status = os.waitpid(key.data[0], 0)
                with contextlib.suppress(BrokenPipeError):  # nobody holds the Process any more
                    key.data[1].send(status.to_bytes(4, "little"))
                key.data[1].close()
                children.unregister(key.fileobj)
                os.close(key.fileobj)
                continue
            message, numbers, *_ = socket.recv_fds(requests, 1, 8)
            if not message:
                os._exit(0)  # the tests are over, and with this process its children
            end, body, *files = numbers
            pid = os.fork()
            if not pid:
                children.close()
                return body, files
            end = socket.socket(fileno=end)
            end.send(pid.to_bytes(4, "little"))
            children.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, end))
            for number in (body, *files):
                os.close(number)


def _become(body, files):
    """Makes this process what the request says, up to the first line of its program."""
    die_with_parent()
    with open(body, "rb") as file:
        file.seek(0)
        request = pickle.loads(file.read())
    for number, file in enumerate(files):
        os.dup2(file, number)
    os.closerange(3, 1024)  # of the parent and of its other children
    os.environ.clear()
    os.environ.update(request["env"])
    if request["namespace"]:
        namespace = os.open(request["namespace"], os.O_RDONLY)
        if ctypes.CDLL(None, use_errno=True).setns(namespace, _NEW_NETWORK):
            raise OSError(ctypes.get_errno(), "setns", request["namespace"])
        os.close(namespace)
    return request["arguments"]


def _import():
    """What workers would import one by one."""
    import cloudpickle  # noqa: F401
    import orbit  # noqa: F401
    import sklearn.svm  # noqa: F401

    from dc_tf import keras  # noqa: F401
    from dc_tf.clustering.job import run as kmeans_job  # noqa: F401
    from dc_tf.evaluation import models, tasks  # noqa: F401
    from dc_tf.training import loop  # noqa: F401


def _continue_as(arguments):
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    _import()
    _continue_as(_become(*_serve(socket.socket(fileno=int(sys.argv[1])))))
