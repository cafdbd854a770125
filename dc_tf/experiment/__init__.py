"""The configuration of an experiment: data, model and stages.

The defaults are the paper's. A YAML file overrides them, and `--params_override` overrides the
file.

    experiment = load(["quickstart"], ["data.path=/data/mine,stages[0].epochs=2"])
"""

from dc_tf.experiment.augmentation import Augmentation, Views
from dc_tf.experiment.clustering import Clustering
from dc_tf.experiment.compare import differences, result_settings
from dc_tf.experiment.contrast import Contrast
from dc_tf.experiment.data import Data
from dc_tf.experiment.experiment import Experiment, Watchdog, check, with_types
from dc_tf.experiment.files import load, to_yaml
from dc_tf.experiment.model import Model
from dc_tf.experiment.optimizer import Optimizer
from dc_tf.experiment.projection import Projection
from dc_tf.experiment.stage import Stage

__all__ = [
    "Augmentation",
    "Clustering",
    "Contrast",
    "Data",
    "Experiment",
    "Model",
    "Optimizer",
    "Projection",
    "Stage",
    "Views",
    "Watchdog",
    "check",
    "differences",
    "load",
    "result_settings",
    "to_yaml",
    "with_types",
]
