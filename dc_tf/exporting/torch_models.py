"""The weights of a network under the names of the models of torchvision and timm.

    state = torchvision_state(trunk)     # torchvision.models.resnet50().load_state_dict(state)
    state = timm_state(trunk)            # timm.create_model("resnet50", num_classes=0)

Their models have one shape, so the network has to be of width 1 on RGB: with Sobel folded in, the
first convolution is larger than theirs. torchvision's classifier, which the network has none of, is
zero. Images are normalised by ImageNet's mean and deviation. VGG-16 here pads them by one more
pixel than there: its features are those of `torch.nn.functional.pad(images, (1, 1, 1, 1))`, zeros
after the normalisation.
"""

import numpy as np

from dc_tf.errors import ConfigError
from dc_tf.exporting.torch_weights import to_torch
from dc_tf.nn.sobel import RGB_MEAN, RGB_STD
from dc_tf.nn.vgg16 import final_map_size

CLASSES = 1000  # of torchvision's classifiers
_VGG_FC, _VGG_SIDE = 4096, 7
_TIMM = {"classifier.0": "pre_logits.fc1", "classifier.3": "pre_logits.fc2"}


def torchvision_state(trunk) -> dict:
    """{key: array} of torchvision's model `Trunk.torch_model`, all of its keys.

    Args:
        trunk: built Trunk.

    Raises:
        ConfigError: the network has another shape; says which.
    """
    check_shape(trunk, "torchvision")
    state = to_torch(trunk)
    head = "classifier.6" if trunk.kind == "vgg16" else "fc"
    state[f"{head}.weight"] = np.zeros([CLASSES, trunk.feature_dim], np.float32)
    state[f"{head}.bias"] = np.zeros([CLASSES], np.float32)
    return state


def timm_state(trunk) -> dict:
    """{key: array} of timm's model of that name with `num_classes=0`.

    Args, Raises: as of `torchvision_state`.
    """
    check_shape(trunk, "timm")
    state = {}
    for key, array in to_torch(trunk).items():
        layer, _, name = key.rpartition(".")
        if layer in _TIMM:  # convolutions there
            layer = _TIMM[layer]
            side = _VGG_SIDE if layer.endswith("fc1") else 1
            array = array.reshape(len(array), -1, side, side) if name == "weight" else array
        state[f"{layer}.{name}"] = array
    return state


def about(trunk) -> dict[str, str]:
    """What a file of weights says of its network: {name: text}."""
    return {
        "format": "pt",
        "architecture": trunk.torch_model,
        "resolution": str(trunk.settings["resolution"]),
        "mean": ", ".join(map(str, RGB_MEAN)),
        "std": ", ".join(map(str, RGB_STD)),
        "padding_of_images": "1" if trunk.kind == "vgg16" else "0",
    }


def check_shape(trunk, program: str) -> None:
    """Checks that the network has the shape of the program's model.

    Raises:
        ConfigError: it has not; says what differs, and which format takes the network.
    """
    others = "--format=torch, onnx, keras3 and saved_model take this network"
    if not trunk.torch_model:
        raise ConfigError(f"{program} has no {trunk.title}; {others}.")
    differs = _difference(trunk)
    if differs:
        raise ConfigError(
            f"{program}'s {trunk.torch_model} has another shape: {differs}. {others}."
        )


def _difference(trunk) -> str:
    """What differs from their models, "" if nothing does."""
    settings, theirs = trunk.settings, 3 if trunk.kind == "vgg16" else 7
    side = trunk.parts()[trunk.stem_conv].conv.kernel_size[0]
    if settings["sobel"]:
        own = side if trunk.folded else side + 2
        return (
            f"its first convolution is {theirs}x{theirs} on RGB, and {own}x{own} with Sobel folded "
            "in here; a network trained with model.sobel=false fits"
        )
    if side != theirs:
        return f"its first convolution is {theirs}x{theirs}, here {side}x{side} (model.stem)"
    if settings["width"] != 1:
        return f"its width is 1, here {settings['width']:g} (model.width)"
    if trunk.kind == "vgg16" and settings["fc"] != _VGG_FC:
        return f"its fully connected layers have {_VGG_FC} values, here {settings['fc']} (model.fc)"
    if trunk.kind == "vgg16" and final_map_size(settings["resolution"]) != _VGG_SIDE:
        return (
            f"its last map has {_VGG_SIDE}x{_VGG_SIDE} pixels, as of images of 222 to 253 pixels, "
            f"here of {settings['resolution']} (model.resolution)"
        )
    return ""
