"""Loads the network to evaluate from an exported model or a run, and makes an untrained baseline.

frozen = open_model("/models/mine", compute_dtype="bfloat16")
baseline = random_init(frozen)
"""

import dataclasses
import os

from dc_tf import experiment
from dc_tf.exporting.fold_sobel import FoldedVGG16
from dc_tf.exporting.metadata import default_short_side, read_metadata
from dc_tf.exporting.refusal import no_model
from dc_tf.exporting.saved_model import is_saved_model, restore_trunk
from dc_tf.exporting.weights import copy_weights, named_weights
from dc_tf.nn.vgg16 import CONV_LAYERS, VGG16
from dc_tf.run_dir import RunDir


@dataclasses.dataclass(frozen=True)
class FrozenModel:
    """A network with fixed weights, and the preprocessing of its images.

    Attributes:
        name: name in tables and results.
        trunk: built VGG16 or FoldedVGG16.
        short_side: short side in pixels before the centre crop to the trunk's resolution.
        compute_dtype: "float32" or "bfloat16", compute type of the trunk.
    """

    name: str
    trunk: VGG16
    short_side: int
    compute_dtype: str = "float32"

    @property
    def resolution(self) -> int:
        """Side of the network's input in pixels."""
        return self.trunk.settings["resolution"]


def open_model(path: str, compute_dtype="float32", stage="") -> FrozenModel:
    """Loads an exported model, or a run's newest checkpoint or the one at the end of `stage`.

    Raises:
        ConfigError: the path is neither an exported model nor a run.
        DataError: the model or the run is corrupt.
    """
    path = os.path.expanduser(path)
    if is_saved_model(path):
        trunk = restore_trunk(path, compute_dtype)
        return FrozenModel(path, trunk, read_metadata(path).short_side, compute_dtype)
    if os.path.isfile(RunDir(path).config):
        return _open_run(path, compute_dtype, stage)
    raise no_model(path)


def of_trunk(trunk) -> FrozenModel:
    """A network that is in memory, with images shown to it as to an exported one."""
    short_side = default_short_side(trunk.settings["resolution"])
    return FrozenModel("a trunk in memory", trunk, short_side, trunk.fc7.compute_dtype)


def network_settings(path: str) -> dict:
    """`width`, `resolution`, `fc` and `sobel` of a model or a run; does not load the weights.

    Raises:
        ConfigError, DataError: as in `open_model`.
    """
    path = os.path.expanduser(path)
    if is_saved_model(path):
        return read_metadata(path).settings
    if os.path.isfile(RunDir(path).config):
        model = experiment.load([RunDir(path).config]).model.as_dict()
        return {name: model[name] for name in ("width", "resolution", "fc", "sobel")}
    raise no_model(path)


def random_init(frozen: FrozenModel, seed=0) -> FrozenModel:
    """An untrained network of the same shape, with the same preprocessing."""
    trunk = VGG16(**frozen.trunk.settings, compute_dtype=frozen.compute_dtype, seed=seed)
    return dataclasses.replace(frozen, name="random init", trunk=trunk.built_at_resolution())


def at_resolution(frozen: FrozenModel, resolution: int) -> FrozenModel:
    """The same convolutions for another image size; fc6 and fc7 are newly initialised."""
    if resolution == frozen.resolution:
        return frozen
    settings = {**frozen.trunk.settings, "resolution": resolution}
    if isinstance(frozen.trunk, FoldedVGG16):
        settings.pop("sobel")
    trunk = type(frozen.trunk)(**settings, compute_dtype=frozen.compute_dtype)
    weights, into = named_weights(frozen.trunk), named_weights(trunk.built_at_resolution())
    for layer in CONV_LAYERS:
        for name, variable in into[layer].items():
            variable.assign(weights[layer][name])
    short_side = default_short_side(resolution)
    return dataclasses.replace(frozen, trunk=trunk, short_side=short_side)


def _open_run(path, compute_dtype, stage):
    # dc_tf.training is slow to import; exported models do not need it.
    from dc_tf.training.checkpoint import load_trunk

    trained, settings = load_trunk(path, stage)
    trunk = VGG16(**trained.settings, compute_dtype=compute_dtype).built_at_resolution()
    copy_weights(trained, into=trunk)
    short_side = settings.data.resize or default_short_side(trained.settings["resolution"])
    return FrozenModel(path, trunk, short_side, compute_dtype)
