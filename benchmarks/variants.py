"""DeeperCluster with one setting changed at a time, over seeds.

    python benchmarks/methods.py --config=configs/quickstart.yaml --workdir=RUNS ...
    python benchmarks/variants.py --config=configs/quickstart.yaml --runs=RUNS --workdir=VARIANTS \\
        --train=DATA/photos_train --test=DATA/photos_test --output=VARIANTS/variants.json

For each seed and each line of `--variants` it trains the last stage of `--config` again, from the
RotNet network of the seed's run in `--runs`, a result of `methods.py`. Prints top-1 with k-NN and
linear classifiers on the last layers, and the NMI of the last clusters with the labels; the first
line is the run in `--runs` itself. Results in `--workdir` are reused.
"""

import json
import os

from absl import app, flags
from runs import TASKS, markdown, measure, spread, train

from dc_tf import strict_yaml, text_files

FLAGS = flags.FLAGS
flags.DEFINE_string("train", None, "Data set that is learned from, with labels.", required=True)
flags.DEFINE_string("test", None, "Data set that is measured on.", required=True)
flags.DEFINE_string("config", "configs/quickstart.yaml", "RotNet, then DeeperCluster.")
flags.DEFINE_string("variants", "benchmarks/variants.yaml", "{name: change of the last stage}.")
flags.DEFINE_string("runs", None, "--workdir of methods.py.", required=True)
flags.DEFINE_string("workdir", None, "Folder for the runs and their results.", required=True)
flags.DEFINE_string("output", None, "JSON of all results.", required=True)
flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of the runs in --runs.")

LAYERS = ("conv13", "fc6", "fc7")


def main(_) -> None:
    config = read_yaml(FLAGS.config)
    variants = read_yaml(FLAGS.variants)
    found = {name: {} for name in ("unchanged", *variants)}
    for seed in FLAGS.seeds:
        start = os.path.join(FLAGS.runs, f"deepercluster-{seed}")
        found["unchanged"][seed] = results(start, config["stages"][1]["name"], seed)
        for name, change in variants.items():
            folder = os.path.join(FLAGS.workdir, f"{name.replace(' ', '_')}-{seed}")
            found[name][seed] = varied(config, change, start, int(seed), folder)
            with open(FLAGS.output, "w", encoding="utf-8") as file:
                json.dump({"config": config, "variants": variants, "found": found}, file, indent=1)
    print(table(found))
    print(json.dumps({"variants": len(variants), "output": FLAGS.output}))


def varied(config, change, start, seed, folder) -> dict:
    """Trains from the RotNet network of the run `start`; returns the metrics."""
    rotnet, deeper = config["stages"]
    settings = {
        **config,
        "seed": seed,
        "stages": [merged(deeper, change)],
        "init_from": start,
        "init_stage": rotnet["name"],
    }
    train(folder, FLAGS.train, settings)
    return results(folder, deeper["name"], seed)


def results(folder, stage, seed) -> dict:
    """{"knn conv13": percent, ..., "nmi": percent} of a run."""
    found = {}
    for task in TASKS:
        layers = measure(
            task,
            folder,
            stage,
            FLAGS.train,
            FLAGS.test,
            seed,
            layers=",".join(LAYERS),
            options=["--norandom_init"],
        )["layers"]
        found |= {f"{task} {layer}": 100 * layers[layer]["top1"] for layer in LAYERS}
    with open(os.path.join(folder, "metrics.jsonl"), encoding="utf-8") as file:
        events = [json.loads(line) for line in file]
    found["nmi"] = 100 * [e["nmi_labels"] for e in events if "nmi_labels" in e][-1]
    return found


def merged(base, change) -> dict:
    """A nested dict with some values replaced."""
    return base | {
        key: merged(base[key], value) if isinstance(value, dict) else value
        for key, value in change.items()
    }


def table(found) -> str:
    columns = list(next(iter(found["unchanged"].values())))
    rows = [
        [name, *(spread([seed[column] for seed in seeds.values()]) for column in columns)]
        for name, seeds in found.items()
    ]
    return markdown(["", *columns], rows)


def read_yaml(path) -> dict:
    return strict_yaml.load(text_files.read(path), path)


if __name__ == "__main__":
    app.run(main)
