"""Trains and evaluates runs, for benchmarks that compare methods.

Finished runs and evaluations are reused, so that an interrupted benchmark resumes.
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


def train(folder, data, settings) -> None:
    """Trains or resumes the run of a folder, unless it is finished.

    Args:
        folder: run folder.
        data: training data set.
        settings: dict, settings of the experiment.
    """
    settings["data"] = {**settings.get("data", {}), "path": os.path.abspath(data)}
    settings = json.dumps(settings)
    if not _is_finished(RunDir(folder), settings):
        dc_tf("train", f"--params_override={settings}", f"--workdir={folder}")


def _is_finished(run, settings) -> bool:
    """Whether the run has these settings and is finished; `train` refuses other settings."""
    if not os.path.exists(run.result):
        return False
    experiment = experiment_lib.load(params_override=[settings])
    if experiment_lib.differences(experiment_lib.load([run.config]), experiment):
        return False
    return read_json(run.data)["fingerprint"] == Dataset.open(experiment.data.path).fingerprint()


def measure(task, folder, stage, data, test, seed, layers="all", options=(), results=None) -> dict:
    """Evaluates a stage of a run or a SavedModel; top-1 of each layer is in `layers`.

    The result is kept in the folder `results`, by default that of the run.
    """
    output = os.path.join(results or folder, f"{task}-{stage or 'model'}.json")
    if not os.path.exists(output):
        dc_tf(
            "evaluate",
            *TASKS[task],
            f"--model={folder}",
            *([f"--stage={stage}"] if stage else []),
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
    """Mean, and sample standard deviation if there are several values."""
    mean = f"{statistics.mean(values):.1f}"
    return f"{mean} +- {statistics.stdev(values):.1f}" if len(values) > 1 else mean


def markdown(header, rows) -> str:
    """A Markdown table of text cells."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def dc_tf(*arguments) -> None:
    """Runs a command of dc_tf; exits if it fails."""
    done = subprocess.run([sys.executable, "-m", "dc_tf", *arguments], stdout=subprocess.DEVNULL)
    if done.returncode:
        sys.exit(f"dc_tf {arguments[0]} ended with code {done.returncode}; see above.")
