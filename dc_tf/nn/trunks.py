"""The networks that can be trained, by name. Importing this module does not import TensorFlow.

    trunk = make_trunk("resnet18", width=0.5, resolution=64, stem="small", sobel=True)
    trunk = trunk_of(experiment.model, seed=0)

A new network is a file with a subclass of `Trunk`, and a line in `TRUNKS`.
"""

import dataclasses
import importlib
import itertools
import typing

if typing.TYPE_CHECKING:
    from dc_tf.nn.trunk import Trunk

IMAGENET, SMALL = "imagenet", "small"
STEMS = (IMAGENET, SMALL)


@dataclasses.dataclass(frozen=True)
class Listing:
    """What is known of a network without TensorFlow.

    Attributes:
        path: "module.Class" in this package.
        smallest: {stem: smallest resolution in pixels}.
        features: length of the clustered feature at width 1; None: the setting `fc`.
    """

    path: str
    smallest: dict
    features: int | None = None


TRUNKS = {
    "vgg16": Listing("vgg16.VGG16", {IMAGENET: 30}),
    "resnet18": Listing("resnet.ResNet18", {IMAGENET: 32, SMALL: 8}, 512),
    "resnet50": Listing("resnet.ResNet50", {IMAGENET: 32, SMALL: 8}, 2048),
}


def trunk_class(kind: str) -> type["Trunk"]:
    """The class of a name in `TRUNKS`."""
    module, name = TRUNKS[kind].path.rsplit(".", 1)
    return getattr(importlib.import_module(f"dc_tf.nn.{module}"), name)


def make_trunk(kind: str, **arguments) -> "Trunk":
    """A network that is not built yet.

    Args:
        kind: a name in `TRUNKS`.
        arguments: of its class: its settings, and folded, compute_dtype and seed.
    """
    return trunk_class(kind)(**arguments)


def trunk_of(model, seed: int = 0) -> "Trunk":
    """The network of `experiment.Model`, not built yet."""
    settings = settings_of(model)
    return make_trunk(model.trunk, **settings, compute_dtype=model.compute_dtype, seed=seed)


def settings_of(model) -> dict:
    """The settings of `experiment.Model` that its network has."""
    return {name: getattr(model, name) for name in trunk_class(model.trunk).setting_names}


def feature_dim(model) -> int:
    """Length of the vectors that are clustered, of `experiment.Model`."""
    features = TRUNKS[model.trunk].features
    # As `trunk.scaled`, which needs TensorFlow.
    return model.fc if features is None else max(1, round(features * model.width))


def all_layer_names(which: str = "layer_names") -> tuple[str, ...]:
    """The `layer_names` or `map_names` of all networks, each once."""
    names = (getattr(trunk_class(kind), which) for kind in TRUNKS)
    return tuple(dict.fromkeys(itertools.chain.from_iterable(names)))
