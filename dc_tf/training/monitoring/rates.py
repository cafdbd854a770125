"""The training speed that a run has measured so far, from its metrics."""

import os

from dc_tf.planning.plan import Rates
from dc_tf.training.monitoring.metrics import read


def rates_of(run) -> Rates:
    """The median training speed of each stage that a run has logged so far."""
    if not os.path.exists(run.metrics):
        return Rates()
    speeds: dict[int, list[float]] = {}
    for line in read(run.metrics):
        if line["event"] == "train":
            speeds.setdefault(line["stage"], []).append(line["images_per_second"])
    medians = {stage: sorted(found)[len(found) // 2] for stage, found in speeds.items()}
    return Rates(medians, f"measured by the run in {run.path} so far")
