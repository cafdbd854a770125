"""The provenance of a run's network, for `dc_tf.json` and the model card.

source = of_run("/runs/mine", stage="", experiment=experiment)
source["data"]["fingerprint"], source["metrics"]["loss"]
"""

import json
import os

from dc_tf.atomic import read_json
from dc_tf.run_dir import RunDir


def of_run(workdir: str, stage: str, experiment) -> dict:
    """JSON-serialisable dict that describes the origin of a network.

    Args:
        workdir: folder of the run.
        stage: the stage at whose end the network was taken; "" for the newest state.
        experiment: experiment.Experiment of the run.

    Returns:
        workdir, stage, experiment (all settings), data (path and fingerprint, with the number of
        rows; {} if not recorded) and metrics (the last training metrics, of the stage if given; {}
        if there are none).
    """
    run = RunDir(workdir)
    return {
        "workdir": workdir,
        "stage": stage,
        "experiment": experiment.as_dict(),
        "data": read_json(run.data) if os.path.exists(run.data) else {},
        "metrics": _last_training(run.metrics, stage, experiment),
    }


def _last_training(path, stage, experiment):
    if not os.path.exists(path):
        return {}
    number = [s.name for s in experiment.stages].index(stage) if stage else None
    found = {}
    with open(path, encoding="utf-8") as f:
        for line in f:
            if not line.endswith("\n"):
                break  # the writer was interrupted within the line
            values = json.loads(line)
            if values["event"] == "train" and number in (None, values["stage"]):
                found = values
    return found
