"""Workers of a real `dc_tf` job as on a cluster: each on its own, nobody looking after it.

with Job(2, ["train", ...], folder) as job:
    job.wait_until("extract")
    job.signal(1, signal.SIGKILL)
    codes = job.wait(60)
job.log(0)
"""

import json
import os
import pathlib
import resource
import signal
import subprocess
import sys
import time

import fork_server
import workers

SLOWED = pathlib.Path(__file__).with_name("slowed.py")
START_S = 120


class Job:
    """The workers run from `with` on, and none of them longer.

    Args:
        size: number of workers.
        command: of dc_tf, with flags.
        folder: for logs.
        slow: (phase, seconds): where the workers take longer, and mark it; see `slowed.py`.
        hosts: namespaces.Hosts, one for each worker; by default all are on this host.
    """

    def __init__(self, size, command, folder, slow=None, hosts=None):
        self._size = size
        self._hosts = hosts
        self._command = command
        self._folder = pathlib.Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._slow = slow
        self._processes = []

    def __enter__(self):
        addresses = [f"localhost:{port}" for port in workers.free_ports(self._size)]
        if self._hosts:
            addresses = [f"{self._hosts.address(rank)}:2222" for rank in range(self._size)]
        for rank in range(self._size):
            self._processes.append(self._start(rank, addresses))
        return self

    def __exit__(self, *_):
        for process in self._processes:
            process.send_signal(signal.SIGKILL)
            process.wait()

    def wait_until_slow(self, ranks=None):
        """Returns when these workers, by default all, have come to the phase that is slow."""
        for rank in range(self._size) if ranks is None else ranks:
            self.wait_until(self._marker(rank).exists, f"worker {rank} came to {self._slow[0]}")

    def wait_for_step(self, step, workdir):
        """Returns when the run's metrics have come to a step."""
        path = pathlib.Path(workdir, "metrics.jsonl")
        self.wait_until(
            lambda: path.exists() and _last_step(path.read_text()) >= step, f"step {step} came"
        )

    def signal(self, rank, number):
        self._processes[rank].send_signal(number)

    def fill_disk(self, rank):
        """From now on all that a worker writes fails, its log too, as on a disk that is full."""
        resource.prlimit(self._processes[rank].pid, resource.RLIMIT_FSIZE, (0, 0))

    def wait(self, timeout_s, ranks=None) -> list[int]:
        """Exit codes of these workers, by default all, in order.

        Raises:
            AssertionError: one still runs after `timeout_s`.
        """
        until = time.monotonic() + timeout_s
        ranks = range(self._size) if ranks is None else ranks
        for rank in ranks:
            try:
                self._processes[rank].wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                raise AssertionError(
                    f"worker {rank} still runs after {timeout_s} s:\n{self.log(rank)[-3000:]}"
                ) from None
        return [self._processes[rank].returncode for rank in ranks]

    def codes(self) -> list[int | None]:
        """Exit codes of all workers so far."""
        return [process.poll() for process in self._processes]

    def ended(self) -> bool:
        return None not in self.codes()

    def phase(self, workdir, rank) -> str:
        """The phase in the worker's newest heartbeat file."""
        found = sorted(
            pathlib.Path(workdir, "heartbeats").glob(f"*/worker-{rank:05d}.json"),
            key=lambda path: path.stat().st_mtime,
        )
        return json.loads(found[-1].read_text())["phase"] if found else "start"

    def log(self, rank) -> str:
        """What a worker has written to its standard error."""
        return self._log(rank).read_text(errors="replace")

    def result(self) -> dict:
        """The chief's JSON line."""
        return json.loads((self._folder / "out-0").read_text().splitlines()[-1])

    def _start(self, rank, addresses):
        task = {"type": "worker", "index": rank}
        config = {"cluster": {"worker": addresses}, "task": task} if self._size > 1 else {}
        root = workers.REPOSITORY
        environment = os.environ | {
            "TF_CONFIG": json.dumps(config),
            "TF_NUM_INTRAOP_THREADS": "1",
            "TF_NUM_INTEROP_THREADS": "2",
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "PYTHONPATH": root + os.pathsep + os.path.join(root, "tests", "support"),
        }
        program = [sys.executable, "-m", "dc_tf"]
        if self._slow:
            phase, seconds = self._slow
            program = [sys.executable, str(SLOWED), phase, str(seconds), str(self._marker(rank))]
        with (
            open(self._folder / f"out-{rank}", "w") as out,
            open(self._log(rank), "w") as log,
        ):
            return fork_server.start(
                [*program, *self._command],
                environment,
                stdout=out,
                stderr=log,
                namespace=self._hosts and self._hosts.namespace(rank),
                kin=rank,
            )

    def wait_until(self, condition, what):
        """Returns when a condition holds, a function; `what` says so in an error."""
        until = time.monotonic() + START_S
        while not condition():
            ended = [r for r, process in enumerate(self._processes) if process.poll() is not None]
            if ended or time.monotonic() > until:
                log = self.log(ended[0] if ended else 0)[-3000:]
                raise AssertionError(f"before {what}, {ended or 'nobody'} ended:\n{log}")
            time.sleep(0.02)

    def _marker(self, rank):
        return self._folder / f"slow-{rank}"

    def _log(self, rank):
        return self._folder / f"log-{rank}"


def _last_step(text):
    lines = text.splitlines()
    return json.loads(lines[-1])["step"] if lines else -1
