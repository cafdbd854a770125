"""Initial weights from another run, a stage of it, or an exported model (setting `init_from`).

check_initial(experiment)                        # before the run starts
trunk.set_weights(initial_weights(experiment))
"""

import os

from dc_tf import experiment as experiment_lib
from dc_tf.errors import ConfigError, DataError
from dc_tf.exporting.metadata import is_saved_model, read_metadata
from dc_tf.exporting.saved_model import restore_trunk
from dc_tf.nn.trunks import settings_of
from dc_tf.run_dir import RunDir
from dc_tf.training.checkpoint import find_checkpoint, load_trunk


def check_initial(experiment) -> None:
    """Checks that `init_from` can initialise this experiment; starts no TensorFlow.

    Raises:
        ConfigError: it is neither a run that has finished the stage nor an export, or it has
            another network.
        DataError: it is corrupt.
    """
    path, stage = experiment.init_from, experiment.init_stage
    if not path:
        if stage:
            raise ConfigError(f"init_stage is {stage!r}; set init_from to the run of that stage.")
    elif is_saved_model(path):
        _check_export(path, stage, experiment.model)
    else:
        _check_run(path, stage, experiment.model)


def initial_weights(experiment) -> list:
    """Arrays in the order of `Trunk.get_weights`."""
    path = experiment.init_from
    if is_saved_model(path):
        return restore_trunk(path).get_weights()
    return load_trunk(path, experiment.init_stage)[0].get_weights()


def _check_run(path, stage, model):
    run = RunDir(path)
    if not os.path.exists(run.config) or not (stage or os.path.exists(run.result)):
        raise ConfigError(
            f"init_from is {path!r}, which is neither a finished run nor a model of 'dc_tf export' "
            "or 'dc_tf import_torch'; for a run in progress, set init_stage to a finished stage."
        )
    experiment = experiment_lib.load([run.config])
    check_same_network(network_settings(experiment.model), model)
    try:
        find_checkpoint(run, experiment, stage)
    except (ConfigError, DataError) as error:
        raise ConfigError(f"init_from cannot be used: {error}") from error


def _check_export(path, stage, model):
    if stage:
        raise ConfigError(
            f"init_stage is {stage!r}, but init_from is an export, which has no stages; leave "
            "init_stage out, or name the folder of a run as init_from."
        )
    metadata = read_metadata(path)
    if metadata.folded:
        raise ConfigError(
            f"init_from is {path!r}, whose Sobel stage is folded into its first convolution; "
            "export or import it with --sobel=layer."
        )
    check_same_network({"trunk": metadata.trunk, **metadata.settings}, model)


def network_settings(model) -> dict:
    """The settings of `experiment.Model` that the shapes of the weights depend on."""
    return {"trunk": model.trunk, **settings_of(model)}


def check_same_network(theirs: dict, model) -> None:
    """Checks that a network has the shape of this experiment's; raises ConfigError.

    Args:
        theirs: as of `network_settings`.
        model: experiment.Model.
    """
    for name, value in theirs.items():
        ours = getattr(model, name)
        if value != ours:
            raise ConfigError(
                f"init_from is a network with model.{name} = {value}, this experiment "
                f"has {ours}; they have to be equal."
            )
