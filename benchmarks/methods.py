"""Compares random weights, RotNet, DeepCluster and DeeperCluster over several seeds.

    python benchmarks/methods.py --train=DATA/cifar10_train --test=DATA/cifar10_test \\
        --workdir=RUNS --output=benchmarks/results/methods

For each seed it runs the stages of `--config` (RotNet, then DeeperCluster), then DeepCluster from
the same RotNet network, with the same number of epochs and of clusters in total, but one
super-class. Each is evaluated with k-NN and linear classifiers on every layer. An interrupted call
resumes: results in `--workdir` and seeds in `--output` are reused. Prints mean and deviation over
all seeds in `--output`.
"""

import glob
import json
import os
import sys

from absl import app, flags
from runs import TASKS, markdown, measure, spread, train

from dc_tf import strict_yaml, text_files

FLAGS = flags.FLAGS
flags.DEFINE_string("train", None, "Data set that is learned from, with labels.", required=True)
flags.DEFINE_string("test", None, "Data set that is measured on.", required=True)
flags.DEFINE_string("config", "configs/cifar10_small.yaml", "RotNet, then DeeperCluster.")
flags.DEFINE_string("workdir", None, "Folder for the runs and their results.", required=True)
flags.DEFINE_string("output", None, "Folder for the results of each seed.", required=True)
flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of the experiments.")

METHODS = ("random", "rotnet", "deepcluster", "deepercluster")


def main(_) -> None:
    config = strict_yaml.load(text_files.read(FLAGS.config), FLAGS.config)
    for seed in FLAGS.seeds:
        path = os.path.join(FLAGS.output, f"seed-{seed}.json")
        if not os.path.exists(path):
            results = compare(config, int(seed))
            os.makedirs(FLAGS.output, exist_ok=True)
            with open(path, "w", encoding="utf-8") as file:
                json.dump({"config": config, "top1": results}, file, indent=1)
    seeds = sorted(glob.glob(os.path.join(FLAGS.output, "seed-*.json")))
    found = [read(path, config) for path in seeds]
    for task in TASKS:
        print(table(task, [results[task] for results in found]))
    print(json.dumps({"seeds": len(found), "output": FLAGS.output}))


def compare(config, seed) -> dict:
    """{task: {layer: {method: accuracy in percent}}} of one seed."""
    rotnet, deeper = config["stages"]
    flat = {
        **deeper,
        "name": "deepcluster",
        "clusters": 1,
        "rotations": 1,
        "sub_clusters": deeper["clusters"] * deeper["sub_clusters"],
    }
    both = trained(f"deepercluster-{seed}", {**config, "seed": seed})
    after_deeper = measure_all(both, deeper["name"], seed, [])
    after_rotnet = measure_all(both, rotnet["name"], seed, ["--norandom_init"])
    start = {"init_from": both, "init_stage": rotnet["name"]}
    one = trained(f"deepcluster-{seed}", {**config, **start, "seed": seed, "stages": [flat]})
    after_flat = measure_all(one, flat["name"], seed, ["--norandom_init"])
    results = {}
    for task in TASKS:
        layers = [found[task]["layers"] for found in (after_rotnet, after_flat, after_deeper)]
        parts = dict(zip(METHODS, [after_deeper[task]["random_init"], *layers]))
        results[task] = {
            layer: {method: 100 * parts[method][layer]["top1"] for method in METHODS}
            for layer in layers[0]
        }
    return results


def read(path, config) -> dict:
    with open(path, encoding="utf-8") as file:
        found = json.load(file)
    if found["config"] != config:
        sys.exit(f"{path} was made with other settings than {FLAGS.config}; give another --output.")
    return found["top1"]


def trained(name, settings) -> str:
    """The folder of the finished run."""
    folder = os.path.join(FLAGS.workdir, name)
    train(folder, FLAGS.train, settings)
    return folder


def measure_all(folder, stage, seed, options) -> dict:
    return {
        task: measure(task, folder, stage, FLAGS.train, FLAGS.test, seed, options=options)
        for task in TASKS
    }


def table(task, seeds) -> str:
    """Layers by methods, from {layer: {method: percent}} of each seed."""
    rows = [
        [layer, *(spread([results[layer][method] for results in seeds]) for method in METHODS)]
        for layer in seeds[0]
    ]
    return markdown([task, *METHODS], rows)


if __name__ == "__main__":
    app.run(main)
