#!/usr/bin/env python3
"""Starts N workers of one job on this machine and supervises them.

    launch/local.py --workers=4 -- train --config_file=quickstart \\
        --params_override=data.path=DATA --workdir=RUN
    dc_tf launch --workers=4 -- train ...                                      # the same

After `--` comes a dc_tf command line, which every worker runs with a TF_CONFIG of its own. With
GPUs, each worker gets one; otherwise workers share the cores. Output lines start with the worker's
name. When one worker fails, the others are ended; with --max_restarts=K the
whole set is started again up to K times, on new ports, and resumes from its last checkpoint.

The last line on stdout is the chief's JSON line. Exit codes are the workers' own: 0 done; 1
failed; 2 wrong usage or configuration, never restarted; 42 preempted, 43 another worker failed,
both restarted; 128 + n killed by signal n. Needs nothing but Python.
"""

import argparse
import contextlib
import ctypes
import functools
import glob
import importlib.util
import json
import os
import pathlib
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import NoReturn

ROOT = pathlib.Path(__file__).resolve().parent.parent
# A wheel has this file inside the package, which is then on the interpreter's path.
IN_REPOSITORY = (ROOT / "dc_tf").is_dir()
_PROGRAM = os.path.basename(sys.argv[0])
NAME = _PROGRAM if _PROGRAM in ("local.py", "node.py") else "dc_tf launch"
WRONG_USAGE, PREEMPTED = 2, 42
POLL_S = 0.05
# Ctrl-C, `timeout` or a job scheduler may signal a process twice: alone and with its group.
BURST_S = 0.3
# After wrong usage, whose reason only the chief may print; workers start at different times.
REFUSED_S = 5.0
# A worker that TensorFlow keeps busy joining the others can miss a signal.
REPEAT_S = 3.0
# Smallest and largest values of flags.
_LIMITS = {
    "workers": (1, 1024),
    "max_restarts": (0, 1_000_000),
    "threads": (1, 100_000),
    "grace_s": (0, 1_000_000),
}
GPU_DEVICES = "/dev/nvidia[0-9]*"
CPU_QUOTA = pathlib.Path("/sys/fs/cgroup/cpu.max")


class UsageError(Exception):
    """Wrong usage; nothing was started."""


def main(argv=None) -> int:
    """Returns the exit code of the job; see the module's text."""
    options, command = parse(list(sys.argv[1:] if argv is None else argv))
    try:
        devices = share_devices(options.workers, visible_gpus())
    except UsageError as error:
        print(f"{NAME}: {error}", file=sys.stderr)
        return WRONG_USAGE
    return supervise(options, command, devices)


def supervise(options, command, devices, configs=None) -> int:
    """Runs the workers, and starts them again after a failure; returns the exit code of the job.

    Args:
        options, command: of `parse`.
        devices: of `share_devices`.
        configs: TF_CONFIG of each worker; None: on new ports of this machine at each start.
    """
    if devices is None and "CUDA_VISIBLE_DEVICES" not in os.environ and glob.glob(GPU_DEVICES):
        note(f"this machine has GPUs, but the workers use the CPU: {why_no_gpu()}")
    stop = StopSignals()
    for attempt in range(options.max_restarts + 1):
        if attempt:
            note(f"restart {attempt} of {options.max_restarts}")
        code = WorkerSet(options, command, devices, configs).run(stop)
        if code in (0, WRONG_USAGE) or stop.received:
            break
    return code


def parse(argv, text=__doc__, workers_required=True) -> tuple[argparse.Namespace, list[str]]:
    """Returns (options, command): the launcher's own flags and the arguments after `--`.

    Args:
        argv: arguments.
        text: of --help.
        workers_required: whether --workers must be given; otherwise `options.workers` may be None.
    """
    split = argv.index("--") if "--" in argv else len(argv)
    workers = "--workers=N" if workers_required else "[--workers=N]"
    parser = argparse.ArgumentParser(
        description=text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        prog=NAME,
        usage=f"{NAME} {workers} [--max_restarts=K] [--threads=T] [--grace_s=S] "
        "[--program=PROGRAM] -- COMMAND --flags",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--workers",
        type=int,
        required=workers_required,
        help="processes to start",
    )
    parser.add_argument("--max_restarts", type=int, default=0, help="fresh starts after a failure")
    parser.add_argument(
        "--threads", type=int, help="threads a worker computes with (default: cores / workers)"
    )
    parser.add_argument(
        "--grace_s",
        type=float,
        default=30.0,
        help="seconds a worker has to save and end after SIGTERM, before SIGKILL (default: 30)",
    )
    parser.add_argument(
        "--program", help="what a worker runs before COMMAND (default: python -m dc_tf)"
    )
    options = parser.parse_args(argv[:split])
    for name, (least, most) in _LIMITS.items():
        value = getattr(options, name)
        if value is not None and not least <= value <= most:  # nan is neither
            parser.error(f"--{name}={value}; use {least} to {most}")
    if not argv[split + 1 :]:
        parser.error(
            f"no command was given; write it after --, as in: {NAME} --workers=2 -- train ..."
        )
    program = shlex.split(options.program) if options.program else [python(), "-m", "dc_tf"]
    return options, program + argv[split + 1 :]


