"""The paper's results that a sweep shows beside its own, by the name of the table.

    published("table7").curves["RotNet"]               # {"RGB": 69.8, "Sobel": 70.4}

The numbers are those of `evaluation.paper`. The paper's Figure 3 is not among them, since only its
abscissae are known: 1 to 96 million images and 10,000 to 160,000 clusters.
"""

import dataclasses

NAMES = ("table3", "table4", "table7")


@dataclasses.dataclass(frozen=True)
class Published:
    """Results of the paper in percent.

    Attributes:
        source: of the numbers, and what they are.
        curves: {name of a curve: {label of a point, a variant or a layer: percent}}.
    """

    source: str
    curves: dict


def published(name: str) -> Published:
    """The results of a table in `NAMES`."""
    return {"table3": _table3, "table4": _table4, "table7": _table7}[name]()


def _table3():
    from dc_tf.evaluation import paper

    trained = paper.LINEAR_CONV13["imagenet"]
    voc = {method: paper.LINEAR_VOC07[method] for method in trained}
    return Published(
        "Table 3, trained on YFCC100M, linear classifiers on conv13: top-1, mAP on VOC 2007",
        {"ImageNet": trained, "Places205": paper.LINEAR_CONV13["places205"], "VOC 2007": voc},
    )


def _table4():
    from dc_tf.evaluation import paper

    return Published(
        "Table 4 and Figure 2, linear classifiers on frozen layers, top-1",
        {
            f"{method}, {title}": paper.by_convolution(percents)
            for data, title in (("imagenet", "ImageNet"), ("places205", "Places205"))
            for method, percents in paper.LINEAR_TOP1[data].items()
        },
    )


def _table7():
    from dc_tf.evaluation import paper

    return Published(
        "Table 7, fine-tuning on VOC 2007, FC68, mAP; RotNet on 1 M images, DeeperCluster on 20 M",
        paper.INPUT_VOC07,
    )
