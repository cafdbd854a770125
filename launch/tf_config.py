#!/usr/bin/env python3
"""Sets TF_CONFIG for one worker, from the variables of a scheduler.

    launch/tf_config.py                                    # prints TF_CONFIG
    launch/tf_config.py -- dc_tf train --workdir=RUN       # runs the command with TF_CONFIG set

Sources, in this order:

    TF_CONFIG               set already (by Kubeflow or by hand): kept
    SLURM_PROCID            a task of srun: nodes from SLURM_STEP_NODELIST (or SLURM_JOB_NODELIST),
                            tasks on each from SLURM_STEP_TASKS_PER_NODE, ports from the number of
                            the job
    JOB_COMPLETION_INDEX    a pod of an Indexed Job of Kubernetes, with DC_TF_JOB, DC_TF_SERVICE
                            (its headless Service) and DC_TF_WORKERS

Without any of them the command runs alone. DC_TF_PORT sets the (first) port. The command replaces
this process, so signals and exit codes are its own. Needs nothing but Python.
"""

import itertools
import json
import math
import os
import re
import shutil
import subprocess
import sys

WRONG_USAGE = 2
KUBERNETES_PORT = 2222
# SLURM: a block of ports per job, below the ephemeral ports of Linux (from 32768).
FIRST_PORT, PORTS_PER_JOB, BLOCKS = 10_000, 64, 300
_MAX_WORKERS = 100_000
_INNER_COMMA = re.compile(r",(?![^\[]*\])")  # not inside brackets


class UsageError(Exception):
    """The scheduler's variables describe no cluster."""


def main(argv=None) -> int:
    """Prints TF_CONFIG, or is replaced by the command after `--`; returns an exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv and (argv[0] != "--" or len(argv) == 1):
        print(__doc__, file=sys.stderr)
        return WRONG_USAGE
    try:
        text = find(os.environ)
    except UsageError as error:
        print(f"tf_config.py: {error}", file=sys.stderr)
        return WRONG_USAGE
    if not argv:
        print(text)
        return 0
    try:
        os.execvpe(argv[1], argv[1:], {**os.environ, "TF_CONFIG": text})
    except OSError as error:
        print(f"tf_config.py: {argv[1]} cannot be run: {error.strerror}.", file=sys.stderr)
        return 127


def find(environment) -> str:
    """TF_CONFIG for the process with this environment: str, JSON; "{}" for a process alone.

    Raises:
        UsageError: the scheduler's variables describe no cluster.
    """
    if environment.get("TF_CONFIG", "").strip():
        return environment["TF_CONFIG"]
    if "SLURM_PROCID" in environment:
        return _text(*from_slurm(environment))
    if "JOB_COMPLETION_INDEX" in environment:
        return _text(*from_kubernetes(environment))
    return "{}"


def from_slurm(environment) -> tuple[list[str], int]:
    """(addresses, rank) of a task of srun; tasks are on the nodes in blocks, srun's default."""
    nodes = _nodes(_first(environment, "SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST"))
    counts = _first(environment, "SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE")
    tasks = expand_counts(counts)
    if len(tasks) != len(nodes):
        raise UsageError(
            f"SLURM names {len(nodes)} nodes, but tasks on {len(tasks)} ({counts}); "
            "both must agree."
        )
    if max(tasks) > PORTS_PER_JOB:
        raise UsageError(f"{max(tasks)} tasks are on one node; use at most {PORTS_PER_JOB}.")
    places = [(node, i) for node, count in enumerate(tasks) for i in range(count)]
    rank = _number(environment, "SLURM_PROCID", len(places))
    here = tuple(int(environment.get(name, -1)) for name in ("SLURM_NODEID", "SLURM_LOCALID"))
    if -1 not in here and places[rank] != here:
        raise UsageError(
            f"task {rank} is number {here[1]} on node {here[0]}, but in blocks it would be number "
            f"{places[rank][1]} on node {places[rank][0]}; start srun with --distribution=block."
        )
    first = _slurm_port(environment)
    return [f"{nodes[node]}:{first + i}" for node, i in places], rank


