"""Runs a small experiment under random faults and compares it with an undisturbed run.

    python benchmarks/chaos.py --faults=100 --seed=0 --output=benchmarks/results/chaos.md

Two workers train on generated pictures: RotNet, two clusterings, DeeperCluster. At a random moment
one worker, or all, is killed, suspended or asked to stop, or its disk is full; or the newest
checkpoint is truncated before the next start. All workers are restarted until the run ends; then
another run begins, until `--faults` faults have been injected. Each run must end with the weights,
heads and optimizers of the undisturbed run, bit for bit, and every surviving worker must exit by
itself within `--limit_s`.
"""

import collections
import json
import os
import pathlib
import random
import shutil
import signal
import sys
import tempfile
import time

from absl import app, flags

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests" / "support"))
import jobs
import runs

from dc_tf.run_dir import RunDir
from dc_tf.training.checkpoint import complete_checkpoints

FLAGS = flags.FLAGS
flags.DEFINE_integer("faults", 100, "Number of faults.", lower_bound=1)
flags.DEFINE_integer("seed", 0, "Seed of kinds, workers and moments of the faults.")
flags.DEFINE_list(
    "kinds",
    ["kill", "kill", "suspend", "stop one", "stop all", "truncate", "full disk"],
    "Kinds of faults to draw from; one named twice is drawn twice as often.",
)
flags.DEFINE_enum("exchange", "auto", ["auto", "gradients", "factors"], "As model.exchange.")
flags.DEFINE_enum("exchange_dtype", "float32", ["float32", "bfloat16"], "As model.exchange_dtype.")
flags.DEFINE_float("limit_s", 90.0, "Seconds within which the surviving workers must exit.")
flags.DEFINE_float("timeout_s", 6.0, "Seconds after which a suspended worker is reported.")
flags.DEFINE_string("output", None, "Markdown file for the table.")

WORKERS = 2
# Slows everything down by this factor, so that faults hit all phases.
SLOW = ("", 0.04)
DONE, FAILED, PREEMPTED, HELD_UP = 0, 1, 42, 43


def main(_) -> None:
    unknown = sorted(set(FLAGS.kinds) - set(FAULTS))
    if unknown:
        sys.exit(f"--kinds has {', '.join(unknown)}; there are {', '.join(FAULTS)}.")
    folder = tempfile.mkdtemp(prefix="dc_tf-chaos-")
    try:
        chaos = Chaos(folder, random.Random(FLAGS.seed))
        while chaos.faults < FLAGS.faults:
            chaos.run()
            if FLAGS.output:
                pathlib.Path(FLAGS.output).write_text(chaos.report())
    finally:
        shutil.rmtree(folder)
    print(chaos.report())
    print(json.dumps({"faults": chaos.faults, "runs": chaos.runs, "lost": 0}))


