"""The paper's figures, to stand beside one's own, in percent. Source: REFERENCE section 5."""

from dc_tf.nn.vgg16 import CONV_LAYERS

# Linear classifiers on frozen layers conv1..conv13, top-1 (Table 4, Figure 2).
LINEAR_TOP1 = {
    "imagenet": {
        "supervised": (7.8, 12.3, 15.6, 21.4, 24.4, 24.1, 33.4, 41.1, 44.7, 49.6, 61.2, 66.0, 70.2),
        "RotNet": (10.9, 15.7, 17.2, 21.0, 27.0, 26.6, 26.7, 33.5, 35.2, 33.5, 39.6, 38.2, 33.0),
        "DeeperCluster": (
            *(7.4, 9.6, 14.9, 16.8, 26.1, 29.2, 34.2, 41.6, 43.4, 45.5, 49.0, 49.2, 45.6),
        ),
    },
    "places205": {
        "supervised": (
            *(10.5, 16.4, 20.7, 24.7, 30.3, 31.3, 35.0, 38.1, 39.5, 40.8, 45.4, 45.3, 45.9),
        ),
        "RotNet": (13.9, 19.1, 22.5, 24.8, 29.9, 30.8, 32.5, 35.3, 36.0, 36.1, 38.8, 37.9, 35.5),
        "DeeperCluster": (
            *(12.7, 14.8, 21.2, 23.3, 30.5, 32.6, 34.8, 39.5, 40.8, 41.6, 44.0, 44.0, 42.1),
        ),
    },
}

# ImageNet fine-tuning, (top-1, top-5) after 100 and after 90 epochs (Table 2); None: not given.
FINETUNE = {
    "imagenet100": {
        "from scratch": (73.9, 91.7),
        "RotNet": (73.9, 91.8),
        "DeeperCluster": (74.6, 92.1),
    },
    "imagenet90": {
        "from scratch": (73.3, None),
        "RotNet": (73.7, None),
        "DeeperCluster": (74.3, None),
    },
}

# Instance retrieval, mAP (Table 6). "ImageNet": trained with its labels.
RETRIEVAL = {
    "oxford5k": {
        "ImageNet": 72.4,
        "random": 6.9,
        "RotNet": 46.5,
        "DeepCluster": 57.2,
        "DeeperCluster": 55.8,
    },
    "paris6k": {
        "ImageNet": 81.5,
        "random": 22.0,
        "RotNet": 59.2,
        "DeepCluster": 74.6,
        "DeeperCluster": 73.4,
    },
}


# Fine-tuning on VOC 2007, mAP (Table 1).
VOC07_CLASSIFICATION = {
    "fc68": {
        "ImageNet labels": 89.3,
        "random": 10.1,
        "DeepCluster": 78.5,
        "DeeperCluster": 79.7,
    },
    "all": {
        "ImageNet labels": 89.2,
        "random": 49.6,
        "DeepCluster": 82.5,
        "DeeperCluster": 84.3,
    },
}
VOC07_DETECTION = {
    "fc68": {
        "ImageNet labels": 66.3,
        "random": 5.4,
        "DeepCluster": 58.7,
        "DeeperCluster": 60.5,
    },
    "all": {
        "ImageNet labels": 70.3,
        "random": 55.6,
        "DeepCluster": 65.9,
        "DeeperCluster": 67.8,
    },
}
# Linear classifiers on conv13 (Table 3), VOC 2007, mAP.
LINEAR_VOC07 = {
    "supervised": 84.8,
    "RotNet": 62.2,
    "DeepCluster": 63.9,
    "DeeperCluster": 73.0,
}
LINEAR_DATA = (*LINEAR_TOP1, "voc07")


def linear_figures(data: str) -> dict:
    """{method: {layer: share in [0, 1]}} of linear classifiers; fc6 and fc7 were not measured.

    Args:
        data: of LINEAR_DATA. For "voc07" it is mAP, and of conv13 alone.
    """
    if data == "voc07":
        return {method: {"conv13": round(p / 100, 4)} for method, p in LINEAR_VOC07.items()}
    return {
        method: {layer: round(percent / 100, 4) for layer, percent in zip(CONV_LAYERS, percents)}
        for method, percents in LINEAR_TOP1[data].items()
    }
