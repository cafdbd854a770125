"""Loads the network to evaluate, and makes an untrained baseline.

frozen = open_model("/models/mine", compute_dtype="bfloat16")     # an exported model or a run
baseline = random_init(frozen)
frozen = open_other("theirs.onnx", Wanted(preprocessing=read("imagenet")))   # of any program
"""

import dataclasses
import os
import typing

from dc_tf import experiment
from dc_tf.exporting.metadata import default_short_side, is_saved_model, read_metadata
from dc_tf.exporting.no_model import no_model
from dc_tf.exporting.weights import copy_weights, named_weights, weights_digest
from dc_tf.networks.network import Network, Wanted
from dc_tf.networks.open import open_network
from dc_tf.networks.preprocessing import from_dict
from dc_tf.nn.trunks import TRUNKS, settings_of, trunk_class
from dc_tf.run_dir import RunDir

if typing.TYPE_CHECKING:  # brings Keras, which features and clusters do without
    from dc_tf.nn.trunk import Trunk


@dataclasses.dataclass(frozen=True)
class FrozenModel:
    """A network with fixed weights, and the preprocessing of its images.

    Attributes:
        name: name in tables and results.
        trunk: built Trunk, or a `networks.network.Network` of another program.
        short_side: short side in pixels before the centre crop to the trunk's resolution; 0: whole
            images without a crop.
        compute_dtype: "float32" or "bfloat16", compute type of the trunk; "own" of a network of
            another program, which has its own.
    """

    name: str
    trunk: "Trunk | Network"
    short_side: int
    compute_dtype: str = "float32"

    @property
    def resolution(self) -> int:
        """Side of the network's input in pixels."""
        return self.trunk.settings["resolution"]

    @property
    def interpolation(self) -> str:
        """Of scaling images: "bilinear", unless a network of another program states "bicubic"."""
        preprocessing = getattr(self.trunk, "preprocessing", None)
        return preprocessing.interpolation if preprocessing else "bilinear"

    @property
    def is_ours(self) -> bool:
        """Whether it is a network of this package, which can be made anew and trained."""
        return self.trunk.kind in TRUNKS

    @property
    def weights(self) -> str:
        """Digest of the weights, or of the files of a network of another program."""
        return weights_digest(self.trunk) if self.is_ours else self.trunk.digest

    @property
    def network(self) -> dict:
        """Kind, settings and type of the products, for results."""
        about = {"trunk": self.trunk.kind, **self.trunk.settings}
        return about | {"compute_dtype": self.compute_dtype}


def open_model(path: str, compute_dtype="float32", stage="") -> FrozenModel:
    """Loads an exported model, or a run's newest checkpoint or the one at the end of `stage`.

    Raises:
        ConfigError: the path is neither an exported model nor a run.
        DataError: the model or the run is corrupt.
    """
    path = os.path.expanduser(path)
    if is_saved_model(path):
        from dc_tf.exporting.saved_model import restore_trunk

        trunk = restore_trunk(path, compute_dtype)
        return FrozenModel(path, trunk, read_metadata(path).short_side, compute_dtype)
    if os.path.isfile(RunDir(path).config):
        return _open_run(path, compute_dtype, stage)
    raise no_model(path)


def open_other(path: str, wanted=Wanted()) -> FrozenModel:  # noqa: B008
    """Loads a network of another program; see `networks.open.open_network` for errors."""
    network = open_network(os.path.expanduser(path), wanted)
    return FrozenModel(path, network, network.preprocessing.short_side, network.product_dtype)


def reopen(path: str, about: dict, layer: str, stage="") -> FrozenModel:
    """Loads the network that made features, as their `embed.json` describes it.

    Args:
        path: of the network.
        about: contents of `embed.json`.
        layer: of the features.
        stage: of a run.

    Raises:
        ConfigError, DataError: as of `open_model` and `open_other`.
    """
    recorded = about.get("network")
    if recorded is None:
        return open_model(path, about.get("compute_dtype", "float32"), stage)
    preprocessing = from_dict(recorded["preprocessing"])
    return open_other(path, Wanted((layer,), preprocessing, recorded["signature"]))


def of_trunk(trunk) -> FrozenModel:
    """A network that is in memory, with images shown to it as to an exported one."""
    short_side = default_short_side(trunk.settings["resolution"])
    return FrozenModel("a trunk in memory", trunk, short_side, trunk.product_dtype)


def network_settings(path: str) -> dict:
    """The settings of the network of a model or a run; does not load the weights.

    Raises:
        ConfigError, DataError: as in `open_model`.
    """
    return _kind_and_settings(path)[1]


def network_class(path: str) -> type["Trunk"]:
    """The class of the network of a model or a run; raises as `open_model`."""
    return trunk_class(_kind_and_settings(path)[0])


def _kind_and_settings(path):
    path = os.path.expanduser(path)
    if is_saved_model(path):
        metadata = read_metadata(path)
        return metadata.trunk, metadata.settings
    if os.path.isfile(RunDir(path).config):
        model = experiment.load([RunDir(path).config]).model
        return model.trunk, settings_of(model)
    raise no_model(path)


def random_init(frozen: FrozenModel, seed=0) -> FrozenModel:
    """An untrained network of the same shape, with the same preprocessing."""
    trunk = frozen.trunk.fresh(frozen.compute_dtype, seed, folded=False)
    return dataclasses.replace(frozen, name="random init", trunk=trunk)


def at_resolution(frozen: FrozenModel, resolution: int) -> FrozenModel:
    """The same convolutions for another image size; fully connected layers are new."""
    if resolution == frozen.resolution:
        return frozen
    trunk = frozen.trunk.fresh(frozen.compute_dtype, resolution=resolution)
    weights, into = named_weights(frozen.trunk), named_weights(trunk)
    for layer in into.keys() - set(trunk.dense_layers):
        for name, variable in into[layer].items():
            variable.assign(weights[layer][name])
    short_side = default_short_side(resolution)
    return dataclasses.replace(frozen, trunk=trunk, short_side=short_side)


def _open_run(path, compute_dtype, stage):
    # dc_tf.training is slow to import; exported models do not need it.
    from dc_tf.training.checkpoint import load_trunk

    trained, settings = load_trunk(path, stage)
    trunk = trained.fresh(compute_dtype)
    copy_weights(trained, into=trunk)
    short_side = settings.data.resize or default_short_side(trained.settings["resolution"])
    return FrozenModel(path, trunk, short_side, compute_dtype)
