"""Effective rank and k-NN of a network, with running and with recomputed batch statistics.

    python benchmarks/feature_rank.py --run=RUN --stage=rotnet --train=DATA --test=TEST
    python benchmarks/feature_rank.py --config=quickstart --seed=1 --train=DATA --test=TEST

Without --run the network is untrained. One JSON line for the statistics that it has, and one for
those of about 2,000 training images, in batches of the first stage's size: k-NN top-1 of
`dc_tf evaluate` by layer in percent, and the effective rank of the last convolution, averaged over
its map, on the test images. All products are in float32.
"""

import json
import sys
from collections.abc import Iterator

import numpy as np
from absl import app, flags

from dc_tf.data.storage.manifest import Dataset
from dc_tf.data.storage.reader import RowReader
from dc_tf.distributed.cluster import connect
from dc_tf.errors import ConfigError, DataError
from dc_tf.evaluation.frozen import knn
from dc_tf.evaluation.frozen.features import Extractor, parse_layers
from dc_tf.evaluation.frozen.pooling import cell_average
from dc_tf.evaluation.models import FrozenModel
from dc_tf.evaluation.splits import open_splits
from dc_tf.experiment import Experiment, load
from dc_tf.exporting.metadata import default_short_side
from dc_tf.exporting.weights import copy_weights
from dc_tf.nn.trunks import trunk_of
from dc_tf.planning.stages import plan_stages
from dc_tf.training.checkpoint import load_trunk
from dc_tf.training.features.calibrate import calibrate
from dc_tf.training.step.learner import Learner

FLAGS = flags.FLAGS
BATCH = 256


def define_flags() -> None:
    flags.DEFINE_string("run", None, "Folder of a run; None: an untrained network of --config.")
    flags.DEFINE_string("stage", "", "Stage of the run at whose end it is measured.")
    flags.DEFINE_string("config", "quickstart", "File or preset of an untrained network.")
    flags.DEFINE_integer("seed", 0, "Seed of an untrained network.")
    flags.DEFINE_string("train", None, "Labelled data set that votes.", required=True)
    flags.DEFINE_string("test", None, "Labelled data set that is classified.", required=True)
    flags.DEFINE_list("layers", [], "Layers of k-NN; by default the last convolution and fc7.")


def main(_) -> None:
    try:
        if FLAGS.run:
            trained, experiment = load_trunk(FLAGS.run, FLAGS.stage)
        else:
            trained, experiment = None, untrained(FLAGS.config, FLAGS.seed, FLAGS.train)
        for found in measured(experiment, trained, FLAGS.train, FLAGS.test, FLAGS.layers):
            print(json.dumps(found), flush=True)
    except (ConfigError, DataError) as error:
        sys.exit(f"feature_rank.py: {error}")


def untrained(config: str, seed: int, train: str) -> Experiment:
    """The experiment of a file or preset, with a seed, on some images."""
    return load([config], [{"seed": seed, "data.path": train}])


def measured(experiment, trained, train: str, test: str, layers=()) -> Iterator[dict]:
    """Yields the result with the network's statistics, and with those of training images.

    Args:
        experiment: Experiment, of the network and of the batches of the first stage.
        trained: Trunk whose weights are taken; None for an untrained one of experiment.seed.
        train, test: paths of labelled data sets.
        layers: names; by default the last convolution and the clustered layer.

    Yields:
        dict of `statistics`, "running" or "recomputed"; `knn`, {layer: percent}; `layer` and
        `rank`, the last convolution and its effective rank.
    """
    splits, cluster = open_splits(train, test), connect()
    experiment = _on(experiment, train)
    (plan,) = plan_stages(experiment, splits[0].reader.dataset.rows, cluster.size)
    with cluster.strategy.scope():
        trunk = trunk_of(experiment.model, experiment.seed).built_at_resolution()
    if trained is not None:
        copy_weights(trained, into=trunk)
    layers = parse_layers(layers or (trunk.map_names[-1], trunk.feature_layer), trunk.layer_names)
    yield {"statistics": "running", **_measure(experiment, trunk, *splits, layers)}
    learner = Learner(cluster, plan, trunk, experiment.stages[0], experiment.model)
    reader = RowReader(Dataset.open(train))
    calibrate(learner, reader, experiment, 0, cluster, trunk=True)
    yield {"statistics": "recomputed", **_measure(experiment, trunk, *splits, layers)}


def effective_rank(vectors: np.ndarray) -> float:
    """Exponential of the entropy of the shares that directions have in the variance.

    Between 1, for vectors on one line, and their length, for equal variance in all directions.

    Args:
        vectors: (n, dim), not all equal.

    Reference: Roy and Vetterli 2007, with variances instead of singular values.
    """
    spread = np.linalg.svd(vectors - vectors.mean(0), compute_uv=False) ** 2
    shares = spread[spread > 0] / spread.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _on(experiment, train):
    """The experiment of its first stage on some images, in float32."""
    model = experiment.model.replace(compute_dtype="float32")
    data = experiment.data.replace(path=train)
    return experiment.replace(model=model, data=data, stages=experiment.stages[:1])


def _measure(experiment, trunk, train, test, layers):
    short_side = experiment.data.resize or default_short_side(experiment.model.resolution)
    frozen = FrozenModel("measured", trunk, short_side)
    found = knn.evaluate(frozen, train, test, layers, knn.Protocol())
    layer = trunk.map_names[-1]
    extractor = Extractor(trunk, {layer: cell_average()})
    batches = extractor.over(frozen, test, BATCH, "rank")
    vectors = np.concatenate([vectors[layer].numpy() for _, vectors in batches])
    return {
        "knn": {name: round(100 * values["top1"], 2) for name, values in found.items()},
        "layer": layer,
        "rank": round(effective_rank(vectors.astype(np.float64)), 2),
    }


if __name__ == "__main__":
    define_flags()
    app.run(main)
