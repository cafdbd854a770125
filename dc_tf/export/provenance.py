"""What a run's folder says of the network that it made: for `dc_tf.json` and the model card.

source = of_run("/runs/mine", stage="", experiment=experiment)
source["data"]["fingerprint"], source["metrics"]["loss"]
"""

import json
import os

from dc_tf.atomic import read_json
from dc_tf.run_dir import RunDir


def of_run(workdir: str, stage: str, experiment) -> dict:
    """JSON-able dict on where a network comes from.

    Args:
        workdir: folder of the run.
        stage: the network is as it was when this stage ended; "" for its newest state.
        experiment: experiment.Experiment of the run.

    Returns:
        workdir, stage, experiment (all settings), data (path, fingerprint with the number of rows;
        {} where the run has not said) and metrics (the last line of training, of the stage; {}
        without).
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
                break  # a writer was stopped within it
            values = json.loads(line)
            if values["event"] == "train" and number in (None, values["stage"]):
                found = values
    return found
