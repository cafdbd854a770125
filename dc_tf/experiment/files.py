"""Experiments as files: presets, YAML files and overrides."""

import yaml

from dc_tf import settings as settings_lib
from dc_tf.errors import ConfigError
from dc_tf.experiment.experiment import Experiment, check
from dc_tf.experiment.stage import Stage


def load(config_files=(), params_override=()) -> Experiment:
    """The defaults, then each YAML file, then each override, checked.

    Args:
        config_files: paths, or names of presets; a later file overrides an earlier one.
        params_override: YAML/JSON mappings, "a.b=c,d=e" strings (stages[0].epochs=3 reaches into
            a list), or paths of YAML files, as in tf-models.

    Raises:
        ConfigError: unreadable, an unknown setting, or a value that cannot work.
    """
    settings = settings_lib.read(config_files, params_override)
    stages = [
        settings_lib.fill(Stage(), stage, f"stages[{i}]")
        for i, stage in enumerate(_stages(settings))
    ]
    settings.pop("stages", None)
    experiment = settings_lib.fill(Experiment(), settings)
    experiment = experiment.replace(stages=tuple(stages))
    check(experiment)
    return experiment


def to_yaml(experiment: Experiment) -> str:
    """All settings, as `load` reads them."""
    settings = experiment.as_dict()
    settings["stages"] = list(settings["stages"])
    return yaml.safe_dump(settings, sort_keys=False)


def _stages(settings) -> list[dict]:
    stages = settings.get("stages") or []
    if not isinstance(stages, list) or not all(isinstance(s, dict) for s in stages):
        raise ConfigError(f"stages is {stages!r}; expected a list of mappings.")
    return stages
