"""Compares dc_tf with SimCLR, SwAV and DINO of `lightly` at an equal budget, over seeds.

    python benchmarks/peers.py --train=DATA/cifar10_train --test=DATA/cifar10_test \\
        --workdir=PEERS --seconds=1800 --output=PEERS/peers

Rows are those of `--rows`. Peers get the trunk and the smallest crop of `--config`, the same rows
of the data set, and `--seconds` of training or `--images` views through the network; runs of dc_tf
have the epochs of their config, and their seconds stand beside them. Weights of peers are imported
with `dc_tf import_torch`, and everything is measured with `dc_tf evaluate`: k-NN and linear
classifiers of all layers. An interrupted call resumes. Writes OUTPUT.json and OUTPUT.md.

Peers need the extra `peers`; `--peers_python` names an environment that has it.
"""

import json
import os
import subprocess
import sys
import time

from absl import app, flags
from runs import TASKS, dc_tf, markdown, measure, spread, train

from dc_tf import experiment as experiment_lib
from dc_tf import strict_yaml, text_files

FLAGS = flags.FLAGS
flags.DEFINE_string("train", None, "Data set that is learned from, with labels.", required=True)
flags.DEFINE_string("test", None, "Data set that is measured on.", required=True)
flags.DEFINE_string("config", "configs/cifar10_small.yaml", "Runs of dc_tf; the peers' trunk.")
flags.DEFINE_string("rows", "benchmarks/peers.yaml", "{name: row}; the file explains them.")
flags.DEFINE_list("only", [], "Names of rows; all by default.")
flags.DEFINE_string("workdir", None, "Folder for the runs and their results.", required=True)
flags.DEFINE_string("output", None, "Results: OUTPUT.json and OUTPUT.md.", required=True)
flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of the experiments.")
flags.DEFINE_float("seconds", 0.0, "Training time of a peer.", lower_bound=0)
flags.DEFINE_integer("images", 0, "Views of a peer through the network.", lower_bound=0)
flags.DEFINE_string("peers_python", sys.executable, "Python that has the extra `peers`.")

LAYERS = ("conv13", "fc7")
HERE = os.path.dirname(os.path.abspath(__file__))


def main(_) -> None:
    if bool(FLAGS.seconds) == bool(FLAGS.images):
        sys.exit("peers.py needs --seconds or --images, and not both.")
    rows = read_yaml(FLAGS.rows)
    unknown = set(FLAGS.only) - set(rows)
    if unknown:
        sys.exit(f"--only names {', '.join(sorted(unknown))}; {FLAGS.rows} has {', '.join(rows)}.")
    found = {}
    for name in FLAGS.only or rows:
        found[name] = {}
        for seed in FLAGS.seeds:
            found[name][seed] = result(name, rows[name], int(seed))
            write(found, rows)
    print(table(found))
    print(json.dumps({"rows": len(found), "seeds": len(FLAGS.seeds), "output": FLAGS.output}))


def result(name, row, seed) -> dict:
    """{"knn conv13": percent, ..., "seconds": ...} of a row and a seed."""
    folder = os.path.join(FLAGS.workdir, f"{name.replace(' ', '_')}-{seed}")
    if "peer" in row:
        return peer(row, seed, folder)
    if row.get("untrained"):
        return untrained(seed, folder)
    return run(row, seed, folder)


def run(row, seed, folder) -> dict:
    """Trains a run of dc_tf up to the stage of the row."""
    config = read_yaml(row.get("config", FLAGS.config))
    names = [stage["name"] for stage in config["stages"]]
    last = names.index(row["stage"])
    stages = config["stages"][0 if not row.get("drop_others") else last : last + 1]
    stages[-1] = merged(stages[-1], row.get("change", {}))
    seconds = timed(
        folder, lambda: train(folder, FLAGS.train, {**config, "seed": seed, "stages": stages})
    )
    return {**metrics(folder, row["stage"], seed), "seconds": seconds}


def untrained(seed, folder) -> dict:
    """The twin of the peers, without training."""
    return imported(folder, seed, ["--method=simclr", "--untrained"])


def peer(row, seed, folder) -> dict:
    """Trains a peer, imports its weights and measures them."""
    flags_of = [f"--{key}={value}" for key, value in row.items() if key != "peer"]
    budget = f"--seconds={FLAGS.seconds}" if FLAGS.seconds else f"--images={FLAGS.images}"
    return imported(folder, seed, [f"--method={row['peer']}", budget, *flags_of])


