"""Starts N workers of a command on this machine, and restarts them when they fail.

    dc_tf launch --workers=4 --max_restarts=1 -- train --config_file=quickstart --workdir=RUN

This is launch/local.py of the repository, which has its own flags; its exit codes are those of its
workers.
"""

from dc_tf import shipped


def main(argv) -> int:
    """Runs the launcher.

    Args:
        argv: list of str, the arguments after `dc_tf launch`.

    Returns:
        exit code.
    """
    try:
        return shipped.launcher().main(argv)
    except SystemExit as end:  # of its parser, after --help and wrong flags
        return int(end.code or 0)