class Chaos:
    """Runs an experiment under faults.

    Attributes:
        faults, runs: number of faults and runs so far.
    """

    def __init__(self, folder, chance):
        self._folder = folder
        self._chance = chance
        self.faults = self.runs = 0
        self._kinds = collections.Counter()
        self._phases = collections.Counter()
        self._slowest = 0.0
        data = runs.make_data(folder)
        model = {"exchange": FLAGS.exchange, "exchange_dtype": FLAGS.exchange_dtype}
        model = {**runs.SETTINGS["model"], **model}
        self._settings = runs.settings(data, watchdog={"timeout_s": FLAGS.timeout_s}, model=model)
        started = time.monotonic()
        whole = os.path.join(folder, "whole")
        with self._job(whole) as job:
            _expect(job.wait(600) == [DONE] * WORKERS, job)
        self._expected = runs.end_state(whole)
        self._seconds = time.monotonic() - started
        note(f"undisturbed: {self._seconds:.0f} s")

    def run(self) -> None:
        """One run until it ends, with faults as long as any are left."""
        workdir = os.path.join(self._folder, f"run-{self.runs}")
        while True:
            with self._job(workdir) as job:
                if self.faults < FLAGS.faults and self._disturb(job, workdir):
                    continue
                _expect(job.wait(600) == [DONE] * WORKERS, job)
                break
        state = runs.end_state(workdir)
        different = [n for n, v in self._expected.items() if not (state[n] == v).all()]
        if different or state.keys() != self._expected.keys():
            sys.exit(f"run {self.runs} ended differently: {different[:5]}")
        self.runs += 1
        shutil.rmtree(workdir)

    def _disturb(self, job, workdir) -> bool:
        """Injects a fault at a random moment; False if the run had ended before."""
        job.wait_until_slow()
        # Half a run's time; since a disturbed run resumes, late phases are hit as well.
        until = time.monotonic() + self._chance.uniform(0.0, self._seconds / 2)
        while time.monotonic() < until:
            if job.ended():
                return False
            time.sleep(0.05)
        kind = self._chance.choice(FLAGS.kinds)
        rank = self._chance.randrange(WORKERS)
        phase = job.phase(workdir, rank)
        FAULTS[kind](job, rank)
        seconds = _end(job, rank, kind)
        if job.codes() == [DONE] * WORKERS:  # the run had just ended
            return False
        if kind == "truncate":
            kind = f"kill, then truncate {self._truncate(workdir)}"
        self.faults += 1
        self._kinds[kind] += 1
        self._phases[phase] += 1
        self._slowest = max(self._slowest, seconds)
        note(f"fault {self.faults}: {kind}, worker {rank}, at {phase!r}, over in {seconds:.1f} s")
        return True

    def _truncate(self, workdir) -> str:
        """Halves a file of the newest checkpoint."""
        found = complete_checkpoints(RunDir(workdir).checkpoints)
        if len(found) < 2:
            return "nothing"
        path = self._chance.choice(sorted(pathlib.Path(found[-1]).glob("*.data*")))
        os.truncate(path, path.stat().st_size // 2)
        return "a checkpoint"

    def _job(self, workdir):
        command = ["train", f"--params_override={self._settings!r}", f"--workdir={workdir}"]
        logs = tempfile.mkdtemp(dir=self._folder)
        return jobs.Job(WORKERS, command, logs, SLOW)

    def report(self) -> str:
        """The report as Markdown."""
        command = f"python benchmarks/chaos.py --faults={self.faults} --seed={FLAGS.seed}"
        for name in ("exchange", "exchange_dtype", "timeout_s"):
            if not FLAGS[name].using_default_value:
                command += f" --{name}={FLAGS[name].value}"
        if not FLAGS["kinds"].using_default_value:
            command += f" --kinds='{','.join(FLAGS.kinds)}'"
        lines = ["# Random faults", "", "```", command, "```", ""]
        lines += [
            f"{self.faults} faults in {self.runs} runs of {WORKERS} workers. Every run ended with",
            "the weights, heads and optimizers of the undisturbed run, bit for bit. The surviving",
            f"workers exited at most {self._slowest:.0f} s after the fault; a suspended worker is",
            f"reported after {FLAGS.timeout_s:.0f} s, one killed before its first heartbeat",
            "after 60 s.",
            "",
        ]
        for title, counts in (("fault", self._kinds), ("at", self._phases)):
            lines += [f"| {title} | times |", "|---|---|"]
            lines += [f"| {name} | {count} |" for name, count in counts.most_common()] + [""]
        return "\n".join(lines)


def _kill(job, rank):
    job.signal(rank, signal.SIGKILL)


def _suspend(job, rank):
    job.signal(rank, signal.SIGSTOP)


def _stop_one(job, rank):
    job.signal(rank, signal.SIGTERM)


def _stop_all(job, _):
    for rank in range(WORKERS):
        job.signal(rank, signal.SIGUSR1)


def _fill(job, rank):
    job.fill_disk(rank)


FAULTS = {
    "kill": _kill,
    "truncate": _kill,
    "suspend": _suspend,
    "stop one": _stop_one,
    "stop all": _stop_all,
    "full disk": _fill,
}


def _end(job, rank, kind) -> float:
    """Waits until all workers have exited by themselves; returns the seconds it took."""
    started = time.monotonic()
    others = [r for r in range(WORKERS) if r != rank or kind.startswith("stop")]
    codes = job.wait(FLAGS.limit_s, others)
    seconds = time.monotonic() - started
    _expect(all(code in (DONE, PREEMPTED, HELD_UP) for code in codes), job)
    if kind == "full disk":
        _expect(job.wait(FLAGS.limit_s, [rank])[0] in (DONE, FAILED, PREEMPTED, HELD_UP), job)
    if kind == "suspend":
        job.signal(rank, signal.SIGKILL)
    job.wait(FLAGS.limit_s)
    return seconds


def _expect(condition, job):
    if not condition:
        logs = "\n".join(f"--- worker {r}\n{job.log(r)[-3000:]}" for r in range(WORKERS))
        sys.exit(f"exit codes {job.codes()}\n{logs}")


def note(text) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    app.run(main)