def python() -> str:
    """This interpreter if it has TensorFlow, else that of the environment of the launch scripts."""
    venv = pathlib.Path(os.environ.get("DC_TF_VENV") or ROOT / ".venv") / "bin" / "python"
    has_tensorflow = importlib.util.find_spec("tensorflow") is not None
    return sys.executable if has_tensorflow or not venv.exists() else str(venv)


def visible_gpus() -> list[str]:
    """Names of the GPUs that workers may use, as CUDA_VISIBLE_DEVICES wants them."""
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is not None:
        names = [name.strip() for name in allowed.split(",")]
        return [name for name in names if name not in ("", "-1")]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return []
    gpus = [line for line in listed.stdout.splitlines() if line.startswith("GPU ")]
    return [str(index) for index in range(len(gpus))]


def why_no_gpu() -> str:
    """Why `visible_gpus` is empty, and where to look, as part of a sentence."""
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is not None:
        return f"CUDA_VISIBLE_DEVICES is {allowed!r}, which names none"
    if not shutil.which("nvidia-smi"):
        return "nvidia-smi, which comes with NVIDIA's driver, is not on PATH"
    return "nvidia-smi -L lists none"


def share_devices(workers, gpus) -> list[str] | None:
    """Returns one GPU name per worker, or None if all use the CPU."""
    if not gpus:
        return None
    if workers > len(gpus):
        raise UsageError(
            f"--workers={workers} needs {workers} GPUs and {len(gpus)} are visible; use at most "
            f"{len(gpus)} workers, or CUDA_VISIBLE_DEVICES=-1 to use CPUs."
        )
    return gpus[:workers]


def local_configs(workers) -> list[str]:
    """TF_CONFIG of each of the workers on new ports of this machine."""
    hosts = [f"localhost:{port}" for port in free_ports(workers)]
    tasks = ({"type": "worker", "index": index} for index in range(workers))
    return [json.dumps({"cluster": {"worker": hosts}, "task": task}) for task in tasks]


