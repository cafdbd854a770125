"""The folder of a sweep: its paths, and whether what is there belongs to the sweep.

    folder = SweepFolder("S")
    folder.run("rotnet-seed_0"), folder.table

A sweep may gain cells and evaluations from one start to the next. Cells that are no longer in its
file stay on disk and are not shown. A run that is there with other settings, or on other data, is
refused before work starts.
"""

import dataclasses
import os

from dc_tf import experiment as experiment_lib
from dc_tf import paths
from dc_tf.atomic import read_json, require_mounted, write_json
from dc_tf.errors import ConfigError
from dc_tf.run_dir import RunDir


class SweepFolder:
    """Paths inside the folder of a sweep.

    Attributes:
        path: absolute path of the folder.
    """

    def __init__(self, path: str):
        if not path:
            raise ConfigError("--workdir is empty; name a folder for the sweep.")
        require_mounted(path, "--workdir")
        self.path = os.path.abspath(paths.expand(path))
        self.identity = os.path.join(self.path, "sweep.json")
        self.lock = os.path.join(self.path, "sweep.lock")
        self.result = os.path.join(self.path, "result.json")
        self.table = os.path.join(self.path, "table.md")
        self.plot = os.path.join(self.path, "plot.svg")

    def run(self, name: str) -> str:
        """The run folder of a run."""
        return os.path.join(self.path, "runs", name)

    def is_trained(self, name: str) -> bool:
        return os.path.exists(RunDir(self.run(name)).result)

    def experiment(self, name: str) -> str:
        """The settings of a run, YAML."""
        return os.path.join(self.path, "experiments", f"{name}.yaml")

    def evaluation(self, run: str, name: str) -> str:
        """The result of one evaluation of a run, with the settings that made it."""
        return os.path.join(self.path, "evaluations", run, f"{name}.json")

    def log(self, job: str) -> str:
        """What the process of a job has printed."""
        return os.path.join(self.path, "logs", f"{job}.log")

    def data(self, data: str, fraction: float, seed: int) -> str:
        """The data set of a run: `data`, or a random view of it."""
        if fraction == 1:
            return data
        return os.path.join(self.path, "data", f"fraction_{fraction:.6g}-seed_{seed}")

    def known(self) -> dict:
        """What earlier starts have recorded: data, precisions, threads and runs."""
        return read_json(self.identity) if os.path.exists(self.identity) else {}

    def check_same(self, runs, fingerprint: str) -> None:
        """Checks that runs which are there have the same settings and data.

        Raises:
            ConfigError: another data set or other settings; says which.
        """
        known = self.known()
        if known.get("data", fingerprint) != fingerprint:
            raise ConfigError(
                f"{self.path} holds a sweep on another data set ({known['data']}) than this one "
                f"({fingerprint}); use another --workdir, or that data set."
            )
        for run in runs:
            before = known.get("runs", {}).get(run.name)
            changed = _changed(before, settings_of(run)) if before else []
            if changed:
                raise ConfigError(
                    f"{self.run(run.name)} is a run with other settings ({'; '.join(changed)}); "
                    "use another --workdir, another label, or the settings of that run."
                )

    def record(self, runs, fingerprint: str, precisions, threads: int | None) -> None:
        """Records what the folder holds from now on, and how later starts compute."""
        known = self.known()
        settings = {run.name: settings_of(run) for run in runs}
        write_json(
            self.identity,
            {
                "data": fingerprint,
                "precisions": dataclasses.asdict(precisions),
                "threads": threads,
                "runs": known.get("runs", {}) | settings,
            },
        )


def settings_of(run) -> dict:
    """Settings of a run that its result depends on, JSON-ready; paths are those in the folder."""
    settings = experiment_lib.result_settings(run.experiment)
    settings["init_from"] = run.after.name if run.after else settings["init_from"]
    return settings | {"fraction": run.fraction}


def _changed(before, now):
    names = sorted(before.keys() | now.keys())
    return [
        f"{name}: {before.get(name)}, {now.get(name)}"
        for name in names
        if before.get(name) != now.get(name)
    ]
