"""Runs an experiment on this worker's share, as TF_CONFIG says; without TF_CONFIG, alone.

    dc_tf train --config_file=configs/quickstart.yaml --params_override=data.path=DIR --workdir=RUN

On a run folder that has a checkpoint, it goes on from there at the exact step. With --dry_run it
says what it would do, and what a worker needs for it, and starts nothing. --dry_run --measure also
takes some steps of each stage on random weights, and says how long the whole takes.
"""

import contextlib
import os
import sys

from absl import flags, logging

from dc_tf.commands.logs import logged_to
from dc_tf.commands.results import Result
from dc_tf.distributed import stop_request
from dc_tf.errors import ConfigError, DataError

# Workers that measure do not watch one another, and may start so long after the first.
_JOIN_S = 300.0

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
DRY_RUN = flags.DEFINE_bool(
    "dry_run", False, "Print the plan and what it costs; start nothing.", flag_values=FLAGS
)
WORKERS = flags.DEFINE_integer(
    "workers",
    None,
    "With --dry_run: plan for so many workers, instead of those that TF_CONFIG names.",
    lower_bound=1,
    flag_values=FLAGS,
)
MEASURE = flags.DEFINE_bool(
    "measure",
    False,
    "With --dry_run: measure the speed of training and extraction here. Under launch/local.py or "
    "TF_CONFIG all workers measure together; a process alone measures the part of one worker.",
    flag_values=FLAGS,
)
GPUS = flags.DEFINE_bool(
    "gpus",
    None,
    "With --dry_run: whether the workers have GPUs; None: as this machine.",
    flag_values=FLAGS,
)


def run() -> dict | None:
    """Trains; returns the result of the run on the chief."""
    from dc_tf import experiment as experiment_lib
    from dc_tf.distributed.task import task_from_environment
    from dc_tf.run_dir import RunDir

    experiment = experiment_lib.load(CONFIG_FILE.value, PARAMS_OVERRIDE.value)
    folder = RunDir(WORKDIR.value)
    task = task_from_environment()
    workers = (DRY_RUN.value and WORKERS.value) or task.size
    if DRY_RUN.value or task.size == 1:
        _check_sizes(experiment, workers)
    # After all that can be known without it, since TensorFlow takes seconds to import.
    from dc_tf.atomic import locked
    from dc_tf.distributed.session import watched, writable

    if DRY_RUN.value:
        return _dry_run(experiment, folder, task)
    if WORKERS.value or GPUS.value is not None or MEASURE.value:
        raise ConfigError(
            "--workers, --gpus and --measure are for --dry_run; workers come from TF_CONFIG."
        )
    refusal = _refusal(experiment, folder, task.size)
    if refusal and task.size == 1:
        raise refusal
    setting = f"--workdir={folder.path}"
    timeout_s = experiment.watchdog.timeout_s
    watching = watched(setting, folder.heartbeats, folder.stacks, task, timeout_s)
    with contextlib.ExitStack() as stack:
        watchdog = stack.enter_context(watching)
        with writable(setting):
            stack.enter_context(logged_to(folder.log(task.rank), FLAGS.verbosity))
            if task.rank == 0:
                stack.enter_context(locked(folder.lock, folder.path))
        return _train(experiment, folder, refusal, watchdog)


def _train(experiment, folder, refusal, watchdog):
    from dc_tf.distributed.collective_errors import raise_if_any, raise_on_all
    from dc_tf.distributed.session import join, leaving
    from dc_tf.training.loop import pretrain
    from dc_tf.training.precisions import choose_precisions

    cluster = join(watchdog)
    with leaving(cluster):
        raise_if_any(refusal, cluster.world)
        chosen = choose_precisions(experiment, cluster.world, _begun(folder))
        experiment = chosen.experiment
        if cluster.is_chief:
            _tell(chosen)
            _write_experiment(experiment, folder)
        cluster.world.barrier()
        with raise_on_all(cluster.world):
            _check_shared(folder, cluster.rank)
        result = pretrain(experiment, folder, cluster)
        return result and Result(result, path=folder.result)


def _begun(folder):
    """The settings of the run in the folder, or None."""
    from dc_tf import experiment as experiment_lib

    return experiment_lib.load([folder.config]) if os.path.exists(folder.config) else None


def _tell(chosen):
    for line in chosen.lines:
        print(f"train: {line}", file=sys.stderr, flush=True)
    for warning in chosen.warnings:
        logging.warning("%s", warning)


def _check_shared(folder, rank):
    if not os.path.exists(folder.config):
        raise ConfigError(
            f"--workdir={folder.path} is not the chief's folder on worker {rank}; use one that all "
            "workers share."
        )


