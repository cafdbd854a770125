"""The paper's figures, to stand beside one's own. Source: REFERENCE section 5 (Table 4)."""

from dc_tf.nn.vgg16 import CONV_LAYERS

# Linear classifiers on frozen layers, ImageNet, top-1 in percent.
_IMAGENET_LINEAR = {
    "supervised": (7.8, 12.3, 15.6, 21.4, 24.4, 24.1, 33.4, 41.1, 44.7, 49.6, 61.2, 66.0, 70.2),
    "RotNet": (10.9, 15.7, 17.2, 21.0, 27.0, 26.6, 26.7, 33.5, 35.2, 33.5, 39.6, 38.2, 33.0),
    "DeeperCluster": (7.4, 9.6, 14.9, 16.8, 26.1, 29.2, 34.2, 41.6, 43.4, 45.5, 49.0, 49.2, 45.6),
}


def imagenet_linear_top1(layer: str) -> dict:
    """{method: share in [0, 1]} of a conv layer; empty for fc6 and fc7, which were not measured."""
    if layer not in CONV_LAYERS:
        return {}
    place = CONV_LAYERS.index(layer)
    return {name: round(row[place] / 100, 4) for name, row in _IMAGENET_LINEAR.items()}
