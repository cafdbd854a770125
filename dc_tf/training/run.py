"""A run from its settings to its result: what is refused, the workers, the training; or its plan.

    result = train(experiment, "/runs/mine")       # as TF_CONFIG says; without TF_CONFIG, alone
    plan = dry_run(experiment, "/runs/mine", workers=64)

TensorFlow, which takes seconds to import, comes after all that can be refused without it.
"""

import contextlib
import dataclasses
import os
import sys

from absl import logging

from dc_tf import experiment as experiment_lib
from dc_tf import paths
from dc_tf.atomic import locked, read_json, write_json, write_text
from dc_tf.data.storage.manifest import Dataset
from dc_tf.distributed import stop_request
from dc_tf.distributed.ports import check_own_port
from dc_tf.distributed.task import task_from_environment
from dc_tf.errors import ConfigError, ConfigErrorOfAll, DataError
from dc_tf.planning.stages import plan_stages
from dc_tf.run_dir import RunDir
from dc_tf.run_log import logged_to
from dc_tf.versions import installed

# Workers that measure run without a watchdog; seconds within which all have to start.
_JOIN_S = 300.0


def train(experiment, workdir, on_log=None) -> dict | None:
    """Trains on this worker's share; resumes a run that has begun.

    Args:
        experiment: experiment.Experiment, the same on all workers.
        workdir: run folder, shared by all workers; created if missing.
        on_log: called with the path of this worker's log once it exists, or None.

    Returns:
        as `loop.pretrain`: the summary on the chief, None on the others.

    Raises:
        ConfigError: a setting, data set or folder cannot work; nothing was started.
        DataError, Preempted: as of `loop.pretrain`.
    """
    folder = RunDir(workdir)
    task = task_from_environment()
    check_own_port(task)
    paths.check_folder(folder.path, "--workdir")
    if os.environ.get("DC_TF_SCRATCH"):
        paths.check_folder(folder.features(task.rank), "DC_TF_SCRATCH")
    try:
        _check_sizes(experiment, task.size, task.rank)
    except DataError as error:
        if task.size == 1:
            raise ConfigError(str(error)) from error
        # Hosts may differ in what they can read: raised below on all workers, once joined.
    # Imported after the checks that do not need TensorFlow, which takes seconds to import.
    from dc_tf.distributed.session import watched, writable

    error = _start_error(experiment, folder, task.size)
    if error and task.size == 1:
        raise error
    setting = f"--workdir={folder.path}"
    timeout_s = experiment.watchdog.timeout_s
    watching = watched(setting, folder.heartbeats, folder.stacks, task, timeout_s)
    with contextlib.ExitStack() as stack:
        watchdog = stack.enter_context(watching)
        with writable(setting):
            log = folder.log(task.rank)
            stack.enter_context(logged_to(log))
            if on_log:
                on_log(log)
            if task.rank == 0:
                stack.enter_context(locked(folder.lock, folder.path))
        return _train(experiment, folder, error, watchdog)


@dataclasses.dataclass(frozen=True)
class DryRun:
    """The plan of a run.

    Attributes:
        text: the plan as a table.
        result: the plan as a JSON-ready dict.
    """

    text: str
    result: dict


def dry_run(
    experiment, workdir, workers=None, measures=None, gpus=None, network=None
) -> DryRun | None:
    """Plans what `train` would do and its cost; starts and writes nothing.

    Args:
        experiment, workdir: as of `train`.
        workers: number of workers to plan for; None for those of TF_CONFIG.
        measures: whether to run a few steps of each stage and estimate the time of the run; None:
            where the plan is of this process alone, and its run has measured no speed.
        gpus: whether the workers have GPUs; None for those of this machine.
        network: planning.network.Network to predict steps on, or None.

    Returns:
        the plan on the chief, None on the others.

    Raises:
        ConfigError: as of `train`.
    """
    folder = RunDir(workdir)
    task = task_from_environment()
    alone = task.size == 1 and workers in (None, 1) and gpus is None
    workers = workers or task.size
    if measures or (measures is None and alone):
        check_own_port(task)
    try:
        _check_sizes(experiment, workers, task.rank)
    except DataError as error:
        raise ConfigError(str(error)) from error
    # From here on with TensorFlow.
    from dc_tf.planning.plan import make_plan
    from dc_tf.planning.report import as_dict, as_text
    from dc_tf.training.monitoring.rates import rates_of
    from dc_tf.training.precisions import choose_precisions

    error = _start_error(experiment, folder, workers)
    if error:
        raise error
    rows = Dataset.open(experiment.data.path).rows
    if measures is None and alone and not rates_of(folder).images_per_s:
        measures = True
        text = "train: measuring the speed here for some seconds; --nomeasure leaves it out"
        print(text, file=sys.stderr, flush=True)
    if measures:
        chosen, plan, rates = _measured(experiment, folder, rows, workers, task, gpus)
    if task.rank:
        return None
    if not measures:
        chosen = choose_precisions(experiment, earlier=_settings_of_run(folder))
        plan = make_plan(chosen.experiment, rows, workers, _on_gpu(gpus))
        rates = rates_of(folder)
    for warning in chosen.warnings:
        logging.warning("%s", warning)
    result = {"dry_run": True, "compute_dtype": chosen.model.dtype}
    result |= as_dict(plan, rates, network)
    return DryRun("\n".join([as_text(plan, rates, network), *chosen.lines]), result)


