"""Runs the jobs of a sweep, several at a time, and continues when one fails.

    failures = run_jobs(jobs, slots, folder)      # {name of a job: why it has no result}

A job starts when a slot is free and the jobs that it needs are done; jobs start in their order. On
a request to stop, running jobs are asked to save and end.
"""

import os
import sys
import time

from dc_tf.atomic import make_folder
from dc_tf.distributed import stop_request
from dc_tf.errors import Preempted
from dc_tf.sweep import processes

POLL_S = 0.1
# Time that running jobs have to save and end after a request to stop.
_GRACE_S = 60.0
_REPEAT_S = 3.0  # a process that starts can miss a signal


def run_jobs(jobs, slots, folder) -> dict[str, str]:
    """Runs all jobs whose results are missing.

    Args:
        jobs: list of jobs.Job, each after those that it needs.
        slots: list of processes.Slot; so many jobs run at a time.
        folder: SweepFolder, for logs.

    Returns:
        {name of a job: reason}, of those that failed or need one that failed.

    Raises:
        Preempted: the process was asked to stop, and so were the running jobs.
    """
    schedule = _Schedule(jobs, slots, folder)
    try:
        schedule.run()
    finally:
        schedule.kill()
    return schedule.failures


class _Schedule:
    def __init__(self, jobs, slots, folder):
        self.failures = {}
        self._folder = folder
        self._free = list(slots)
        self._running = {}  # {name: (job, process, slot, time of its start)}
        self._done = {job.name for job in jobs if job.is_done()}
        self._waiting = [job for job in jobs if job.name not in self._done]
        self._count = len(self._waiting)
        self._ended = 0
        if self._done:
            say(f"{len(self._done)} of {len(jobs)} trainings and evaluations are done already")

    def run(self):
        while self._waiting or self._running:
            if stop_request.requested():
                self._stop()
            self._collect()
            self._start_ready()
            time.sleep(POLL_S)

    def kill(self):
        for _, process, *_ in self._running.values():
            process.kill()

    def _start_ready(self):
        for job in list(self._waiting):
            failed = [name for name in job.needs if name in self.failures]
            if failed:
                self._waiting.remove(job)
                self._fail(job, f"needs {failed[0]}, which failed")
            elif self._free and self._done.issuperset(job.needs):
                self._waiting.remove(job)
                self._start(job)

    def _start(self, job):
        log = self._folder.log(job.name)
        make_folder(os.path.dirname(log))
        job.prepare()
        slot = self._free.pop(0)
        process = processes.start(job.arguments, slot, log)
        self._running[job.name] = job, process, slot, time.monotonic()
        say(f"{job.name}: started")

    def _collect(self):
        for job, process, slot, began in list(self._running.values()):
            code = process.poll()
            if code is None:
                continue
            del self._running[job.name]
            self._free.append(slot)
            if code:
                log = self._folder.log(job.name)
                self._fail(job, f"ended with exit code {code}: {last_message(log)}; log: {log}")
            else:
                job.finish()
                self._done.add(job.name)
                self._ended += 1
                seconds = time.monotonic() - began
                say(f"{job.name}: done in {seconds:.0f} s ({self._ended} of {self._count})")

    def _fail(self, job, reason):
        self.failures[job.name] = reason
        self._ended += 1
        say(f"{job.name}: {reason}")

    def _stop(self):
        """Asks running jobs to save and end; raises Preempted."""
        until, ask_at = time.monotonic() + _GRACE_S, 0.0
        while self._running and time.monotonic() < until:
            if time.monotonic() >= ask_at:
                ask_at = time.monotonic() + _REPEAT_S
                for _, process, *_ in self._running.values():
                    process.terminate()
            for job, process, *_ in list(self._running.values()):
                code = process.poll()
                if code is not None:
                    del self._running[job.name]
                    if code == 0:
                        job.finish()
                        self._done.add(job.name)
            time.sleep(POLL_S)
        left = len([job for job in self._waiting if job.name not in self.failures])
        raise Preempted(
            f"the sweep was asked to stop; {len(self._done)} trainings and evaluations are done, "
            f"{left} have not begun, and the interrupted ones resume"
        )


def last_message(log: str) -> str:
    """The last error of dc_tf in a log, else its last line."""
    with open(log, encoding="utf-8", errors="replace") as file:
        lines = [line.strip() for line in file if line.strip()]
    errors = [line for line in lines if "dc_tf: " in line]
    return (errors or lines or ["no output"])[-1].rstrip(".")


def say(text: str) -> None:
    """Prints a line on the progress of the sweep."""
    print(f"sweep: {text}", file=sys.stderr, flush=True)
