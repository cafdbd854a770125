#!/usr/bin/env python3
"""Runs a command for a scheduler that decides by the exit code whether to start it again.

    launch/retryable.py --kubeflow dc_tf train --workdir=RUN
    launch/retryable.py --docker dc_tf train --workdir=RUN

Kubeflow's restart policy ExitCode treats 1 to 127 as final, also 42 of a preempted worker and 43 of
a worker whose peer died. With --kubeflow they become 138, which Kubeflow documents as a user's
retryable code; 0 (done) and 2 (wrong usage or configuration) stay as they are.

Docker's restart policy on-failure starts a container again after every code but 0, also after 42,
for which the other workers ended because one of them was asked to stop. With --docker 42 becomes 0,
after a line that says so; other codes stay as they are.

TERM, INT and USR1 are forwarded to the command. Needs nothing but Python.
"""

import signal
import subprocess
import sys

WRONG_USAGE, PREEMPTED, RETRY = 2, 42, 138
FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


def for_kubeflow(code) -> int:
    """The exit code that starts the command again unless it is done or wrong."""
    return code if code in (0, WRONG_USAGE) else RETRY


def for_docker(code) -> int:
    """The exit code that does not start again what was asked to stop."""
    if code != PREEMPTED:
        return code
    print(f"retryable.py: stopped on request, exit code {PREEMPTED} becomes 0", file=sys.stderr)
    return 0


SCHEDULERS = {"--kubeflow": for_kubeflow, "--docker": for_docker}


def main(argv) -> int:
    """Runs the command after the scheduler's name; returns the exit code for the scheduler."""
    if len(argv) < 2 or argv[0] not in SCHEDULERS:
        print(__doc__, file=sys.stderr)
        return WRONG_USAGE
    code = run(argv[1:])
    return SCHEDULERS[argv[0]](code)


def run(command) -> int:
    """Runs a command to its end; returns its exit code, 128 + n after signal n."""
    early = []
    child = None

    def forward(number, _) -> None:
        if child is None:
            early.append(number)
        else:
            child.send_signal(number)

    for number in FORWARDED:
        signal.signal(number, forward)
    try:
        child = subprocess.Popen(command)
    except OSError as error:
        print(f"retryable.py: {command[0]} cannot be run: {error.strerror}.", file=sys.stderr)
        return WRONG_USAGE
    for number in early:
        child.send_signal(number)
    code = child.wait()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
