"""Runs an experiment on this worker's share, as TF_CONFIG says; without TF_CONFIG, alone.

    dc_tf train --config_file=configs/quickstart.yaml --params_override=data.path=DIR --workdir=RUN

On a run folder that has a checkpoint, it goes on from there at the exact step.
"""

import os

import yaml
from absl import flags

FLAGS = flags.FlagValues()
CONFIG_FILE = flags.DEFINE_multi_string(
    "config_file",
    [],
    "YAML file with what differs from the defaults; a later one overrides an earlier one.",
    flag_values=FLAGS,
)
PARAMS_OVERRIDE = flags.DEFINE_multi_string(
    "params_override",
    [],
    "Settings over those of the files: a.b=c,stages[0].epochs=3, a YAML mapping, or a YAML file.",
    flag_values=FLAGS,
)
WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Run folder, shared by all workers; created if missing.",
    flag_values=FLAGS,
    required=True,
)


def run() -> dict:
    """Trains; returns the result of the run."""
    from dc_tf import experiment as experiment_lib
    from dc_tf.data.manifest import Dataset
    from dc_tf.distributed.cluster import connect, task_from_environment
    from dc_tf.run_dir import RunDir
    from dc_tf.training.loop import plan_stages, pretrain

    # Everything that can be refused is refused before workers wait for one another.
    experiment = experiment_lib.load(CONFIG_FILE.value, PARAMS_OVERRIDE.value)
    rows = Dataset.open(experiment.data.path).rows
    plan_stages(experiment, rows, task_from_environment().size)
    run_dir = RunDir(WORKDIR.value)
    _check_same_experiment(experiment, run_dir)
    cluster = connect()
    if cluster.is_chief:
        _write_experiment(experiment, run_dir)
    cluster.world.barrier()
    result = pretrain(experiment, run_dir, cluster)
    cluster.world.barrier()  # an early leaver would break the others' last exchange
    return result


def _check_same_experiment(experiment, run_dir):
    from dc_tf import experiment as experiment_lib
    from dc_tf.errors import ConfigError

    if not os.path.exists(run_dir.config):
        return
    before = experiment_lib.load([run_dir.config])
    changed = experiment_lib.differences(before, experiment)
    if changed:
        raise ConfigError(
            f"{run_dir.path} holds a run with other settings ({'; '.join(changed)}); use another "
            "--workdir, or the settings of that run."
        )


def _write_experiment(experiment, run_dir):
    from dc_tf.run_dir import write_text

    run_dir.create()
    settings = experiment.as_dict()
    settings["stages"] = list(settings["stages"])
    write_text(run_dir.config, yaml.safe_dump(settings, sort_keys=False))
