"""The whole job: images, training on several workers, export, evaluation of features, a report.

    launch/quickstart.sh                                  on generated images
    launch/quickstart.sh --images=DIR --workdir=DIR       on your own folder

It first measures the training speed of this machine, and chooses the epochs so that the job takes
about --minutes. With --images, sub-folders are classes, and a fifth of each is held out for
evaluation. A folder without sub-folders has no labels, so nothing is evaluated.

Ctrl-C saves and ends with exit code 42; a second one ends it at once. Started again with the same
--workdir, it resumes with the epochs that it chose the first time. On a terminal
it ends with a table; else the last line on stdout is one JSON object, that of WORKDIR/result.json.
"""

import argparse
import json
import os
import pathlib
import re
import sys
import time

import budget
import local
import summary
from steps import PREEMPTED, WRONG_USAGE, StepFailed, Steps, Stopped, say

ROOT = pathlib.Path(__file__).resolve().parent.parent
CONFIG_FILE = ROOT / "configs" / "quickstart.yaml"
LINEAR_PROBE = f"--config_file={ROOT}/configs/evaluation/linear_probe_small.yaml"
EVALUATIONS = "knn", "linear_probe"
EVALUATED_IN = ("float32", "bfloat16")
MINUTES = 8.0
PICTURES = 4000
MEASURING = "Measuring the speed, about half a minute"
# The most workers among which a batch of 64 images is split.
MOST_WORKERS = 8
# Settings that a work folder stores, for flags that are not given again.
_LIMITS = {"workers": (1, 1024), "pictures": (1, 2**31 - 1), "minutes": (0.01, 1_000_000)}
KEPT = ("images", "pictures", "workers", "minutes", "config_file", "params_override")


def main(argv=None) -> int:
    """Returns the exit code."""
    options = parse(argv)
    workdir = pathlib.Path(options.workdir)
    steps = Steps()
    try:
        Quickstart(options, workdir, steps).run()
    except Stopped as stopped:
        if stopped.code != PREEMPTED:
            say("ended at once, without saving")
        elif not stopped.saved:
            say("the interrupted step had saved nothing new")
        say(f"stopped; start again with --workdir={workdir} to resume")
        return stopped.code
    except StepFailed as failed:
        say("\n".join(filter(None, [failed.log, str(failed)])))
        return failed.code
    except local.UsageError as error:
        say(f"quickstart: {error}")
        return WRONG_USAGE
    return 0


