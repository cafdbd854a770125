"""Runs and their figures, for benchmarks that compare ways to learn.

What is there already is not done again, so that a stopped benchmark goes on where it was.
"""

import json
import os
import statistics
import subprocess
import sys

from dc_tf import experiment as experiment_lib
from dc_tf.atomic import read_json
from dc_tf.data.storage.manifest import Dataset
from dc_tf.run_dir import RunDir

TASKS = {
    "knn": ["--task=knn"],
    "linear": ["--config_file=configs/evaluation/linear_probe_small.yaml"],
}


def train(folder, data, settings):
    """Trains, or goes on with, the run of a folder, unless it is finished.

    Args:
        folder: of the run.
        data: data set to learn from.
        settings: of the experiment, a dict.
    """
    settings["data"] = {**settings.get("data", {}), "path": os.path.abspath(data)}
    settings = json.dumps(settings)
    if not _is_finished(RunDir(folder), settings):
        dc_tf("train", f"--params_override={settings}", f"--workdir={folder}")


def _is_finished(run, settings) -> bool:
    """Whether a run with these settings has its result; `train` says what differs in another."""
    if not os.path.exists(run.result):
        return False
    experiment = experiment_lib.load(params_override=[settings])
    if experiment_lib.differences(experiment_lib.load([run.config]), experiment):
        return False
    return read_json(run.data)["fingerprint"] == Dataset.open(experiment.data.path).fingerprint()


def measure(task, folder, stage, data, test, seed, layers="all", options=()) -> dict:
    """What `dc_tf evaluate` says about a stage of a run, top-1 of each layer in `layers`."""
    output = os.path.join(folder, f"{task}-{stage}.json")
    if not os.path.exists(output):
        dc_tf(
            "evaluate",
            *TASKS[task],
            f"--model={folder}",
            f"--stage={stage}",
            f"--layer={layers}",
            "--compute_dtype=bfloat16",
            f"--train={data}",
            f"--test={test}",
            f"--seed={seed}",
            f"--output={output}",
            *options,
        )
    with open(output, encoding="utf-8") as file:
        return json.load(file)


def spread(values) -> str:
    """Mean and, of several, the sample standard deviation."""
    mean = f"{statistics.mean(values):.1f}"
    return f"{mean} +- {statistics.stdev(values):.1f}" if len(values) > 1 else mean


def markdown(header, rows) -> str:
    """A table of cells that are text."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def dc_tf(*arguments):
    """Runs the command, or ends with its failure."""
    done = subprocess.run([sys.executable, "-m", "dc_tf", *arguments], stdout=subprocess.DEVNULL)
    if done.returncode:
        sys.exit(f"dc_tf {arguments[0]} ended with code {done.returncode}; see above.")
