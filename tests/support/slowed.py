"""dc_tf, slowed down where a test wants to meet it.

    python tests/support/slowed.py PHASE SECONDS MARKER train --flags

At every heartbeat of a phase whose name begins with PHASE, the file MARKER is made, and SECONDS go
by. What runs is the real command.
"""

import pathlib
import sys
import time

from dc_tf.commands import main
from dc_tf.distributed import heartbeat


def slow(phase, seconds, marker):
    beat = heartbeat.beat

    def slow_beat(at=None):
        beat(at)
        if at is not None and at.startswith(phase):
            pathlib.Path(marker).touch()
            time.sleep(seconds)

    heartbeat.beat = slow_beat


if __name__ == "__main__":
    slow(sys.argv[1], float(sys.argv[2]), sys.argv[3])
    sys.argv[1:4] = []
    main.run_and_exit()
