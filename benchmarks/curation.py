"""How even curated subsets are over the true classes, and what training on one is worth.

    python benchmarks/curation.py --parts=balance --data=DATA --features=FEATURES --layer=conv7
    python benchmarks/curation.py --parts=planted
    python benchmarks/curation.py --parts=train --data=DATA --features=FEATURES --layer=conv7 \\
        --test=TEST --folder=SCRATCH

balance  Entropy over the classes of a labelled data set: all of it, a random part, even shares of
         flat k-means, of hierarchical k-means without and with resampling, and the most that its
         classes allow.
planted  The same for generated rows whose concepts are far apart.
train    A network trained on the curated half, one on a random half, and one on the half that is
         most even over the true classes, which shows what evenness itself is worth; by k-NN and
         linear probe.

FEATURES is an output of `dc_tf embed`. Prints JSON; the last part resumes.
"""

import json
import os
from collections.abc import Iterator

import numpy as np
from absl import app, flags

import dc_tf
from dc_tf.clustering.store.feature_files import open_folder
from dc_tf.curation.selection.rules import Selection
from dc_tf.curation.tree.hierarchical_kmeans import hierarchical_kmeans
from dc_tf.curation.tree.options import HierarchyOptions, default_clusters
from dc_tf.curation.tree.water_filling import even_shares
from dc_tf.data.storage.manifest import Dataset
from dc_tf.data.storage.view import write_view

FLAGS = flags.FLAGS
flags.DEFINE_list("parts", ["balance"], "What to measure.")
flags.DEFINE_string("data", None, "Labelled data set.")
flags.DEFINE_string("test", None, "Labelled data set to measure networks on.")
flags.DEFINE_string("features", None, "Output folder of dc_tf embed on --data.")
flags.DEFINE_string("layer", None, "Layer of the features.")
flags.DEFINE_list("shares", ["0.1", "0.25", "0.5"], "Parts of the data set that are chosen.")
flags.DEFINE_integer("seeds", 3, "Repetitions.")
flags.DEFINE_string("levels", None, "Clusters of each level, such as 40,5; None: the default.")
flags.DEFINE_string("folder", None, "For views and runs of the train part.")
flags.DEFINE_string("config", "quickstart", "Preset of the train part.")
flags.DEFINE_integer("epochs", 10, "Of each stage of it.")
flags.DEFINE_list("halves", ["curated", "random", "even"], "Of the train part.")


def main(_) -> None:
    print(json.dumps({part: globals()[f"measure_{part}"]() for part in FLAGS.parts}, indent=1))


def measure_balance() -> dict:
    dataset = Dataset.open(FLAGS.data)
    rows = open_folder(FLAGS.features, dataset, FLAGS.layer).unit().read(0, dataset.rows)
    return compare(rows, dataset.labels())


def measure_planted(rows=20_000, concepts=50, dim=32) -> dict:
    rng = np.random.default_rng(0)
    weights = 1 / np.arange(1, concepts + 1) ** 1.5
    labels = rng.choice(concepts, rows, p=weights / weights.sum())
    centers = rng.normal(0, 1, (concepts, dim))
    return compare((centers[labels] + rng.normal(0, 0.4, (rows, dim))).astype("f4"), labels)


def compare(rows, labels) -> dict:
    """{share: {method: mean entropy in nats, and its largest deviation}}."""
    shares = [float(share) for share in FLAGS.shares]
    found = {share: {} for share in shares}
    for seed in range(FLAGS.seeds):
        trees = trees_of(rows, seed)
        for share in shares:
            for method, kept in choices(labels, trees, round(share * len(labels)), seed):
                found[share].setdefault(method, []).append(entropy(labels[kept]))
    return {
        "rows": len(labels),
        "classes": len(np.unique(labels)),
        "all": round(entropy(labels), 3),
        **{
            str(share): {m: summary(values) for m, values in found[share].items()}
            for share in shares
        },
    }


