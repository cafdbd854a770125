#!/usr/bin/env python3
"""Runs a command for a scheduler that only starts again what ends with 128 or more.

    launch/retryable.py dc_tf train --workdir=RUN

Kubeflow's restart policy ExitCode takes 1 to 127 for final, and so the 42 of a worker that was
preempted and the 1 of one whose peer died. Here they become 138, which it documents as the user's
own "start again". 0 (done) and 2 (wrong usage or configuration) stay as they are. TERM, INT and
USR1 go on to the command. Needs nothing but Python.
"""

import signal
import subprocess
import sys

FINAL = (0, 2)
RETRY = 138
FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


def main(argv):
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
        print(f"retryable.py: {argv[0]} cannot be run: {error.strerror}", file=sys.stderr)
        return FINAL[1]
    for number in early:
        child.send_signal(number)
    code = child.wait()
    return code if code in FINAL else RETRY


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