def environments(configs, devices, threads) -> list[dict]:
    """Returns each worker's environment: its place in the cluster, its GPU or its threads.

    Args:
        configs: TF_CONFIG of each worker.
        devices: of `share_devices`.
        threads: of a worker, or None.
    """
    workers = len(configs)
    threads = threads or (None if devices else max(1, cores() // workers))
    result = []
    for index, config in enumerate(configs):
        added = {"TF_CONFIG": config}
        if IN_REPOSITORY:
            paths = [str(ROOT), os.getenv("PYTHONPATH")]
            added["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        added["PYTHONUNBUFFERED"] = "1"
        if devices:
            added["CUDA_VISIBLE_DEVICES"] = devices[index]
        if threads:
            added["TF_NUM_INTRAOP_THREADS"] = added["OMP_NUM_THREADS"] = str(threads)
            # At least two: an op that waits for other workers must not hold the only thread.
            added["TF_NUM_INTEROP_THREADS"] = str(max(2, threads))
        result.append({**os.environ, **added})
    return result


def cores() -> int:
    """Cores that this process may use: those of its affinity and of its container's quota."""
    can_tell = hasattr(os, "sched_getaffinity")
    count = len(os.sched_getaffinity(0)) if can_tell else os.cpu_count() or 1
    try:
        quota, period = CPU_QUOTA.read_text().split()
    except (OSError, ValueError):  # no control groups, or older ones
        return count
    return count if quota == "max" else min(count, max(1, int(quota) // int(period)))


def free_ports(count) -> list[int]:
    """Returns `count` different ports that nothing listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for held in sockets:  # all open at the same time, so that no port is returned twice
            held.bind(("localhost", 0))
        return [held.getsockname()[1] for held in sockets]


class StopSignals:
    """Records SIGINT, SIGTERM, SIGHUP and SIGUSR1 instead of ending the process.

    Signals that were ignored before, such as SIGHUP under nohup, stay ignored. Signals within
    `BURST_S` of a recorded one count as the same request.

    Attributes:
        received: list of signal numbers, oldest first.
    """

    def __init__(self):
        self.received = []
        self._counted_at = -BURST_S
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._record)

    def _record(self, number, _):
        now = time.monotonic()
        if now - self._counted_at >= BURST_S:
            self._counted_at = now
            self.received.append(number)


class WorkerSet:
    """One start of all workers; after `run` none of them is left."""

    def __init__(self, options, command, devices, configs=None):
        self._grace_s = options.grace_s
        self._command = command
        configs = configs or local_configs(options.workers)
        self._environments = environments(configs, devices, options.threads)
        self._workers = []

    def run(self, stop) -> int:
        """Starts the workers, waits for them and returns the exit code of the set."""
        try:
            for index, environment in enumerate(self._environments):
                if not stop.received:
                    self._workers.append(Worker(index, self._command, environment))
            code = self._wait(stop)
        finally:
            for worker in self._workers:
                worker.kill()
        for worker in self._workers:
            worker.finish_output(is_result=code == 0)
        return code

    def _wait(self, stop):
        """Waits until all have ended, or ends them when one fails or a signal comes."""
        while not stop.received:
            codes = [worker.exit_code() for worker in self._workers]
            failed = {i: code for i, code in enumerate(codes) if code}
            if failed:
                return self._end_after_failure(failed, stop)
            if None not in codes:
                return 0
            time.sleep(POLL_S)
        return self._end_after_signal(stop)

    def _end_after_failure(self, failed, stop):
        code = WRONG_USAGE if WRONG_USAGE in failed.values() else next(iter(failed.values()))
        who = ", ".join(f"w{i} ended with exit code {failed[i]}" for i in failed)
        note(f"{who}; ending the other workers")
        if code == PREEMPTED:  # the others are saving too
            self._wait_for_all(self._grace_s, stop)
        if code == WRONG_USAGE:
            self._wait_for_all(REFUSED_S, stop)
        self._end(stop)
        return code

    def _end_after_signal(self, stop):
        name = signal.Signals(stop.received[0]).name
        note(f"{name}: ending the workers")
        self._end(stop)
        codes = {worker.exit_code() for worker in self._workers}
        saved = bool(codes) and codes <= {0, PREEMPTED}
        return PREEMPTED if saved else 128 + stop.received[0]

    def _end(self, stop):
        self._wait_for_all(self._grace_s, stop, asking=True)
        if len(stop.received) > 1:  # the remaining workers would only report that others are gone
            for worker in self._workers:
                worker.mute()
        for worker in self._workers:
            worker.kill()

    def _wait_for_all(self, seconds, stop, asking=False):
        """Waits at most `seconds`, or until a second request to stop.

        Args:
            asking: whether to signal the workers to end, at once and every `REPEAT_S`.
        """
        until, ask_at = time.monotonic() + seconds, 0.0
        while True:
            if asking and time.monotonic() >= ask_at:
                ask_at = time.monotonic() + REPEAT_S
                for worker in self._workers:
                    worker.terminate()
            if all(worker.exit_code() is not None for worker in self._workers):
                return
            if time.monotonic() >= until or len(stop.received) > 1:
                return
            time.sleep(POLL_S)


class Worker:
    """One process in a process group of its own, its output passed on line by line."""

    def __init__(self, index, command, environment):
        self._name = f"w{index}"
        self._is_chief = index == 0
        self._muted = False
        self._result = None
        self._group_gone = False  # then its number may belong to another process
        self._process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
            preexec_fn=functools.partial(die_with, os.getpid()),
        )
        streams = [(self._process.stdout, sys.stdout), (self._process.stderr, sys.stderr)]
        self._readers = [
            threading.Thread(target=self._pass_on, args=stream, daemon=True) for stream in streams
        ]
        for reader in self._readers:
            reader.start()

    def exit_code(self) -> int | None:
        """The exit code as a shell gives it, None while running."""
        code = self._process.poll()
        if code is not None:
            self._signal_group(signal.SIGKILL)  # its children must not outlive it
            self._group_gone = True
        return 128 - code if code is not None and code < 0 else code

    def terminate(self) -> None:
        if self.exit_code() is None:
            self._signal_group(signal.SIGTERM)

    def kill(self) -> None:
        """Ends the process and its children."""
        self._signal_group(signal.SIGKILL)
        self._process.wait()
        self._group_gone = True

    def mute(self) -> None:
        """Stops passing on lines."""
        self._muted = True

    def finish_output(self, is_result) -> None:
        """Passes on the rest of the pipes, then the chief's JSON line, bare if it is a result."""
        for reader in self._readers:
            reader.join(timeout=5)
        if self._result is not None:
            write(sys.stdout, self._result if is_result else f"[{self._name}] {self._result}")

    def _signal_group(self, number):
        if not self._group_gone:
            signal_group(self._process.pid, number)

    def _pass_on(self, pipe, out):
        for line in pipe:
            line = line.rstrip("\n")
            if self._is_chief and out is sys.stdout:
                line = self._hold_back(line)
            if line is not None and not self._muted:
                write(out, f"[{self._name}] {line}")

    def _hold_back(self, line):
        """Holds a JSON line until another line follows; returns the line to write now."""
        if self._result is not None:
            write(sys.stdout, f"[{self._name}] {self._result}")
        self._result, line = (line, None) if is_json_object(line) else (None, line)
        return line


def signal_group(leader, number) -> None:
    """Signals the remaining processes of a process group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, number)


def is_json_object(line) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


_WRITING = threading.Lock()


def write(out, line) -> None:
    # a closed reader or terminal must not block the workers' pipes or their saving
    with _WRITING, contextlib.suppress(OSError):
        print(line, file=out, flush=True)


def note(text) -> None:
    write(sys.stderr, f"{NAME}: {text}")


def end(code) -> NoReturn:
    """Ends the process with `code`, also when the terminal or reader of its output is gone.

    What is left in a buffer would fail again at the interpreter's end and make the exit code 120.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(code)


_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with(launcher) -> None:
    """Runs in the worker: lets the kernel end it if the launcher is killed."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != launcher:  # it ended before the call
        os._exit(1)


if __name__ == "__main__":
    end(main())
