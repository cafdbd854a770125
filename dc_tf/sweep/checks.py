"""What can be known to be wrong before the first cell starts, with TensorFlow's import.

    check_evaluations(sweep, cells)
    check_runs(cells, workers=1)

`sweep_file` and `cells` check the rest without it.
"""

from dc_tf.data.storage.manifest import Dataset
from dc_tf.errors import ConfigError, DataError

_NO_TEST = ("nmi",)  # tasks without a test set, beside those on a VOC development kit


def check_evaluations(sweep, cells) -> None:
    """Checks tasks, their settings, layers and data; raises ConfigError with the place."""
    trunks = {cell.run.experiment.model.trunk for cell in cells if cell.evaluated}
    for evaluation in sweep.evaluations:
        place = f"{sweep.path}, evaluations.{evaluation.name}"
        try:
            _check_evaluation(sweep, evaluation, trunks)
        except (ConfigError, DataError) as error:
            raise ConfigError(f"{place}: {error}") from error


def _check_evaluation(sweep, evaluation, trunks):
    from dc_tf.evaluation import tasks
    from dc_tf.evaluation.frozen.features import parse_layers
    from dc_tf.evaluation.task_names import BY_LAYER, DEVKIT
    from dc_tf.nn.trunks import trunk_class

    task, settings = evaluation.task or None, [evaluation.settings]
    asked = tasks.read(task, evaluation.config_files, settings, evaluation.protocol)
    if asked.task in BY_LAYER:
        for trunk in sorted(trunks):
            parse_layers(evaluation.layers, trunk_class(trunk).layer_names)
    if any(variant.untrained for variant in sweep.variants) and asked.task in ("nmi", "rotation"):
        raise ConfigError(
            f"{asked.task} cannot measure an untrained network; leave out the untrained variant, "
            "or this evaluation."
        )
    on_kit = asked.task in DEVKIT or "test_split" in asked.given
    train = evaluation.train or sweep.train
    if on_kit and not train:
        raise ConfigError("train is missing; name the VOC development kit here or by --train=KIT.")
    if on_kit or asked.task in _NO_TEST:
        return
    test = evaluation.test or sweep.test
    if not test:
        raise ConfigError("test is missing; set it here or in the sweep, or give --test=TEST.")
    if asked.task != "retrieval":
        _check_labelled(test, asked.task)
        _check_labelled(train or sweep.data, asked.task)


def _check_labelled(path, task):
    dataset = Dataset.open(path)
    if task != "rotation" and not (dataset.labels() >= 0).any():
        raise ConfigError(f"{path} has no labels, which {task} needs.")


def check_runs(runs, sweep) -> None:
    """Checks optimizers and backends of the runs, and that networks fit those they start from.

    Raises:
        ConfigError: with the cell.
    """
    from dc_tf.training.init_from import check_same_network, network_settings
    from dc_tf.training.preflight import check_stages

    for run in runs:
        try:
            check_stages(run.experiment)
            if run.after:
                check_same_network(
                    network_settings(run.after.experiment.model), run.experiment.model
                )
        except ConfigError as error:
            raise ConfigError(f"{sweep.path}, cell {run.name}: {error}") from error
