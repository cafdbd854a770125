"""One choice of floating-point types for all cells of a sweep.

    precisions = choose(experiments, known={})         # in a process of its own
    precisions.applied(experiment)                     # without "auto"

"auto" is measured, and two runs beside each other might measure differently. So it is resolved
once, before the first cell, and recorded in the sweep's folder. The process that measures ends
afterwards, since TensorFlow would keep the memory of a GPU.
"""

import dataclasses
import json
import subprocess
import sys

from dc_tf import experiment as experiment_lib
from dc_tf.experiment import Experiment
from dc_tf.limits import AUTO
from dc_tf.sweep.processes import Slot


@dataclasses.dataclass(frozen=True)
class Precisions:
    """What "auto" is.

    Attributes:
        model: of `model.compute_dtype`.
        clustering: of `clustering.precision`.
    """

    model: str = AUTO
    clustering: str = AUTO

    @property
    def evaluation(self) -> str:
        """Of the network in evaluations, which have no float16."""
        return "float32" if self.model == "float16" else self.model

    def applied(self, experiment: Experiment) -> Experiment:
        """The experiment with these in the place of "auto"."""
        stages = [self.clustering] * len(experiment.stages)
        return experiment_lib.with_types(experiment, self.model, stages)


def choose(runs, known: dict, slot: Slot) -> Precisions:
    """The types of a sweep: those that were recorded, or measured now on a slot of it.

    Args:
        runs: list of cells.Run.
        known: Precisions as a dict, of an earlier start; {} for none.
        slot: where cells compute.

    Raises:
        RuntimeError: the measuring process failed.
    """
    if known:
        return Precisions(**known)
    experiments = [run.experiment for run in runs]
    if not any(_has_auto(experiment) for experiment in experiments):
        return Precisions(experiments[0].model.compute_dtype)
    largest = max(experiments, key=lambda one: sum(stage.clustered for stage in one.stages))
    done = subprocess.run(
        [sys.executable, "-m", "dc_tf.sweep.precisions"],
        input=json.dumps(largest.as_dict()),
        env=slot.environment() | {"TF_CPP_MIN_LOG_LEVEL": "3"},
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"measuring precisions ended with exit code {done.returncode}.")
    return Precisions(**json.loads(done.stdout.splitlines()[-1]))


def _has_auto(experiment):
    types = [stage.clustering.precision for stage in experiment.stages if stage.clustered]
    return AUTO in (experiment.model.compute_dtype, *types)


def _measured(experiment: Experiment) -> Precisions:
    from dc_tf.training.precisions import choose_precisions

    chosen = choose_precisions(experiment)
    clustering = [choice.dtype for choice in chosen.clustering if choice]
    return Precisions(chosen.model.dtype, clustering[-1] if clustering else "float32")


if __name__ == "__main__":
    given = experiment_lib.load((), [sys.stdin.read()])
    print(json.dumps(dataclasses.asdict(_measured(given))))