def _dry_run(experiment, run_dir, task) -> dict | None:
    """Prints the plan on the chief, or raises what keeps the run from starting."""
    from dc_tf.data.storage.manifest import Dataset
    from dc_tf.planning.plan import make_plan
    from dc_tf.planning.report import as_dict, as_text
    from dc_tf.training.precisions import choose_precisions
    from dc_tf.training.rates import rates_of

    workers = WORKERS.value or task.size
    refusal = _refusal(experiment, run_dir, workers)
    if refusal:
        raise refusal
    rows = Dataset.open(experiment.data.path).rows
    if MEASURE.value:
        chosen, plan, rates = _measured(experiment, run_dir, rows, workers, task)
    if task.rank:
        return None
    if not MEASURE.value:
        chosen = choose_precisions(experiment, earlier=_begun(run_dir))
        plan = make_plan(chosen.experiment, rows, workers, _on_gpu())
        rates = rates_of(run_dir)
    print(as_text(plan, rates))
    print("\n".join(chosen.lines))
    for warning in chosen.warnings:
        logging.warning("%s", warning)
    result = {"dry_run": True, "compute_dtype": chosen.model.dtype, **as_dict(plan, rates)}
    return Result(result, shown=True)


def _measured(experiment, run_dir, rows, workers, task):
    """Precisions, plan and speed, from all workers of TF_CONFIG or from this process alone."""
    from dc_tf.distributed.cluster import connect
    from dc_tf.distributed.session import leaving
    from dc_tf.planning.plan import make_plan
    from dc_tf.training.measure import measure
    from dc_tf.training.precisions import choose_precisions

    if task.size not in (1, workers):
        raise ConfigError(
            f"--workers={workers} and TF_CONFIG has {task.size}, which would measure together; "
            "leave out one of the two."
        )
    cluster = connect(within_s=_JOIN_S)
    if task.size > 1:
        # TensorFlow has installed its own, and nothing is to be saved.
        stop_request.restore_default_handlers()
    with leaving(cluster):
        chosen = choose_precisions(experiment, cluster.world, earlier=_begun(run_dir))
        plan = make_plan(chosen.experiment, rows, workers, _on_gpu())
        return chosen, plan, measure(chosen.experiment, plan, cluster)


def _on_gpu():
    import tensorflow as tf

    if GPUS.value is not None:
        return GPUS.value
    return bool(tf.config.list_physical_devices("GPU"))


def _check_sizes(experiment, workers):
    """Refuses a data set that is not there or does not fit; needs no TensorFlow.

    Raises:
        ConfigError: what does not fit.
    """
    from dc_tf.data.storage.manifest import Dataset
    from dc_tf.planning.stages import plan_stages

    try:
        plan_stages(experiment, Dataset.open(experiment.data.path).rows, workers)
    except DataError as error:
        raise ConfigError(str(error)) from error


def _refusal(experiment, run_dir, workers) -> ConfigError | None:
    """What keeps this worker from training, found before anything is started."""
    from dc_tf.data.storage.manifest import Dataset
    from dc_tf.training.preflight import check_start

    try:
        dataset = Dataset.open(experiment.data.path)
        check_start(experiment, dataset.rows, workers)
        _check_same_run(experiment, dataset, run_dir)
    except (ConfigError, DataError) as error:
        return ConfigError(str(error))
    return None


def _check_same_run(experiment, dataset, run_dir):
    from dc_tf import experiment as experiment_lib
    from dc_tf.atomic import read_json
    from dc_tf.training.precisions import as_begun

    if not os.path.exists(run_dir.config):
        return
    begun = experiment_lib.load([run_dir.config])
    changed = experiment_lib.differences(begun, as_begun(experiment, begun))
    if changed:
        raise ConfigError(
            f"{run_dir.path} holds a run with other settings ({'; '.join(changed)}); use another "
            "--workdir, or the settings of that run."
        )
    before = read_json(run_dir.data)["fingerprint"] if os.path.exists(run_dir.data) else None
    if before not in (None, dataset.fingerprint()):
        raise ConfigError(
            f"{run_dir.path} holds a run on another data set ({before}) than {dataset.path} "
            f"({dataset.fingerprint()}); use another --workdir, or that data set."
        )


def _write_experiment(experiment, run_dir):
    from dc_tf.atomic import write_json, write_text
    from dc_tf.data.storage.manifest import Dataset
    from dc_tf.experiment import to_yaml

    dataset = Dataset.open(experiment.data.path)
    write_json(run_dir.data, {"path": dataset.path, "fingerprint": dataset.fingerprint()})
    write_text(run_dir.config, to_yaml(experiment))
