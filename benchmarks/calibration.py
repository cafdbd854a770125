"""How alike features of different images are in an untrained network, before and after calibration.

    python benchmarks/calibration.py --data=DATA

Prints for each network the mean cosine between the clustered features of 256 images in inference
mode, with the statistics that batch norm begins with and after `training.calibrate`.
"""

import argparse
import json

import numpy as np

from dc_tf.data.input.pipeline import evaluation_batches
from dc_tf.data.storage.manifest import Dataset
from dc_tf.data.storage.reader import RowReader
from dc_tf.distributed.cluster import connect
from dc_tf.experiment import load
from dc_tf.nn.projection import clustered_features
from dc_tf.nn.trunks import trunk_of
from dc_tf.planning.stages import plan_stages
from dc_tf.training.features.calibrate import calibrate
from dc_tf.training.step.learner import Learner

IMAGES = 256
_VGG = {"trunk": "vgg16", "stem": "imagenet", "fc": 512, "width": 0.5, "sobel": True}
_PLAIN = {"head": "linear", "projection": {"hidden": 0, "dim": 0}}
# Changes of `deepercluster2_small`: of the model, and of its stage.
NETWORKS = {
    "resnet18, projection": ({}, {}),
    "resnet50, projection": ({"trunk": "resnet50"}, {}),
    "vgg16, projection": (_VGG, {}),
    "resnet18": ({}, _PLAIN),
    "vgg16": (_VGG, _PLAIN),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="data set folder")
    reader, cluster = RowReader(Dataset.open(parser.parse_args().data)), connect()
    for name, changes in NETWORKS.items():
        print(json.dumps({"network": name, **cosines(reader, cluster, *changes)}), flush=True)


def cosines(reader, cluster, model, stage) -> dict[str, float]:
    """{"before", "after"}: mean cosine of different images.

    Args:
        reader: RowReader of the images.
        cluster: Cluster of one worker.
        model, stage: settings that differ from `deepercluster2_small`.
    """
    experiment = load(["deepercluster2_small"], [f"data.path={reader.dataset.path}"])
    experiment.model = experiment.model.replace(compute_dtype="float32", **model)
    experiment.stages = [experiment.stages[0].replace(**stage)]
    (plan,) = plan_stages(experiment, reader.dataset.rows, cluster.size)
    with cluster.strategy.scope():
        trunk = trunk_of(experiment.model, experiment.seed).built_at_resolution()
    learner = Learner(cluster, plan, trunk, experiment.stages[0], experiment.model)
    images = _images(reader, experiment.model.resolution)
    before = _mean_cosine(learner, images)
    calibrate(learner, reader, experiment, 0, cluster, trunk=True)
    return {"before": before, "after": _mean_cosine(learner, images)}


def _images(reader, size):
    rows = np.random.default_rng(1).choice(reader.dataset.rows, IMAGES, replace=False)
    return next(iter(evaluation_batches(reader, rows, IMAGES, size, size)))["image"]


def _mean_cosine(learner, images):
    x = clustered_features(learner.trunk, learner.projection)(images).numpy()
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    return round(float((x @ x.T)[np.triu_indices(len(x), 1)].mean()), 3)


if __name__ == "__main__":
    main()
