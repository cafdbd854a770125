"""All settings of a run, and how settings are checked."""

import dataclasses
from collections.abc import Sequence

from dc_tf.experiment.data import Data, check_data
from dc_tf.experiment.model import Model, check_model
from dc_tf.experiment.need import need, need_at_least
from dc_tf.experiment.stage import Stage, check_stage
from dc_tf.hyperparams import Config
from dc_tf.limits import AUTO, LONGEST_S, SECONDS


@dataclasses.dataclass
class Watchdog(Config):
    """How long to wait for a worker that is silent or makes no progress.

    Attributes:
        timeout_s: seconds; ten times as many in slow operations such as the first step. A dead
            worker is found within seconds. 0 waits forever for a living one.
    """

    timeout_s: float = 600.0


@dataclasses.dataclass
class Experiment(Config):
    """All settings of a run.

    Attributes:
        seed: of initial weights, sampling, augmentation and clustering.
        stages: run one after the other on the same trunk.
        checkpoint_every: steps between checkpoints; one is also written after each round.
        keep_checkpoints: newest checkpoints to keep, beside those at the ends of stages.
        keep_clusterings: newest clusterings whose centroids, whitening and network are kept, to
            assign other images to them; 0 keeps none, but for that of the round in a stage with
            prototypes. `--dry_run` prints the size of one.
        log_every: steps between lines of metrics.
        init_from: run folder, or exported or imported model, whose trunk this run starts from.
        init_stage: name of a stage of that run, to start from its end; "" for the run's end.
        threads: parallel calls of the input pipeline; 0 for one per core.
    """

    seed: int = 0
    data: Data = dataclasses.field(default_factory=Data)
    model: Model = dataclasses.field(default_factory=Model)
    stages: tuple[Stage, ...] = ()
    checkpoint_every: int = 1000
    keep_checkpoints: int = 3
    keep_clusterings: int = 2
    log_every: int = 50
    init_from: str = ""
    init_stage: str = ""
    threads: int = 0
    watchdog: Watchdog = dataclasses.field(default_factory=Watchdog)


def with_types(experiment: Experiment, model: str, stages: Sequence[str]) -> Experiment:
    """The experiment with "auto" of its floating-point types replaced.

    Args:
        experiment: any; other types than "auto" stay.
        model: of `model.compute_dtype`.
        stages: of each stage's `clustering.precision`; stages beyond these stay as they are.
    """
    network, replaced = experiment.model, list(experiment.stages)
    if network.compute_dtype == AUTO:
        network = network.replace(compute_dtype=model)
    for index, (stage, precision) in enumerate(zip(replaced, stages, strict=False)):
        if stage.clustering.precision == AUTO:
            clustering = stage.clustering.replace(precision=precision)
            replaced[index] = stage.replace(clustering=clustering)
    return experiment.replace(model=network, stages=tuple(replaced))


def check(experiment: Experiment) -> None:
    """Refuses what cannot work on any number of workers.

    Raises:
        ConfigError: naming the setting, what it is and what would work.
    """
    check_data(experiment.data, experiment.model.resolution)
    check_model(experiment.model)
    need(experiment.stages, "stages", experiment.stages, "list at least one stage")
    for setting in ("seed", "keep_clusterings"):
        value = getattr(experiment, setting)
        need(value >= 0, setting, value, "use a number from 0 on")
    need(experiment.threads >= 0, "threads", experiment.threads, "use 0, or at least 1")
    seconds = experiment.watchdog.timeout_s
    need(0 <= seconds <= LONGEST_S, "watchdog.timeout_s", seconds, SECONDS)
    names = [stage.name for stage in experiment.stages]
    need(len(set(names)) == len(names), "stages[...].name", names, "give each stage its own name")
    for setting in ("checkpoint_every", "keep_checkpoints", "log_every"):
        need_at_least(setting, getattr(experiment, setting), 1)
    for i, stage in enumerate(experiment.stages):
        check_stage(stage, f"stages[{i}]", experiment.data, experiment.model)