def _train(experiment, folder, error, watchdog):
    from dc_tf.distributed.collective_errors import raise_if_any, raise_on_all
    from dc_tf.distributed.session import join, leaving
    from dc_tf.training.loop import pretrain
    from dc_tf.training.precisions import choose_precisions

    cluster = join(watchdog)
    with leaving(cluster):
        raise_if_any(error, cluster.world)
        chosen = choose_precisions(experiment, cluster.world, _settings_of_run(folder))
        experiment = chosen.experiment
        if cluster.is_chief:
            _print_choices(chosen)
            _write_experiment(experiment, folder)
        cluster.world.barrier()
        with raise_on_all(cluster.world):
            _check_shared(folder, cluster.rank)
        return pretrain(experiment, folder, cluster)


def _settings_of_run(folder):
    """The settings that the run in the folder was started with, or None."""
    return experiment_lib.load([folder.config]) if os.path.exists(folder.config) else None


def _print_choices(chosen):
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


def _measured(experiment, run_dir, rows, workers, task, gpus):
    """Precisions, plan and speed, from all workers of TF_CONFIG or from this process alone."""
    from dc_tf.distributed.cluster import connect
    from dc_tf.distributed.session import leaving
    from dc_tf.planning.plan import make_plan
    from dc_tf.training.measure import measure
    from dc_tf.training.precisions import choose_precisions

    if task.size not in (1, workers):
        raise ConfigError(
            f"--workers={workers} and TF_CONFIG has {task.size}, which would measure together; "
            "use only one of the two."
        )
    cluster = connect(within_s=_JOIN_S)
    if task.size > 1:
        # TensorFlow has installed its own handlers, and there is nothing to save.
        stop_request.restore_default_handlers()
    with leaving(cluster):
        chosen = choose_precisions(experiment, cluster.world, earlier=_settings_of_run(run_dir))
        plan = make_plan(chosen.experiment, rows, workers, _on_gpu(gpus))
        return chosen, plan, measure(chosen.experiment, plan, cluster)


def _on_gpu(gpus):
    import tensorflow as tf

    if gpus is not None:
        return gpus
    return bool(tf.config.list_physical_devices("GPU"))


def _check_sizes(experiment, workers, rank):
    """Checks that the data set exists and fits the stages; needs no TensorFlow.

    Raises:
        ConfigError: it does not fit; ConfigErrorOfAll on workers other than the chief.
        DataError: it is missing.
    """
    rows = Dataset.open(experiment.data.path).rows
    try:
        plan_stages(experiment, rows, workers)
    except ConfigError as error:
        if rank:
            raise ConfigErrorOfAll(str(error)) from error
        raise


def _start_error(experiment, run_dir, workers) -> ConfigError | None:
    """The error that keeps this worker from training, or None; starts nothing."""
    from dc_tf.training.preflight import check_start

    try:
        dataset = Dataset.open(experiment.data.path)
        check_start(experiment, dataset.rows, workers)
        _check_same_run(experiment, dataset, run_dir)
    except (ConfigError, DataError) as error:
        return ConfigError(str(error))
    return None


def _check_same_run(experiment, dataset, run_dir):
    from dc_tf.training.precisions import as_begun

    if not os.path.exists(run_dir.config):
        return
    begun = experiment_lib.load([run_dir.config])
    changed = experiment_lib.differences(begun, as_begun(experiment, begun))
    if changed:
        raise ConfigError(
            f"{run_dir.path} holds a run with other settings ({'; '.join(changed)}); use the "
            "settings of that run to resume it, or another --workdir. To train on from its weights "
            f"with new settings, set init_from={run_dir.path} in the new one."
        )
    before = read_json(run_dir.data)["fingerprint"] if os.path.exists(run_dir.data) else None
    if before not in (None, dataset.fingerprint()):
        raise ConfigError(
            f"{run_dir.path} holds a run on another data set ({before}) than {dataset.path} "
            f"({dataset.fingerprint()}); use another --workdir, or that data set."
        )


def _write_experiment(experiment, run_dir):
    dataset = Dataset.open(experiment.data.path)
    write_json(run_dir.data, {"path": dataset.path, "fingerprint": dataset.fingerprint()})
    write_json(run_dir.versions, installed())
    write_text(run_dir.config, experiment_lib.to_yaml(experiment))