def imported(folder, seed, arguments) -> dict:
    """Runs peer_training.py unless it is done; imports and measures its weights."""
    os.makedirs(folder, exist_ok=True)
    weights, model = os.path.join(folder, "trunk.pth"), os.path.join(folder, "model")
    experiment = experiment_lib.load([FLAGS.config])
    settings = trunk_settings(experiment)
    arguments = [
        f"--data={os.path.abspath(FLAGS.train)}",
        f"--settings={json.dumps(settings)}",
        f"--min_crop_area={experiment.data.min_crop_area}",
        f"--seed={seed}",
        *arguments,
    ]
    check_same(os.path.join(folder, "arguments.json"), arguments)
    if not os.path.exists(f"{weights}.json"):  # written last
        trained = [FLAGS.peers_python, os.path.join(HERE, "peer_training.py")]
        done = subprocess.run([*trained, *arguments, f"--output={weights}"])
        if done.returncode:
            sys.exit(f"peer_training.py ended with code {done.returncode}; see above.")
    if not os.path.exists(model):
        resolution = f"--resolution={settings['resolution']}"
        dc_tf("import_torch", f"--checkpoint={weights}", f"--output={model}", resolution)
    with open(f"{weights}.json", encoding="utf-8") as file:
        return {**metrics(model, "", seed, folder), **json.load(file)}


def trunk_settings(experiment) -> dict:
    """What a trunk of torch_trunks.py takes, from the settings of the model."""
    return {
        name: getattr(experiment.model, name) for name in ("width", "resolution", "fc", "sobel")
    }


def check_same(path, arguments) -> None:
    """Refuses to mix results of other settings; notes those of a new folder."""
    if not os.path.exists(path):
        with open(path, "w", encoding="utf-8") as file:
            json.dump(arguments, file)
    with open(path, encoding="utf-8") as file:
        if json.load(file) != arguments:
            sys.exit(f"{path} has other settings; give another --workdir.")


def metrics(model, stage, seed, folder=None) -> dict:
    """Top-1 in percent of LAYERS and of the best layer, for each task."""
    found = {}
    for task in TASKS:
        options = ["--norandom_init"]
        layers = measure(
            task, model, stage, FLAGS.train, FLAGS.test, seed, options=options, results=folder
        )["layers"]
        top1 = {layer: 100 * layers[layer]["top1"] for layer in layers}
        found |= {f"{task} {layer}": top1[layer] for layer in LAYERS}
        found[f"{task} best"] = max(top1.values())
        found[f"{task} best layer"] = max(top1, key=top1.get)
    return found


def timed(folder, work) -> float:
    """Seconds that the work took when it was done; remembered for later calls."""
    path = os.path.join(folder, "training_seconds.json")
    started = time.monotonic()
    work()
    if not os.path.exists(path):
        with open(path, "w", encoding="utf-8") as file:
            json.dump(time.monotonic() - started, file)
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def merged(base, change) -> dict:
    """A nested dict with some values replaced."""
    return base | {
        key: merged(base.get(key, {}), value) if isinstance(value, dict) else value
        for key, value in change.items()
    }


def write(found, rows) -> None:
    """Writes all results so far."""
    os.makedirs(os.path.dirname(os.path.abspath(FLAGS.output)), exist_ok=True)
    budget = {"seconds": FLAGS.seconds, "images": FLAGS.images}
    with open(f"{FLAGS.output}.json", "w", encoding="utf-8") as file:
        json.dump({"rows": rows, "budget": budget, "found": found}, file, indent=1)
    with open(f"{FLAGS.output}.md", "w", encoding="utf-8") as file:
        file.write(table(found))


def table(found) -> str:
    """Rows by metrics, mean and deviation over seeds; a dash where a row lacks a metric."""
    columns = [f"{task} {part}" for task in TASKS for part in (*LAYERS, "best")]
    columns += ["seconds", "images_per_second"]
    lines = []
    for name, seeds in found.items():
        values = [[seed[c] for seed in seeds.values() if c in seed] for c in columns]
        lines.append([name, *(spread(v) if v else "-" for v in values)])
    return markdown(["", *columns], lines)


def read_yaml(path) -> dict:
    return strict_yaml.load(text_files.read(path), path)


if __name__ == "__main__":
    app.run(main)
