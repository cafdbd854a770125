"""The paper's results in percent, shown beside measured ones on the paper's data sets.

    name = data_of(protocol.paper, labelled_data(classes=1000, train=1_281_167, test=50_000))
    linear_results(name)                     # {} for ""

The default of a task's setting `paper` is "auto", which shows the paper's results if the contents
of the data, never their path, match a data set of the paper. ImageNet and Places205 are recognised
by their numbers of classes and of training and test images; VOC 2007 by the names of its 20 classes
and the sizes of the lists `trainval` and `test`, if these are used; Oxford5k and Paris6k by their
classic ground truth with 55 queries and the number of images. Counts may be up to 1 % lower, since
unreadable files are often left out. `paper: imagenet` declares the data to be ImageNet's;
`paper: ""` shows no results of the paper.

Sources: docs/reference.md, section 5, for the results; the data sets' publications for the counts.
"""

import dataclasses

from dc_tf.errors import ConfigError

AUTO = "auto"
_MISSING_SHARE = 0.01  # of the images that a copy may lack


@dataclasses.dataclass(frozen=True)
class Facts:
    """Properties by which a data set is recognised.

    Attributes:
        kind: identifies the classes or the kind of ground truth.
        train: number of training images; 0 for a set without training images.
        test: number of test images.
        queries: number of queries of a retrieval ground truth.
    """

    kind: object
    train: int
    test: int
    queries: int = 0

    def is_copy_of(self, other: "Facts") -> bool:
        """Whether these match `other`, up to a few missing images."""
        return (self.kind, self.queries) == (other.kind, other.queries) and all(
            (1 - _MISSING_SHARE) * whole <= own <= whole
            for own, whole in ((self.train, other.train), (self.test, other.test))
        )


def labelled_data(classes: int, train: int, test: int) -> Facts:
    """Facts of data sets with one label per image."""
    return Facts(f"{classes} classes", train, test)


def voc_data(class_names, train, test) -> Facts:
    """Facts of two lists of a VOC development kit.

    Args:
        class_names: names of the kit's classes.
        train, test: (name of a list, number of its images).
    """
    return Facts((frozenset(class_names), train[0], test[0]), train[1], test[1])


def retrieval_data(kind: str, images: int, queries: int) -> Facts:
    """Facts of a retrieval ground truth; for `kind` see `retrieval.ground_truth.GroundTruth`."""
    return Facts(kind, 0, images, queries)


# In the order of the development kit.
_VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
_KNOWN = {
    "imagenet": labelled_data(1000, 1_281_167, 50_000),
    "places205": labelled_data(205, 2_448_873, 20_500),
    "voc07": voc_data(_VOC_CLASSES, ("trainval", 5_011), ("test", 4_952)),
    "oxford5k": retrieval_data("classic", 5_063, 55),
    "paris6k": retrieval_data("classic", 6_412, 55),
}


def data_of(setting: str, facts: Facts, among=tuple(_KNOWN)) -> str:
    """Name of the paper's data set that the data are; "" for none.

    Args:
        setting: `paper` of the protocol: "auto", a name in `among`, or "".
        facts: Facts of the data.
        among: names of the data sets for which the paper has results of this task.
    """
    if setting != AUTO:
        return setting
    return next((name for name in among if facts.is_copy_of(_KNOWN[name])), "")


def check_setting(setting: str, names) -> None:
    """Raises ConfigError for a value of the setting `paper` that the task does not support."""
    if setting not in ("", AUTO, *names):
        known = ", ".join([AUTO, *names])
        raise ConfigError(f'paper is {setting!r}; use one of {known}, or "" for none.')


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

# ImageNet fine-tuning, (top-1, top-5) after 100 and after 90 epochs (Table 2); None: not reported.
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
# Linear classifiers on conv13 of networks trained on YFCC100M (Table 3), top-1.
LINEAR_CONV13 = {
    "imagenet": {"RotNet": 33.0, "DeepCluster": 34.1, "DeeperCluster": 45.6},
    "places205": {"RotNet": 35.5, "DeepCluster": 35.4, "DeeperCluster": 42.1},
}
LINEAR_DATA = (*LINEAR_TOP1, "voc07")

# Input of the network: fine-tuning FC68 on VOC 2007, mAP (Table 7). RotNet is trained on 1 M
# images, DeeperCluster on 20 M.
INPUT_VOC07 = {
    "RotNet": {"RGB": 69.8, "Sobel": 70.4},
    "DeeperCluster": {"RGB": 71.6, "Sobel": 76.1},
}


def linear_results(data: str) -> dict:
    """{method: {layer: share in [0, 1]}} of linear classifiers; the paper has no fc6 and fc7.

    Args:
        data: a name in LINEAR_DATA, or "" for {}. "voc07" gives the mAP of conv13 only.
    """
    if not data:
        return {}
    if data == "voc07":
        return {method: {"conv13": round(p / 100, 4)} for method, p in LINEAR_VOC07.items()}
    return {
        method: by_convolution(round(percent / 100, 4) for percent in percents)
        for method, percents in LINEAR_TOP1[data].items()
    }


def by_convolution(values) -> dict:
    """{"conv1": ..., "conv13": ...} of values in the order of VGG-16's convolutions."""
    return {f"conv{number}": value for number, value in enumerate(values, 1)}
