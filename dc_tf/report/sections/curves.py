"""Charts of training: losses, accuracies, rate, gradients, speed, waiting for input.

    log = Log.read(run.metrics)
    charts_of(log, ["rotnet", "deepercluster"])

The log is read line by line, and of each line the numbers only.
"""

import array
import dataclasses
import json
import os

import numpy as np

from dc_tf.report.charts import Series, line_chart

_TRAIN = (
    "step",
    "stage",
    "loss",
    "super_loss",
    "sub_loss",
    "contrast_loss",
    "super_accuracy",
    "rotation_accuracy",
    "sub_accuracy",
    "learning_rate",
    "gradient_norm",
    "head_gradient_norm",
    "images_per_second",
    "input_wait",
    "loss_scale",
)
_LOG_RANGE = 50.0  # ratio of the largest to the least from which on an axis is logarithmic


@dataclasses.dataclass
class Log:
    """What `metrics.jsonl` holds.

    Attributes:
        train: {name: (n,) float64} of the training lines, NaN where a line lacks it.
        clusterings: list of dict, the lines of clusterings.
        data: dict, the last line about corrupt rows; {} without.
    """

    train: dict
    clusterings: list
    data: dict

    @classmethod
    def read(cls, path) -> "Log":
        """Reads a file; it is empty if there is none. A torn or corrupt line is left out."""
        columns = {name: array.array("d") for name in _TRAIN}
        clusterings, data = [], {}
        for line in _lines(path):
            if line.get("event") == "train":
                for name, values in columns.items():
                    values.append(_number(line.get(name)))
            elif line.get("event") == "clustering":
                clusterings.append(line)
            elif line.get("event") == "data":
                data = line
        arrays = {name: np.array(values) for name, values in columns.items()}
        return cls(arrays, clusterings, data)


def charts_of(log: Log, stages) -> list:
    """The charts of a run, in order; [] without a training line.

    Args:
        log: Log.
        stages: names of the stages.
    """
    train = _without_unused(log.train)
    if not len(train["step"]):
        return []
    marks = _marks(log, stages)
    percent = {name: 100 * train[name] for name in train if name.endswith("accuracy")}
    waiting = {"input_wait": 100 * train["input_wait"]}

    def chart(title, names, values=train, unit="", zero=True):
        series = [Series(text, train["step"], values[name]) for name, text in names.items()]
        series = [one for one in series if np.any(np.abs(one.y) > 0)]
        log_axis = not zero and _spans(series)
        return line_chart(title, series, "step", unit, marks, log_axis, zero and not log_axis)

    parts = {"super_loss": "super-class", "sub_loss": "sub-class", "contrast_loss": "between views"}
    accuracies = {
        "super_accuracy": "super-class",
        "sub_accuracy": "sub-class",
        "rotation_accuracy": "rotation",
    }
    gradients = {"gradient_norm": "trunk", "head_gradient_norm": "heads"}
    charts = [
        chart("Loss", {"loss": "all", **parts}, unit="nats"),
        chart("Accuracy", accuracies, percent, "%"),
        chart("Learning rate", {"learning_rate": "learning rate"}),
        chart("Gradient norm", gradients, zero=False),
        chart("Speed", {"images_per_second": "all workers"}, unit="images/s"),
        chart("Waiting for input", {"input_wait": "share of time"}, waiting, "%"),
        chart("Loss scale", {"loss_scale": "factor"}, zero=False),
    ]
    return [one for one in charts if one is not None]


def objective_charts(objective) -> list:
    """The chart of the objective of `dc_tf kmeans`, as a list."""
    values = np.array([_number(value) for value in objective])
    series = [Series("squared distances", np.arange(len(values)), values)]
    chart = line_chart("Objective", series, "iteration")
    return [] if chart is None else [chart]


def seconds(log: Log, batch_sizes) -> tuple[float, float]:
    """(seconds of training steps, seconds of extraction and clustering) as the log has them.

    Args:
        log: Log.
        batch_sizes: of each stage.
    """
    train, steps = log.train, np.diff(log.train["step"], prepend=0.0)
    speeds = train["images_per_second"]
    sizes = dict(enumerate(batch_sizes))
    images = steps * np.array([sizes.get(stage, np.nan) for stage in train["stage"].tolist()])
    good = np.isfinite(images) & np.isfinite(speeds) & (speeds > 0)
    clustering = sum(
        _number(line.get(name, 0.0))
        for line in log.clusterings
        for name in ("extract_seconds", "cluster_seconds")
    )
    return float(np.sum(images[good] / speeds[good])), clustering


def _marks(log, stages):
    """Vertical lines: where stages begin, with their names, and where rounds begin."""
    train = log.train
    marks = [(line["step"], "") for line in log.clusterings]
    for number in np.unique(train["stage"][np.isfinite(train["stage"])]).astype(int).tolist():
        before = train["step"][train["stage"] < number]
        first = before[-1] if len(before) else train["step"][0]
        marks.append((float(first), stages[number] if number < len(stages) else str(number)))
    return marks


def _without_unused(train):
    """The columns, with NaN for the sub-classes of steps that have none."""
    unused = (train["sub_loss"] == 0) & (train["sub_accuracy"] == 0)
    hidden = {name: np.where(unused, np.nan, train[name]) for name in ("sub_loss", "sub_accuracy")}
    return {**train, **hidden}


def _spans(series):
    """Whether the values are positive and of very different sizes."""
    values = np.concatenate([one.y[np.isfinite(one.y)] for one in series] or [np.zeros(0)])
    values = values[values > 0]
    return bool(len(values)) and values.max() > _LOG_RANGE * values.min()


def _lines(path):
    if not os.path.exists(path):
        return
    with open(path, encoding="utf-8") as file:
        for line in file:
            try:
                found = json.loads(line)
            except ValueError:
                continue  # the writer was interrupted within the line
            if isinstance(found, dict):
                yield found


def _number(value):
    return float(value) if isinstance(value, int | float) else float("nan")