def trees_of(rows, seed) -> dict:
    clusters = default_clusters(len(rows))
    if FLAGS.levels:
        clusters = tuple(int(number) for number in FLAGS.levels.split(","))
    return {
        "flat k-means": hierarchical_kmeans(
            rows, HierarchyOptions(clusters[:1], rounds=0, seed=seed)
        ),
        "levels": hierarchical_kmeans(rows, HierarchyOptions(clusters, rounds=0, seed=seed)),
        "levels, resampled": hierarchical_kmeans(rows, HierarchyOptions(clusters, seed=seed)),
    }


def choices(labels, trees, target, seed) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (method, rows that it chooses)."""
    rng = np.random.default_rng(seed)
    yield "random", rng.permutation(len(labels))[:target]
    for method, tree in trees.items():
        selection = Selection(len(labels), tree, seed)
        selection.balance(target)
        yield method, selection.row_ids()
    yield "by true classes", even_rows(labels, target, rng)


def even_rows(labels, target, rng) -> np.ndarray:
    """Rows with even shares of the true classes."""
    shares = even_shares(np.bincount(labels), target, rng)
    members = [
        rng.permutation(np.flatnonzero(labels == label))[:count]
        for label, count in enumerate(shares)
    ]
    return np.concatenate(members)


def measure_train() -> dict:
    dataset = Dataset.open(FLAGS.data)
    halves = {"curated": curated_half, "random": random_half, "even": even_half}
    return {
        name: [measured(name, halves[name](dataset, seed), seed) for seed in range(FLAGS.seeds)]
        for name in FLAGS.halves
    }


def curated_half(dataset, seed) -> str:
    path = os.path.join(FLAGS.folder, f"curated-{seed}")
    dc_tf.curate(
        dataset, path, dataset.rows // 2, features=FLAGS.features, layer=FLAGS.layer, seed=seed
    )
    return path


def random_half(dataset, seed) -> str:
    rows = np.random.default_rng(seed).permutation(dataset.rows)[: dataset.rows // 2]
    return view_of(dataset, rows, f"random-{seed}")


def even_half(dataset, seed) -> str:
    rng = np.random.default_rng(seed)
    return view_of(dataset, even_rows(dataset.labels(), dataset.rows // 2, rng), f"even-{seed}")


def view_of(dataset, rows, name) -> str:
    path = os.path.join(FLAGS.folder, name)
    if not os.path.isdir(path):
        write_view(dataset, np.sort(rows), path)
    return path


def measured(name, view, seed) -> dict:
    """Accuracies of a network that is trained on a view, of its best layer."""
    run = os.path.join(FLAGS.folder, f"run-{name}-{seed}")
    stages = {f"stages[{stage}].epochs": FLAGS.epochs for stage in (0, 1)}
    experiment = dc_tf.load_experiment(FLAGS.config, stages, data={"path": view}, seed=seed)
    dc_tf.pretrain(experiment, run)
    found = {"class_entropy": round(entropy(Dataset.open(view).labels()), 3)}
    for task in ("knn", "linear_probe"):
        output = os.path.join(FLAGS.folder, f"{task}-{name}-{seed}.json")
        if not os.path.exists(output):
            dc_tf.evaluate(
                task, run, FLAGS.data, FLAGS.test, layer=["conv4", "conv7", "conv10"],
                random_init=False, estimate=False, output=output,
            )  # fmt: skip
        with open(output, encoding="utf-8") as file:
            layers = json.load(file)["layers"]
        found[task] = max(layer["top1"] for layer in layers.values())
    return found


def entropy(labels) -> float:
    """Of a row's class, in nats."""
    shares = np.bincount(labels[labels >= 0]) / np.count_nonzero(labels >= 0)
    return float(-np.sum(shares[shares > 0] * np.log(shares[shares > 0])))


def summary(values) -> dict[str, float]:
    mean = float(np.mean(values))
    return {"mean": round(mean, 3), "off": round(float(np.abs(np.array(values) - mean).max()), 3)}


if __name__ == "__main__":
    app.run(main)
