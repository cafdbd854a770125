"""Runs an experiment on this worker's share, as TF_CONFIG says; without TF_CONFIG, alone.

    dc_tf train --config_file=quickstart --params_override=data.path=DIR --workdir=RUN

On a run folder with a checkpoint it resumes at the exact step. At the end it writes
RUN/clusters.parquet, as `dc_tf clusters` does. --dry_run prints the plan and what a
worker needs for it, and starts nothing. If the plan is of this machine, it also runs some steps of
each stage on random weights, to predict the time of the whole run; see --measure. With
--network_gbps it predicts the steps of many workers on such a network, from what one of them
computes.
"""

from dc_tf.commands.flags.define import CommandFlags
from dc_tf.commands.terminal import native_log
from dc_tf.commands.terminal.results import Result
from dc_tf.errors import ConfigError

FLAGS = CommandFlags()
CONFIG_FILE = FLAGS.multi_path(
    "config_file",
    [],
    "YAML file with what differs from the defaults, or the name of a preset, such as quickstart; a "
    "later one overrides an earlier one.",
)
PARAMS_OVERRIDE = FLAGS.multi_string(
    "params_override",
    [],
    "Settings over those of the files: a.b=c,stages[0].epochs=3, a YAML mapping, or a YAML file.",
)
WORKDIR = FLAGS.path(
    "workdir",
    None,
    "Run folder, shared by all workers; created if missing.",
    required=True,
)
DRY_RUN = FLAGS.bool("dry_run", False, "Print the plan and its cost; start nothing.")
WORKERS = FLAGS.integer(
    "workers",
    None,
    "With --dry_run: plan for so many workers instead of those of TF_CONFIG.",
    lower_bound=1,
)
MEASURE = FLAGS.bool(
    "measure",
    None,
    "With --dry_run: measure the speed of training and extraction here; None: if the plan is of "
    "one worker on this machine, and its run has measured none yet. Under `dc_tf launch` or "
    "TF_CONFIG all workers measure together; a process alone measures the part of one worker.",
)
GPUS = FLAGS.bool(
    "gpus",
    None,
    "With --dry_run: whether the workers have GPUs; None: as on this machine.",
)
NETWORK_GBPS = FLAGS.float(
    "network_gbps",
    None,
    "With --dry_run: predict steps on a network on which a worker sends so many Gb/s. What a "
    "worker computes comes from --measure in a process alone, or on GPUs is assumed.",
    lower_bound=1e-3,
)
NETWORK_LATENCY_US = FLAGS.float(
    "network_latency_us",
    None,
    "With --network_gbps: microseconds of a short message, all software included; None: 20 between "
    "GPUs, 2,100 between CPUs.",
    lower_bound=0.0,
)


def run() -> dict | None:
    """Trains; returns the result of the run on the chief."""
    from dc_tf import experiment as experiment_lib
    from dc_tf.curation.clusters import start
    from dc_tf.run_dir import RunDir
    from dc_tf.training import run as training

    experiment = experiment_lib.load(CONFIG_FILE.value, PARAMS_OVERRIDE.value)
    if NETWORK_LATENCY_US.value is not None and NETWORK_GBPS.value is None:
        raise ConfigError("--network_latency_us is for --network_gbps; give both, or none.")
    if DRY_RUN.value:
        planned = training.dry_run(
            experiment, WORKDIR.value, WORKERS.value, MEASURE.value, GPUS.value, _network()
        )
        if planned is None:
            return None
        print(planned.text)
        return Result(planned.result, shown=True)
    if WORKERS.value or GPUS.value is not None or MEASURE.value is not None or NETWORK_GBPS.value:
        raise ConfigError(
            "--workers, --gpus, --measure and --network_gbps are for --dry_run; workers come from "
            "TF_CONFIG."
        )
    result = training.train(experiment, WORKDIR.value, on_log=native_log.send_to)
    if not result:
        return None
    start.write_run_table(WORKDIR.value)
    return Result(result, path=RunDir(WORKDIR.value).result)


def _network():
    if NETWORK_GBPS.value is None:
        return None
    from dc_tf.planning.network import Network  # imports TensorFlow

    return Network(NETWORK_GBPS.value, NETWORK_LATENCY_US.value)
