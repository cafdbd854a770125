"""The jobs of a sweep: the training of each run, and its evaluations.

    jobs = make_jobs(sweep, cells, folder, precisions)
    [job.name for job in jobs if not job.is_done()]

A job is a command line of dc_tf and a test whether its result is there. Results of evaluations are
kept with the settings that made them; with others they are measured again.
"""

import dataclasses
import functools
import json
import os
from collections.abc import Callable
from typing import Any

from dc_tf import experiment as experiment_lib
from dc_tf import settings as settings_lib
from dc_tf.atomic import make_folder, read_json, write_text
from dc_tf.sweep.cells import runs_of
from dc_tf.sweep.precisions import Precisions
from dc_tf.sweep.views import write_view_of

_OWN_DATA = ("nmi",)  # tasks that read the data set of the run


@dataclasses.dataclass(frozen=True)
class Job:
    """One process of the sweep.

    Attributes:
        name: of the job and of its log.
        run: name of the run that it trains or measures.
        arguments: of dc_tf.
        needs: names of the jobs whose results it uses.
        is_done: whether its result is there.
        prepare: makes what the command reads; called before it starts.
        finish: keeps the result; called after it has ended well.
        made_with: of an evaluation, what its result depends on beside the run.
    """

    name: str
    run: str
    arguments: tuple[str, ...]
    needs: tuple[str, ...]
    is_done: Callable[[], bool]
    prepare: Callable[[], None]
    finish: Callable[[], None]
    made_with: dict | None = None


def make_jobs(sweep, cells, folder, precisions: Precisions, prints: dict) -> list[Job]:
    """All jobs, each after those that it needs; the evaluations of a run follow its training.

    Args:
        sweep, cells, folder: as of `cells.expand`.
        precisions: what "auto" is.
        prints: {path of a data set: its fingerprint}.
    """
    found = []
    for run in runs_of(cells):
        found.append(_training(run, sweep, folder, precisions))
        own = [cell for cell in cells if cell.evaluated and cell.run.name == run.name]
        if own:
            untrained = any(cell.untrained for cell in own)
            for evaluation in sweep.evaluations:
                asked = Asked(sweep, evaluation, run, untrained, precisions.evaluation, prints)
                found.append(_measuring(asked, folder))
    return found


@dataclasses.dataclass(frozen=True)
class Asked:
    """An evaluation of a run.

    Attributes:
        sweep, evaluation, run: of which.
        untrained: whether to measure the untrained network too.
        compute_dtype: of the network.
        prints: {path of a data set: its fingerprint}.
    """

    sweep: Any
    evaluation: Any
    run: Any
    untrained: bool
    compute_dtype: str
    prints: dict

    @property
    def data(self) -> dict[str, str]:
        """Flags that name data."""
        evaluation, given = self.evaluation, self.settings
        own = given["task"] in _OWN_DATA
        train = evaluation.train or ("" if own else self.sweep.train or self.sweep.data)
        test = evaluation.test or ("" if own or "test_split" in given else self.sweep.test)
        return {name: path for name, path in (("train", train), ("test", test)) if path}

    @property
    def settings(self) -> dict:
        """Settings of the task, with its name."""
        given = settings_lib.read(self.evaluation.config_files, [self.evaluation.settings])
        return {"task": self.evaluation.task} | given

    def made_with(self) -> dict:
        """What the result depends on beside the run, JSON-ready."""
        return {
            "settings": self.settings,
            "protocol": self.evaluation.protocol,
            "layers": list(self.evaluation.layers),
            "data": {name: self.prints.get(path, path) for name, path in self.data.items()},
            "seed": self.run.experiment.seed,
            "compute_dtype": self.compute_dtype,
            "untrained": self.untrained,
        }

    def arguments(self, model: str, output: str) -> tuple[str, ...]:
        """The command line of dc_tf."""
        evaluation = self.evaluation
        return (
            "evaluate",
            *(f"--config_file={path}" for path in evaluation.config_files),
            f"--params_override={json.dumps(self.settings)}",
            f"--protocol={evaluation.protocol}",
            f"--layer={','.join(evaluation.layers)}",
            *(f"--{name}={path}" for name, path in self.data.items()),
            f"--model={model}",
            f"--seed={self.run.experiment.seed}",
            f"--compute_dtype={self.compute_dtype}",
            "--random_init" if self.untrained else "--norandom_init",
            "--noestimate",
            f"--output={output}",
        )


def kept_result(path: str, made_with: dict | None = None) -> dict | None:
    """The kept result of an evaluation; None if there is none, or it was made with other settings.

    A result with the untrained network also serves where that is not asked for.
    """
    if not os.path.exists(path):
        return None
    kept = read_json(path)
    own = kept["made_with"]
    if made_with is not None and own != made_with | {"untrained": True} and own != made_with:
        return None
    return kept["result"]


def job_name(run: str, evaluation: str) -> str:
    """The name of the job that measures a run."""
    return f"{run}.{evaluation}"


def _training(run, sweep, folder, precisions) -> Job:
    settings = folder.experiment(run.name)

    def prepare():
        write_view_of(run, sweep.data)
        make_folder(os.path.dirname(settings))
        write_text(settings, experiment_lib.to_yaml(precisions.applied(run.experiment)))

    return Job(
        name=run.name,
        run=run.name,
        arguments=("train", f"--config_file={settings}", f"--workdir={folder.run(run.name)}"),
        needs=(run.after.name,) if run.after else (),
        is_done=functools.partial(folder.is_trained, run.name),
        prepare=prepare,
        finish=lambda: None,
    )


def _measuring(asked, folder) -> Job:
    name = asked.run.name
    path = folder.evaluation(name, asked.evaluation.name)
    output, made_with = f"{path}.new", asked.made_with()

    def finish():
        # Not `write_json`, which sorts: layers are in the network's order.
        kept = {"made_with": made_with, "result": read_json(output)}
        write_text(path, json.dumps(kept, indent=1) + "\n")
        os.remove(output)

    return Job(
        name=job_name(name, asked.evaluation.name),
        run=name,
        arguments=asked.arguments(folder.run(name), output),
        needs=(name,),
        is_done=lambda: kept_result(path, made_with) is not None,
        prepare=lambda: make_folder(os.path.dirname(path)),
        finish=finish,
        made_with=made_with,
    )