def parse(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="launch/quickstart.sh",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    stamp = time.strftime("%Y%m%d-%H%M%S")
    parser.add_argument(
        "--images", type=absolute, help="folder of images (default: generated ones)"
    )
    parser.add_argument(
        "--pictures",
        type=int,
        help=f"how many images to generate without --images (default: {PICTURES}); a quarter as "
        "many are added for evaluation",
    )
    parser.add_argument(
        "--minutes",
        type=float,
        help="time limit of the job; fewer epochs are trained if those of the configuration "
        f"take longer, at least {budget.LEAST_STEPS} steps per stage (default: {MINUTES:g}; with "
        "another --config_file all of its epochs)",
    )
    parser.add_argument(
        "--workers",
        type=int,
        help="processes (default: 1, 2 or 4 by the number of GPUs; without GPUs 2, 4 or 8 by the "
        "number of cores)",
    )
    parser.add_argument(
        "--workdir",
        type=absolute,
        default=ROOT / "runs" / f"quickstart-{stamp}",
        help="folder for data, run, export and results (default: runs/quickstart-TIME)",
    )
    parser.add_argument(
        "--config_file", type=absolute, help="what to train (default: configs/quickstart.yaml)"
    )
    parser.add_argument(
        "--params_override", help="settings over those of the file: stages[0].epochs=3"
    )
    options = parser.parse_args(argv)
    if options.images is not None and not pathlib.Path(options.images).is_dir():
        parser.error(f"--images={options.images} is not a folder; name one with images")
    for name, (least, most) in _LIMITS.items():
        value = getattr(options, name)
        if value is not None and not least <= value <= most:  # nan is neither
            parser.error(f"--{name}={value:g}; use {least} to {most}")
    return options


def absolute(text) -> str:
    """An absolute path, with `~` expanded as by the commands; a type of argparse."""
    try:
        return str(pathlib.Path(text).expanduser().absolute())
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(f"{text} names no home folder") from error


def default_workers() -> int:
    """One per GPU or core, in a number that fits the 4 and 8 super-classes."""
    gpus = len(local.visible_gpus())
    most = min(gpus, 4) if gpus else min(max(local.cores(), 2), MOST_WORKERS)
    return 1 << (most.bit_length() - 1)


class Quickstart:
    """The job in one work folder.

    Args:
        options: of `parse`.
        workdir: pathlib.Path.
        steps: Steps.
    """

    def __init__(self, options, workdir, steps):
        self._started = time.monotonic()
        self._workdir = workdir
        self._run = workdir / "run"
        self._steps = steps
        self._note = workdir / "quickstart.json"
        self._remember(options)

    def run(self) -> None:
        """Runs the remaining steps and prints the result."""
        train, test, test_rows = self._make_data()
        epochs = self._choose_epochs(train, test_rows)
        trained = self._train(train, epochs)
        export = self._workdir / "export"
        if not (export / "saved_model.pb").exists():
            self._dc_tf("Export", "export", f"--workdir={self._run}", f"--output={export}")
        knn = linear = None
        if test is not None:
            knn = self._evaluate(EVALUATIONS[0], "--task=knn", export, train, test)
            linear = self._evaluate(EVALUATIONS[1], LINEAR_PROBE, export, train, test)
        report = self._report()
        seconds = {title: round(took, 1) for title, took in self._steps.seconds.items()}
        result = {
            "workdir": str(self._workdir),
            "export": str(export),
            "report": str(report),
            "rows": trained["rows"],
            "workers": trained["workers"],
            "epochs": {stage["name"]: stage["epochs"] for stage in epochs["stages"]},
            "configured_epochs": {s["name"]: s["configured"] for s in epochs["stages"]},
            "rounds": trained["rounds"],
            "seconds": seconds,
            "expected_seconds": epochs["seconds"],
            **summary.metrics(trained, knn, linear),
        }
        path = self._workdir / "result.json"
        write_json(path, result)
        say(f"== Done in {minutes(time.monotonic() - self._started)}")
        print(summary.text(result, knn, linear))
        print(f"report: {report}")
        print(f"result: {path}" if sys.stdout.isatty() else json.dumps(result), flush=True)

    def _remember(self, options):
        """Refuses a work folder of other images; flags not given have their earlier values."""
        kept = json.loads(self._note.read_text()) if self._note.exists() else {}
        given = {name: getattr(options, name) for name in KEPT}
        for name, default in (("images", "generated images"), ("pictures", PICTURES)):
            if kept and given[name] not in (None, kept[name] or default):
                raise local.UsageError(
                    f"{self._workdir} was made from {kept[name] or default}; use another --workdir "
                    f"for --{name}={given[name]}."
                )
        self._changed = any(
            given[name] not in (None, kept.get(name)) for name in ("config_file", "params_override")
        )
        if self._changed:
            kept.pop("epochs", None)
        for name, value in given.items():
            setattr(self, f"_{name}", kept.get(name) if value is None else value)
        self._workers = self._workers or default_workers()
        self._kept = kept | {name: getattr(self, f"_{name}") for name in KEPT}
        try:
            self._workdir.mkdir(parents=True, exist_ok=True)
            write_json(self._note, self._kept)
        except OSError as error:
            raise local.UsageError(
                f"--workdir={self._workdir} cannot be written: {error.strerror}; use another."
            ) from error

    def _make_data(self):
        """(data set to train on, to test on or None, number of images of the latter or None)."""
        folder = self._workdir / "data"
        whole, train, test = folder / "all", folder / "train", folder / "test"
        if self._images is None:
            drawn = self._pictures or PICTURES
            for split, output, count in (("train", train, drawn), ("test", test, -(-drawn // 4))):
                if not complete(output):
                    flags = f"--split={split}", f"--images={count}", "--overwrite"
                    self._dc_tf(f"Images to {split}", "generate", f"--output={output}", *flags)
            return train, test, rows_of(test)
        folders = any(e.is_dir() and e.name[0] != "." for e in os.scandir(self._images))
        if not complete(whole):
            flags = ["--labels_from_folders"] if folders else []
            flags += ["--short_side=128", "--overwrite"]  # more than quickstart.yaml uses
            self._dc_tf("Images", "convert", f"--input={self._images}", f"--output={whole}", *flags)
        if not (complete(train) and complete(test)):
            program = [sys.executable, "-m", "dc_tf.data.train_test_split", whole, train, test]
            held = self._steps.run("Holding out a fifth", list(map(str, program)))
            if held is None:
                say("fewer than two sub-folders have two images each: nothing can be evaluated.")
                return whole, None, None
        return train, test, rows_of(test)

    def _choose_epochs(self, train, test_rows):
        """The epochs: {"stages": [...], "override": settings or None, "seconds": expected}.

        Measured and chosen once per work folder, with `compute_dtype`.
        """
        if "epochs" in self._kept:
            return self._kept["epochs"]
        began = time.monotonic()
        command = self._on_workers("train", "--dry_run", "--measure", *self._settings(train))
        try:
            plan = self._steps.run(MEASURING, command, quiet=True, is_launcher=True)
        except StepFailed as failed:
            if failed.code == WRONG_USAGE and self._images is not None:
                held = f", {test_rows} of them held out for evaluation" if test_rows else ""
                rows = rows_of(train) + (test_rows or 0)
                failed.log = f"{self._images} has {rows} images{held}. {failed.log}"
            raise
        costs = budget.Costs.of(plan, time.monotonic() - began, test_rows)
        configured = [stage["epochs"] for stage in plan["stages"]]
        epochs, override = configured, None
        if costs and self._fits():
            limit = 60 * (self._minutes or MINUTES)
            epochs = budget.fit(costs, limit - (time.monotonic() - self._started))
            if epochs != configured:
                override = budget.overrides(costs, epochs)
        seconds = costs and costs.seconds(epochs) + time.monotonic() - self._started
        self._say_costs(plan, costs, configured, epochs, seconds)
        names = [stage["name"] for stage in plan["stages"]]
        stages = zip(names, epochs, configured, strict=True)
        self._kept["epochs"] = {
            "compute_dtype": plan["compute_dtype"],
            "override": override,
            "stages": [dict(name=n, epochs=e, configured=c) for n, e, c in stages],
            "seconds": seconds and round(seconds),
        }
        write_json(self._note, self._kept)
        return self._kept["epochs"]

    def _fits(self):
        """Whether the time limit determines the epochs: not if they were given."""
        override = self._params_override or ""
        if pathlib.Path(override).suffix in (".yaml", ".yml", ".json") and "=" not in override:
            override = pathlib.Path(override).read_text()
        if re.search(r"\bepochs\b['\"]?\s*[=:]", override):
            say("epochs are those of --params_override; --minutes is ignored.")
            return False
        return self._config_file is None or self._minutes is not None

    def _say_costs(self, plan, costs, configured, epochs, seconds):
        if costs is None:
            notes = "; ".join(plan["measured"]["notes"]) if plan["measured"] else ""
            say(f"the duration is unknown: {notes or 'no speed was measured'}.")
            return
        speeds = [f"{stage.name} {stage.images_per_s:.0f}" for stage in costs.stages]
        dtype = plan["compute_dtype"]
        say(f"{self._workers} workers, {dtype}: {', '.join(speeds)} images/s.")
        text = f"the job takes about {minutes(seconds)}, with {_counts(epochs)} epochs"
        if epochs != configured:
            text += f" (configured: {_counts(configured)}), chosen for --minutes"
            text += f"={self._minutes or MINUTES:g}"
        say(f"{text}.")
        longer = seconds > 60 * (self._minutes or MINUTES) + 30
        if longer and epochs != configured and epochs == budget.fit(costs, 0.0):
            least = f"each stage has at least {budget.LEAST_STEPS} steps"
            say(f"fewer epochs are not possible: {least}; use fewer images to save time.")

    def _train(self, data, epochs):
        finished = self._run / "result.json"
        if finished.exists() and not self._changed:
            return json.loads(finished.read_text())
        settings = self._settings(data, epochs["override"])
        command = self._on_workers("train", *settings, restarts=1)
        return self._steps.run("Training", command, is_launcher=True)

    def _settings(self, data, override=None):
        """Flags of `dc_tf train`; a later override wins."""
        # JSON, since a path may contain the separators of settings
        overrides = [self._params_override, json.dumps({"data": {"path": str(data)}})]
        if override:
            overrides.append(",".join(f"{name}={value}" for name, value in override.items()))
        return [
            f"--config_file={self._config_file or CONFIG_FILE}",
            f"--workdir={self._run}",
            *(f"--params_override={text}" for text in overrides if text),
        ]

    def _on_workers(self, *arguments, restarts=0):
        launcher = [sys.executable, str(ROOT / "launch" / "local.py")]
        flags = [f"--workers={self._workers}", f"--max_restarts={restarts}"]
        return [*launcher, *flags, "--", *arguments]

    def _evaluate(self, name, task, export, train, test):
        """The result of an evaluation, which is kept."""
        path = self._workdir / f"{name}.json"
        if path.exists():
            return json.loads(path.read_text())
        flags = [f"--model={export}", f"--train={train}", f"--test={test}"]
        flags.append(f"--layer={summary.measured_layers(export)}")
        dtype = self._kept["epochs"]["compute_dtype"]
        if dtype in EVALUATED_IN:  # that of training, so that it is not measured again
            flags.append(f"--compute_dtype={dtype}")
        result = self._dc_tf(f"Measuring: {name}", "evaluate", task, *flags)
        write_json(path, result)
        return result

    def _report(self):
        """Writes the report of the run; returns its path."""
        path = self._workdir / "report.html"
        flags = [f"--run={self._run}", f"--output={path}", "--random_init"]
        for name in EVALUATIONS:
            result = self._workdir / f"{name}.json"
            if result.exists():
                flags.append(f"--evaluations={result}")
        self._dc_tf("Report", "report", *flags)
        return path

    def _dc_tf(self, title, *arguments):
        return self._steps.run(title, [sys.executable, "-m", "dc_tf", *map(str, arguments)])


def complete(data) -> bool:
    """Whether a data set is complete; its manifest is written last."""
    return (data / "manifest.json").exists()


def rows_of(data) -> int:
    """Images of a complete data set."""
    return json.loads((data / "manifest.json").read_text())["rows"]


def write_json(path, value) -> None:
    """Writes a JSON file completely or not at all."""
    aside = path.with_name(f".{path.name}.new")
    aside.write_text(json.dumps(value, indent=1) + "\n")
    os.replace(aside, path)


def minutes(seconds) -> str:
    """125 -> '2:05 minutes'."""
    whole = round(seconds)
    return f"{whole // 60}:{whole % 60:02d} minutes"


def _counts(epochs):
    return " + ".join(map(str, epochs))


if __name__ == "__main__":
    local.end(main())
