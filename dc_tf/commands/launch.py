"""Starts N workers of a command on this machine, and restarts them when they fail.

    dc_tf launch --workers=4 --max_restarts=1 -- \\
        train --config_file=quickstart --params_override=data.path=DATA --workdir=RUN
    dc_tf launch --nodes -- train ...       # on each machine that TF_CONFIG names: a worker a GPU

This is launch/local.py of the repository, or with --nodes launch/node.py, which have their own
flags; their exit codes are those of the workers.
"""

from dc_tf import shipped

_NODES = "--nodes"


def main(argv) -> int:
    """Runs the launcher.

    Args:
        argv: list of str, the arguments after `dc_tf launch`.

    Returns:
        exit code.
    """
    own = argv[: argv.index("--")] if "--" in argv else argv
    launcher = shipped.launcher("node" if _NODES in own else "local")
    try:
        return launcher.main([a for i, a in enumerate(argv) if i >= len(own) or a != _NODES])
    except SystemExit as end:  # of its parser, after --help and wrong flags
        return int(end.code or 0)
