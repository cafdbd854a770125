"""The metrics log of a run: `metrics.jsonl`, one JSON object a line, written by the chief.

    log = MetricsLog(run, enabled=cluster.is_chief, from_step=1200)
    log.write("train", step=1250, loss=3.2)

Numbers also reach TensorBoard, under the same names (`summaries`).
"""

import json
import os

import numpy as np

from dc_tf import atomic
from dc_tf.training.monitoring.summaries import Summaries


class MetricsLog:
    """Appends lines of metrics; a resumed run continues after its checkpoint.

    Args:
        run: RunDir.
        enabled: False writes nothing (workers other than the chief).
        from_step: lines after this global step are dropped on resume.
    """

    def __init__(self, run, enabled: bool, from_step: int):
        self._path = path = run.metrics
        self._enabled = enabled
        self._summaries = Summaries(run.summaries, from_step) if enabled else None
        if enabled and os.path.exists(path):
            kept = [line for line in _complete_lines(path) if json.loads(line)["step"] <= from_step]
            atomic.write_text(path, "".join(kept))

    def has(self, **values) -> bool:
        """Whether some line has all these values; False on workers other than the chief."""
        if not self._enabled or not os.path.exists(self._path):
            return False
        return any(values.items() <= _scalars(line).items() for line in read(self._path))

    def write(self, event: str, step: int, **values) -> None:
        """Appends one line: the kind of event, the global step, and values by name."""
        if self._enabled:
            with open(self._path, "a", encoding="utf-8") as f:
                f.write(json.dumps({"event": event, "step": step, **values}) + "\n")

    def write_settings(self, experiment) -> None:
        """Writes the settings of the run to TensorBoard, once."""
        if self._summaries:
            self._summaries.describe(experiment)

    def write_train(self, step: int, place: dict, metrics: dict) -> None:
        """Appends a line about training, and writes `metrics` to TensorBoard.

        Args:
            step: global step.
            place: stage and epoch, for the line only.
            metrics: {name: number}.
        """
        self.write("train", step, **place, **metrics)
        if self._summaries:
            self._summaries.scalars(step, metrics)

    def write_clustering(
        self, step: int, stage: int, round_index: int, metrics, report, counts=None, sheet=None
    ) -> None:
        """Appends a line about a clustering, and writes the rest to TensorBoard.

        Args:
            step: global step.
            stage, round_index: index of the stage, and of the clustering in it.
            metrics: {name: number}, for both.
            report: dict of nested detail, for the line only.
            counts, sheet: as of `Summaries.clustering`.
        """
        self.write("clustering", step, stage=stage, round=round_index, **metrics, **report)
        if self._summaries:
            self._summaries.clustering(step, metrics, counts or {}, sheet)

    def write_data(self, step: int, **values) -> None:
        """Appends a line about the data set, and writes the values to TensorBoard."""
        self.write("data", step, **values)
        if self._summaries:
            self._summaries.scalars(step, {f"data/{name}": v for name, v in values.items()})

    def close(self) -> None:
        """Closes TensorBoard's file."""
        if self._summaries:
            self._summaries.close()


def read(path: str) -> list[dict]:
    """All complete lines of a metrics file, as dicts."""
    return [json.loads(line) for line in _complete_lines(path)]


def last_epoch_means(path: str) -> dict[str, float]:
    """Mean losses and accuracies of the last epoch, weighted by steps."""
    lines = [line for line in read(path) if line["event"] == "train"]
    last = lines[-1]
    epoch = [m for m in lines if (m["stage"], m["epoch"]) == (last["stage"], last["epoch"])]
    before = [m["step"] for m in lines if m["step"] < epoch[0]["step"]]
    steps = np.diff([*(before[-1:] or [0]), *(m["step"] for m in epoch)])
    names = [name for name in last if name.endswith(("loss", "accuracy"))]
    return {name: float(np.average([m[name] for m in epoch], weights=steps)) for name in names}


def _scalars(line: dict) -> dict:
    return {name: value for name, value in line.items() if not isinstance(value, (list, dict))}


def _complete_lines(path):
    with open(path, encoding="utf-8") as f:
        return [line for line in f if line.endswith("\n")]
