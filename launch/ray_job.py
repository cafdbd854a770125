#!/usr/bin/env python3
"""Starts workers on a Ray cluster, one for each GPU, and supervises them.

    ray job submit --address=http://HEAD:8265 --working-dir=. -- \\
        python launch/ray_job.py --workers=8 --max_restarts=3 -- \\
        train --config_file=deepercluster_yfcc100m --workdir=/shared/run \\
        --params_override=data.path=/shared/data,init_from=/shared/rotnet

After `--` comes a dc_tf command line, which every worker runs with a TF_CONFIG of its own; dc_tf is
installed on all nodes, and the run folder is on a file system that all of them see. Ray reserves
the places of all workers together (a placement group) and chooses the nodes; each worker finds a
free port on its node. When one fails, the others end; with --max_restarts=K all start again up to
K times, and resume from the last checkpoint. `ray job stop` makes the workers save and end; it
waits RAY_JOB_STOP_WAIT_TIME_S seconds, 3 by default, so set that to 300 on the head node.

Exit codes are the workers' own: 0 done; 2 wrong usage or configuration, never restarted; 42
preempted; other codes are failures. Needs Python and Ray.
"""

import argparse
import ctypes
import importlib
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading

WRONG_USAGE, PREEMPTED, LOST = 2, 42, 137
GRACE_S = 120.0  # in which the others see that a worker has failed, and end
POLL_S = 0.5


class Worker:
    """A worker of the job, as an actor of Ray on the node that it was given."""

    def __init__(self):
        self._process = None
        self._stopped = False

    def address(self) -> str:
        """host:port, free a moment ago, at which the others reach this node."""
        host = importlib.import_module("ray").util.get_node_ip_address()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as server:
            server.bind(("", 0))
            port = server.getsockname()[1]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def run(self, command: list[str], tf_config: str) -> int:
        """Runs the command to its end; returns its exit code, 128 + n after signal n."""
        if self._stopped:
            return PREEMPTED
        self._process = subprocess.Popen(
            command, env={**os.environ, "TF_CONFIG": tf_config}, preexec_fn=_end_with_parent
        )
        code = self._process.wait()
        return code if code >= 0 else 128 - code

    def stop(self) -> None:
        """Asks the command to save and end."""
        self._stopped = True
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)


def _end_with_parent():
    """In a new process: SIGTERM comes when the actor is gone, so the command saves and ends."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def main(argv=None) -> int:
    """Returns the exit code of the job; see the module's text."""
    options, command = parse(list(sys.argv[1:] if argv is None else argv))
    ray = importlib.import_module("ray")
    importlib.import_module("ray.util.scheduling_strategies")
    ray.init()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    return supervise(ray, options, command, stop)


def parse(argv) -> tuple[argparse.Namespace, list[str]]:
    """Returns (options, command): the launcher's own flags and what each worker runs."""
    split = argv.index("--") if "--" in argv else len(argv)
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        prog="ray_job.py",
        usage="ray_job.py --workers=N [--gpus=G] [--cpus=C] [--max_restarts=K] [--program=PROGRAM] "
        "-- COMMAND --flags",
        allow_abbrev=False,
    )
    parser.add_argument("--workers", type=int, required=True, help="processes to start")
    parser.add_argument("--gpus", type=int, default=1, help="GPUs of each worker, 0 or 1")
    parser.add_argument("--cpus", type=int, default=1, help="cores that Ray reserves for each")
    parser.add_argument("--max_restarts", type=int, default=0, help="fresh starts after a failure")
    parser.add_argument(
        "--program", help="what a worker runs before COMMAND (default: python -m dc_tf)"
    )
    options = parser.parse_args(argv[:split])
    for name, least, most in (
        ("workers", 1, 4096),
        ("gpus", 0, 1),
        ("cpus", 1, 4096),
        ("max_restarts", 0, 1_000_000),
    ):
        if not least <= getattr(options, name) <= most:
            parser.error(f"--{name}={getattr(options, name)}; use {least} to {most}")
    if not argv[split + 1 :]:
        parser.error("no command was given; write it after --, as in: --workers=2 -- train ...")
    program = shlex.split(options.program) if options.program else [sys.executable, "-m", "dc_tf"]
    return options, program + argv[split + 1 :]


def supervise(ray, options, command, stop) -> int:
    """Runs the workers, and starts them again after a failure; returns the exit code of the job.

    Args:
        ray: the module.
        options, command: of `parse`.
        stop: threading.Event, set when the job was asked to stop.
    """
    needs = {"CPU": options.cpus} | ({"GPU": options.gpus} if options.gpus else {})
    group = ray.util.placement_group([needs] * options.workers, strategy="PACK")
    try:
        ray.get(group.ready())
        for attempt in range(options.max_restarts + 1):
            if attempt:
                print(f"ray_job.py: restart {attempt} of {options.max_restarts}", file=sys.stderr)
            code = job_code(_run_once(ray, options, command, group, stop))
            if code in (0, WRONG_USAGE) or stop.is_set():
                break
        return code
    finally:
        ray.util.remove_placement_group(group)


def tf_configs(addresses: list[str]) -> list[str]:
    """TF_CONFIG of each worker; "{}" for one alone."""
    if len(addresses) == 1:
        return ["{}"]
    return [
        json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}})
        for index in range(len(addresses))
    ]


def job_code(codes: list[int]) -> int:
    """The exit code of the job: a wrong configuration before a failure before a preemption.

    Of failures, one that is not the answer to another's (43) comes first.
    """
    if WRONG_USAGE in codes:
        return WRONG_USAGE
    failures = [code for code in codes if code not in (0, PREEMPTED)]
    own = [code for code in failures if code != 43]
    return (own or failures or [max(codes)])[0]


def _run_once(ray, options, command, group, stop):
    """Exit code of each worker of one start."""
    strategy = ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy
    # Two calls at a time, so that `stop` is heard while `run` waits.
    remote = ray.remote(num_cpus=options.cpus, num_gpus=options.gpus, max_concurrency=2)(Worker)
    actors = [
        remote.options(
            scheduling_strategy=strategy(group, placement_group_bundle_index=index)
        ).remote()
        for index in range(options.workers)
    ]
    try:
        addresses = ray.get([actor.address.remote() for actor in actors])
        configs = tf_configs(addresses)
        runs = [
            actor.run.remote(command, text) for actor, text in zip(actors, configs, strict=True)
        ]
        _wait(ray, actors, runs, stop)
        return [_code(ray, run) for run in runs]
    except ray.exceptions.RayError as error:
        print(f"ray_job.py: {error}", file=sys.stderr)
        return [LOST] * options.workers
    finally:
        for actor in actors:
            ray.kill(actor)


def _wait(ray, actors, runs, stop):
    """Returns when all have ended, or when those that have not were given the time to."""
    left, asked = list(runs), False
    while left:
        done, left = ray.wait(left, num_returns=len(left), timeout=POLL_S)
        if stop.is_set() and not asked:
            asked = True
            for actor in actors:
                actor.stop.remote()
        if any(_code(ray, run) for run in done):
            break
    if not left:
        return
    _, left = ray.wait(left, num_returns=len(left), timeout=GRACE_S)
    for run in left:
        actors[runs.index(run)].stop.remote()
    ray.wait(left, num_returns=len(left), timeout=GRACE_S) if left else None


def _code(ray, run):
    """Exit code of a run; that of a kill for one whose node or actor is gone, or that hangs."""
    try:
        return ray.get(run, timeout=0)
    except ray.exceptions.RayError:
        return LOST


if __name__ == "__main__":
    sys.exit(main())
