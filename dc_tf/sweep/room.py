"""How many jobs of a sweep this machine has room for at a time.

    found = chosen(0, prepared, workers=1, threads=None)
    found.at_once, found.why          # 4, "4 GPUs, 1 for each"

On CPUs each worker gets cores of its own, with GPUs one GPU; each job has the host memory that its
training is planned with. Memory of evaluations is not planned.
"""

import dataclasses

from dc_tf import shipped
from dc_tf.memory import free_memory, size


@dataclasses.dataclass(frozen=True)
class Room:
    """A number of jobs at a time.

    Attributes:
        at_once: the number.
        why: what limits it, for people; "" if it was given.
    """

    at_once: int
    why: str = ""

    @property
    def text(self) -> str:
        """A line that says which and why; "" if the number was given."""
        return f"{self.at_once} at a time, the most for {self.why}" if self.why else ""


@dataclasses.dataclass(frozen=True)
class Machine:
    """What jobs share.

    Attributes:
        cores: that this process may use.
        gpus: number of GPUs.
        free_bytes: of host memory.
    """

    cores: int
    gpus: int
    free_bytes: int


def chosen(at_once: int, prepared, workers: int, threads: int | None) -> Room:
    """A given number, or for 0 the most that there is room for.

    Args:
        at_once: of the command.
        prepared: run.Prepared.
        workers: processes of a job.
        threads: of each worker, given or of an earlier start; None for its share of the cores.
    """
    if at_once:
        return Room(at_once)
    launcher = shipped.launcher()
    machine = Machine(launcher.cores(), len(launcher.visible_gpus()), free_memory())
    planned = [_planned_bytes(run, workers, machine.gpus > 0) for run in prepared.runs]
    return most(machine, workers, threads, planned)


def most(machine: Machine, workers: int, threads: int | None, planned: list[int]) -> Room:
    """The most jobs at a time, at least one.

    Args:
        machine: of all jobs.
        workers: processes of a job.
        threads: of each worker on CPUs; None for one at least.
        planned: host bytes of a worker of each run; not empty.
    """
    job_bytes, each = workers * max(planned), workers * (threads or 1)
    if machine.gpus:
        devices = machine.gpus // workers, f"{_count(machine.gpus, 'GPU')}, {workers} for each"
    else:
        cores = _count(machine.cores, "core")
        devices = machine.cores // each, f"{cores}, at least {each} for each"
    memory = f"{size(machine.free_bytes)} of free memory, {size(job_bytes)} planned for each"
    limits = [
        devices,
        (machine.free_bytes // job_bytes, memory),
        (len(planned), _count(len(planned), "run")),
    ]
    count, why = min(limits, key=lambda limit: limit[0])
    return Room(max(1, count), why)


def _count(number, what):
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _planned_bytes(run, workers, on_gpu) -> int:
    """Host memory of a worker; types that are not chosen yet are planned as float32."""
    from dc_tf.planning.plan import make_plan
    from dc_tf.sweep.precisions import Precisions

    experiment = Precisions("float32", "float32").applied(run.experiment)
    return make_plan(experiment, run.rows, workers, on_gpu).host_bytes
