"""Trains and evaluates the networks of an ablation, and shows them in one table and one plot.

    dc_tf sweep --config_file=methods_small --data=DATA --test=TEST --workdir=SWEEP
    dc_tf sweep --config_file=mine.yaml --workdir=SWEEP --at_once=0 --dry_run

The file has a base experiment, axes and variants that change its settings or its share of the
images, seeds, and evaluations; docs/sweep.md describes it. Started again on the same folder, it
runs what is missing; a network that fails is reported with its log, and the others run. SIGTERM
and Ctrl-C save and end with exit code 42. SWEEP/table.md, result.json and plot.svg have mean and
deviation over the seeds, beside the paper's results where there are any.
"""

from dc_tf.commands.flags.define import CommandFlags
from dc_tf.commands.terminal.results import Result
from dc_tf.errors import ConfigError, DataError

FLAGS = CommandFlags()
CONFIG_FILE = FLAGS.path(
    "config_file", None, "YAML file, or the name of a preset, such as methods_small.", required=True
)
WORKDIR = FLAGS.path("workdir", None, "Folder of the sweep; created if missing.", required=True)
DATA = FLAGS.path("data", None, "Data set to learn from; None: that of the file.")
TRAIN = FLAGS.path(
    "train",
    None,
    "Labelled data set, or VOC development kit, that evaluations learn from; None: that of the "
    "file, else --data.",
)
TEST = FLAGS.path("test", None, "Labelled data set to measure on; None: that of the file.")
AT_ONCE = FLAGS.integer(
    "at_once",
    1,
    "Trainings and evaluations at a time, which share the cores or the GPUs; 0: as many as cores, "
    "GPUs and the planned memory allow.",
    lower_bound=0,
    upper_bound=1024,
)
WORKERS = FLAGS.integer(
    "workers", 1, "Processes of each of them on this machine.", lower_bound=1, upper_bound=1024
)
THREADS = FLAGS.integer(
    "threads",
    None,
    "Threads of each process on CPUs; rounding depends on them, so with equal ones results do not "
    "depend on --at_once. None: those of an earlier start, else its share of the cores.",
    lower_bound=1,
    upper_bound=100_000,
)
DRY_RUN = FLAGS.bool("dry_run", False, "Print the cells, their time and disk; start nothing.")
MEASURE = FLAGS.bool(
    "measure", False, "With --dry_run: measure the speed of training here for the time."
)


def run() -> dict:
    """Runs the sweep, or plans it; returns the result."""
    flags = {
        "config_file": CONFIG_FILE.value,
        "workdir": WORKDIR.value,
        "data": DATA.value,
        "train": TRAIN.value,
        "test": TEST.value,
        "at_once": AT_ONCE.value,
        "workers": WORKERS.value,
    }
    if DRY_RUN.value:
        from dc_tf.sweep.dry_run import dry_run

        planned = dry_run(**flags, measure=MEASURE.value)
        print(planned.text, flush=True)
        return Result(planned.result, shown=True)
    if MEASURE.value:
        raise ConfigError("--measure is for --dry_run; leave it out.")
    from dc_tf.sweep.folder import SweepFolder
    from dc_tf.sweep.run import run_sweep

    path = SweepFolder(WORKDIR.value).result
    try:
        found = run_sweep(**flags, threads=THREADS.value)
    except DataError as error:
        if error.result:
            print(error.result.table, flush=True)
            error.result = Result(error.result, shown=True, path=path)
        raise
    print(found.table, flush=True)
    return Result(found, shown=True, path=path)
