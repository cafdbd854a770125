"""An equal budget for runs of dc_tf: their epochs from views or seconds, and what they have used.

    budget = Budget(images=30_000)
    changed = fitted(experiment, budget)      # settings with the epochs that fit
    cost_of("RUN")                                     # {"images": ..., "seconds": ...}

Images are views through the network, forward and backward. Epochs are whole and keep the ratio of
the configuration, so that a run uses at most its budget.
"""

import dataclasses
import itertools
import json
import subprocess
import sys
import tempfile

import numpy as np

from dc_tf import experiment as experiment_lib
from dc_tf import settings as settings_lib
from dc_tf import shipped
from dc_tf.atomic import read_json
from dc_tf.data.storage.manifest import Dataset
from dc_tf.errors import ConfigError
from dc_tf.planning.plan import make_plan
from dc_tf.planning.report import as_dict
from dc_tf.run_dir import RunDir
from dc_tf.training.monitoring.metrics import read

_COUNTED_IN_EPOCHS = shipped.launcher("budget")


@dataclasses.dataclass(frozen=True)
class Budget:
    """What a row may use: one of both, the other is 0.

    Attributes:
        images: views through the network, forward and backward.
        seconds: of training, with clusterings and without the start of programs.
    """

    images: int = 0
    seconds: float = 0.0

    def __str__(self):
        if self.images:
            return f"{self.images:,} views through the network, forward and backward"
        return f"{self.seconds:g} seconds of training"


def fitted(experiment, budget: Budget) -> dict:
    """The settings of an experiment with the epochs that fit a budget.

    For seconds the speed of training is measured now, which takes some seconds a stage.

    Raises:
        ConfigError: one epoch of each stage is more than the budget.
    """
    plan = _plan(experiment) if budget.images else _measured_plan(experiment)
    stages = [_stage(stage, plan["workers"]) for stage in plan["stages"]]
    views = [stage["views"] for stage in plan["stages"]]

    def cost(epochs):
        if budget.seconds:
            return sum(stage.seconds(count) for stage, count in zip(stages, epochs, strict=True))
        each = [round(s.epoch_s * s.images_per_s) * v for s, v in zip(stages, views, strict=True)]
        return float(np.dot(each, epochs))

    epochs = _most_epochs(stages, cost, budget.images or budget.seconds)
    if epochs is None:
        least = cost([1] * len(stages))
        raise ConfigError(f"one epoch of each stage costs {least:,.0f}; the budget is {budget}.")
    costs = _COUNTED_IN_EPOCHS.Costs(tuple(stages), 1.0, 0.0, 0.0)
    return settings_lib.read(
        [], [experiment.as_dict(), _COUNTED_IN_EPOCHS.overrides(costs, epochs)]
    )


def _most_epochs(stages, cost, most) -> list[int] | None:
    """The most epochs of each stage in the configured ratio that cost at most `most`."""
    longest, best = max(stage.epochs for stage in stages), None
    for count in itertools.count(1):
        epochs = [max(1, round(stage.epochs * count / longest)) for stage in stages]
        if cost(epochs) > most:
            return best
        best = epochs


def _plan(experiment) -> dict:
    rows = Dataset.open(experiment.data.path).rows
    return as_dict(make_plan(experiment, rows, workers=1))


def _measured_plan(experiment) -> dict:
    """The plan with speeds, from a process, since TensorFlow would keep its memory."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "dc_tf", "train", "--dry_run", "--measure"]
        command += [f"--params_override={json.dumps(experiment.as_dict())}", f"--workdir={folder}"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"dc_tf train --dry_run ended with code {done.returncode}; see above.")
    return json.loads(done.stdout.splitlines()[-1])


def _stage(planned, workers):
    """A stage of the plan as launch/budget.py has it; one image a second if not measured."""
    stage = _COUNTED_IN_EPOCHS.Stage.of(planned, workers, speed=1.0, most=1.0)
    return dataclasses.replace(stage, least=1)


def cost_of(folder: str) -> dict:
    """What the training of a finished run has used, from its metrics.

    Returns:
        dict of `images`, views through the network forward and backward; `forward_only`, images of
        passes that extract features; `seconds` of training steps and clusterings.
    """
    run = RunDir(folder)
    stages = experiment_lib.load([run.config]).stages
    rows, lines = read_json(run.result)["rows"], read(run.metrics)
    trained = [line for line in lines if line["event"] == "train"]
    clustered = [line for line in lines if line["event"] == "clustering"]
    steps = np.diff([0, *(line["step"] for line in trained)])
    images = [n * stages[m["stage"]].batch_size for n, m in zip(steps, trained, strict=True)]
    seconds = sum(n / line["images_per_second"] for n, line in zip(images, trained, strict=True))
    seconds += sum(line["extract_seconds"] + line["cluster_seconds"] for line in clustered)
    views = sum(
        n * stages[line["stage"]].views.count for n, line in zip(images, trained, strict=True)
    )
    return {
        "images": int(views),
        "forward_only": rows * sum(stage.extractions for stage in stages),
        "seconds": float(seconds),
    }
