#!/usr/bin/env python3
"""Runs a command for a scheduler that restarts only exit codes of 128 and above.

    launch/retryable.py dc_tf train --workdir=RUN

Kubeflow's restart policy ExitCode treats 1 to 127 as final, also 42 of a preempted worker and 1 of
a worker whose peer died. This program turns them into 138, which Kubeflow documents as a user's
retryable code. 0 (done) and 2 (wrong usage or configuration) stay as they are. TERM, INT and
USR1 are forwarded to the command. Needs nothing but Python.
"""

import signal
import subprocess
import sys

FINAL = (0, 2)
RETRY = 138
FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


def main(argv) -> int:
    """Runs the command `argv`; returns the exit code for the scheduler."""
    if not argv:
        print(__doc__, file=sys.stderr)
        return FINAL[1]
    early = []
    child = None

    def forward(number, _):
        if child is None:
            early.append(number)
        else:
            child.send_signal(number)

    for number in FORWARDED:
        signal.signal(number, forward)
    try:
        child = subprocess.Popen(argv)
    except OSError as error:
        print(f"retryable.py: {argv[0]} cannot be run: {error.strerror}.", file=sys.stderr)
        return FINAL[1]
    for number in early:
        child.send_signal(number)
    code = child.wait()
    return code if code in FINAL else RETRY


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
