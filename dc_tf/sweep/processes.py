"""The processes of a sweep: one training or evaluation each, alone or as several workers.

    slots = make_slots(at_once=2, workers=1)
    process = start(["train", "--workdir=RUN"], slots[0], "RUN.log")
    process.poll()                                   # None, then its exit code

Several workers of one job are started by `dc_tf launch`. Every process has a session of its own, so
that Ctrl-C reaches the sweep alone, and ends with the sweep if that is killed.
"""

import contextlib
import dataclasses
import functools
import os
import pathlib
import signal
import subprocess
import sys

from dc_tf import shipped
from dc_tf.distributed.task import environment_without_task
from dc_tf.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Slot:
    """The share of the machine that one job at a time computes on.

    Attributes:
        workers: processes of a job.
        threads: of each worker; None with GPUs.
        gpus: their names, one for each worker; () for CPUs.
    """

    workers: int
    threads: int | None
    gpus: tuple[str, ...] = ()

    def command(self, arguments) -> list[str]:
        """The command line of a job: arguments of dc_tf, on all workers of the slot."""
        program = [sys.executable, "-m", "dc_tf"]
        if self.workers == 1:
            return [*program, *arguments]
        threads = [f"--threads={self.threads}"] if self.threads else []
        return [*program, "launch", f"--workers={self.workers}", *threads, "--", *arguments]

    def environment(self) -> dict[str, str]:
        """The environment of a job."""
        found = environment_without_task()
        root = pathlib.Path(__file__).resolve().parents[2]
        found["PYTHONPATH"] = os.pathsep.join(filter(None, [str(root), found.get("PYTHONPATH")]))
        found["PYTHONUNBUFFERED"] = "1"
        if self.gpus:
            found["CUDA_VISIBLE_DEVICES"] = ",".join(self.gpus)
        if self.threads:
            found["TF_NUM_INTRAOP_THREADS"] = found["OMP_NUM_THREADS"] = str(self.threads)
            # At least two: an operation that waits must not hold the only thread.
            found["TF_NUM_INTEROP_THREADS"] = str(max(2, self.threads))
        return found


def make_slots(at_once: int, workers: int, threads: int | None = None) -> list[Slot]:
    """One slot for each job at a time; they share the GPUs or the cores of this machine.

    Args:
        at_once: number of slots.
        workers: processes of a job.
        threads: of each worker on CPUs, on which rounding depends; None for its share of the cores.

    Raises:
        ConfigError: there are fewer GPUs than workers.
    """
    launcher = shipped.launcher()
    gpus, wanted = launcher.visible_gpus(), at_once * workers
    if not gpus:
        return [Slot(workers, threads or max(1, launcher.cores() // wanted))] * at_once
    if wanted > len(gpus):
        raise ConfigError(
            f"--at_once={at_once} and --workers={workers} need {wanted} GPUs, {len(gpus)} are "
            "visible; lower one of them, or set CUDA_VISIBLE_DEVICES=-1 to use CPUs."
        )
    return [
        Slot(workers, None, tuple(gpus[index * workers : (index + 1) * workers]))
        for index in range(at_once)
    ]


class Process:
    """A started job."""

    def __init__(self, process):
        self._process = process

    def poll(self) -> int | None:
        """The exit code as a shell gives it; None while it runs."""
        code = self._process.poll()
        return 128 - code if code is not None and code < 0 else code

    def terminate(self) -> None:
        """Asks it to save and end."""
        if self.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Ends it, with the processes that it has started."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def start(arguments, slot: Slot, log: str) -> Process:
    """Starts a job in the background.

    Args:
        arguments: list of str, a command of dc_tf with flags.
        slot: where it computes.
        log: file that its output is appended to.
    """
    with open(log, "ab") as output:
        return Process(
            subprocess.Popen(
                slot.command(arguments),
                env=slot.environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=functools.partial(shipped.launcher().die_with, os.getpid()),
            )
        )