def from_kubernetes(environment) -> tuple[list[str], int]:
    """(addresses, rank) of a pod of an Indexed Job whose pods are named by a headless Service."""
    job, service = (_first(environment, name) for name in ("DC_TF_JOB", "DC_TF_SERVICE"))
    workers = _number(environment, "DC_TF_WORKERS", _MAX_WORKERS, least=1)
    rank = _number(environment, "JOB_COMPLETION_INDEX", workers)
    port = _port(environment, KUBERNETES_PORT)
    return [f"{job}-{i}.{service}:{port}" for i in range(workers)], rank


def expand_nodes(text) -> list[str]:
    """Names in a node list of SLURM, in its order.

    Args:
        text: such as "gpu1", "node[01-03,07],gpu1" or "rack[1-2]n[1-4]".

    Raises:
        UsageError: not such a list.
    """
    names = []
    for part in _INNER_COMMA.split(text.strip()):
        pieces = re.findall(r"\[([^\[\]]+)\]|([^\[\],]+)", part)
        if not pieces or "".join(f"[{r}]" if r else plain for r, plain in pieces) != part:
            raise UsageError(f"{text!r} is not a node list; use the form node[01-03,07],gpu1.")
        choices = [expand_ranges(ranges) if ranges else [plain] for ranges, plain in pieces]
        if len(names) + math.prod(map(len, choices)) > _MAX_WORKERS:
            raise UsageError(f"{text[:80]!r} names more than {_MAX_WORKERS} nodes; use fewer.")
        names += ["".join(choice) for choice in itertools.product(*choices)]
    return names


def expand_ranges(text) -> list[str]:
    """["01", "02", "07"] for "01-02,07": leading zeros are kept."""
    numbers = []
    for part in text.split(","):
        found = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", part)
        first, last = found.groups() if found else ("1", "0")
        last = last or first
        if not 0 <= int(last) - int(first) < _MAX_WORKERS:
            raise UsageError(
                f"[{text}] is not a list of numbers and ranges; use the form [01-03,07]."
            )
        numbers += [f"{n:0{len(first)}d}" for n in range(int(first), int(last) + 1)]
        if len(numbers) > _MAX_WORKERS:
            raise UsageError(f"[{text[:80]}] has more than {_MAX_WORKERS} numbers; use fewer.")
    return numbers


def expand_counts(text) -> list[int]:
    """[2, 2, 2, 1] for SLURM's "2(x3),1"."""
    counts = []
    for part in text.split(","):
        found = re.fullmatch(r"([1-9]\d{0,5})(?:\(x([1-9]\d{0,5})\))?", part.strip())
        if not found:
            raise UsageError(f"{text!r} is not a list of tasks per node; use the form 2(x3),1.")
        counts += [int(found[1])] * int(found[2] or 1)
    return counts


def _nodes(text):
    """As `expand_nodes`; unknown forms are left to scontrol, if it is installed."""
    try:
        return expand_nodes(text)
    except UsageError:
        if not shutil.which("scontrol"):
            raise
    done = subprocess.run(
        ["scontrol", "show", "hostnames", text], capture_output=True, text=True, timeout=60
    )
    if done.returncode or not done.stdout.split():
        reason = done.stderr.strip() or "it names none"
        raise UsageError(
            f"scontrol does not know the nodes {text!r}: {reason}; use the form node[01-03,07], as "
            "SLURM_JOB_NODELIST has it."
        )
    return done.stdout.split()


def _slurm_port(environment):
    """The first port of this job; jobs that share a node usually have consecutive numbers."""
    job = _number(environment, "SLURM_JOB_ID", 2**32)
    return _port(environment, FIRST_PORT + job % BLOCKS * PORTS_PER_JOB)


def _port(environment, default):
    if not environment.get("DC_TF_PORT"):
        return default
    return _number(environment, "DC_TF_PORT", 65_536 - PORTS_PER_JOB, least=1)


def _number(environment, name, end, least=0):
    value = _first(environment, name)
    if not re.fullmatch(r"\d{1,12}", value) or not least <= int(value) < end:
        raise UsageError(f"{name} is {value!r}; expected a number in {least}..{end - 1}.")
    return int(value)


def _first(environment, *names):
    for name in names:
        if environment.get(name):
            return environment[name]
    raise UsageError(f"{' and '.join(names)} {'are' if len(names) > 1 else 'is'} not set.")


def _text(addresses, rank):
    if len(addresses) == 1:
        return "{}"
    task = {"type": "worker", "index": rank}
    return json.dumps({"cluster": {"worker": addresses}, "task": task})


if __name__ == "__main__":
    sys.exit(main())
