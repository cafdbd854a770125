"""Child processes of the benchmarks: each prints its results as JSON on its last line.

alone, = last_lines([command])
results = last_lines([command] * 2, joined(2))      # two workers, joined by TF_CONFIG on localhost
"""

import json
import os
import socket
import subprocess
import sys

LIMIT_S = 3600


def run_parts(flags, parts, scope, roles) -> None:
    """The `main` of a benchmark: measures the parts of --parts, or runs one role as a child.

    Args:
        flags: with `parts`, `output`, `role` and `task`.
        parts: tuple of all names.
        scope: dict with a function `measure_NAME` of no arguments for each part.
        roles: {role: function of the task's items that returns a JSON-ready result}.
    """
    if flags.role:
        print(json.dumps(roles[flags.role](**json.loads(flags.task))))
        return
    unknown = set(flags.parts) - set(parts)
    if unknown:
        sys.exit(f"--parts has {', '.join(unknown)}; there are {', '.join(parts)}.")
    results = {part: scope[f"measure_{part}"]() for part in flags.parts}
    if flags.output:
        with open(flags.output, "w", encoding="utf-8") as file:
            json.dump(results, file, indent=1)
    print(json.dumps(results))


def last_lines(commands, environments=None) -> list:
    """Runs processes at the same time and parses the last line of each one's stdout.

    Args:
        commands: list of argument lists.
        environments: for each, dict of environment variables to add; None for none.
    """
    environments = environments or [{}] * len(commands)
    children = [
        subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ | added)
        for command, added in zip(commands, environments, strict=True)
    ]
    try:
        outputs = [child.communicate(timeout=LIMIT_S)[0] for child in children]
    finally:
        for child in children:
            child.kill()
    failed = [child.args for child in children if child.returncode]
    if failed:
        sys.exit(f"{' '.join(failed[0])} failed; see above.")
    return [json.loads(output.splitlines()[-1]) for output in outputs]


def joined(n) -> list[dict[str, str]]:
    """Environments of n workers of one cluster on this machine."""
    hosts = [f"localhost:{port}" for port in _free_ports(n)]
    tasks = [{"type": "worker", "index": rank} for rank in range(n)]
    return [
        {"TF_CONFIG": json.dumps({"cluster": {"worker": hosts}, "task": task})} for task in tasks
    ]


def with_threads(n) -> dict[str, str]:
    """Environment of a process that computes with n threads."""
    return {"TF_NUM_INTRAOP_THREADS": str(n), "OMP_NUM_THREADS": str(n)}


def show(line) -> None:
    """Prints a line to stderr at once; the result goes to stdout."""
    print(json.dumps(line), file=sys.stderr, flush=True)


def _free_ports(n):
    sockets = [socket.socket() for _ in range(n)]
    for s in sockets:
        s.bind(("localhost", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports
