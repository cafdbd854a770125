"""What a sweep would run, and its cost: cells, time and disk.

    planned = dry_run("methods_small", "S", data="DATA/train", test="DATA/test")
    print(planned.text)

Sizes follow from `dc_tf.planning`. Speeds are those that runs of the folder have logged; with
`measure` some steps are run here for each kind of network and batch, one at a time with all cores.
The time of evaluations is that of those which are done.
"""

import dataclasses
import json

from dc_tf.memory import size
from dc_tf.run_dir import RunDir
from dc_tf.sweep import room as room_lib
from dc_tf.sweep.jobs import job_name, kept_result, make_jobs
from dc_tf.sweep.precisions import Precisions
from dc_tf.sweep.processes import make_slots
from dc_tf.sweep.run import prepare
from dc_tf.sweep.tables import markdown


@dataclasses.dataclass(frozen=True)
class DryRun:
    """The plan of a sweep.

    Attributes:
        text: as a table.
        result: JSON-ready.
    """

    text: str
    result: dict


def dry_run(
    config_file, workdir, data=None, train=None, test=None, at_once=1, workers=1, measure=False
) -> DryRun:
    """Plans what `run.run_sweep` would do; starts and writes nothing.

    Args:
        config_file, workdir, data, train, test, at_once, workers: as of `run.run_sweep`.
        measure: run some steps of each kind of network, to predict the time.

    Raises:
        ConfigError: as of `run.run_sweep`.
    """
    prepared = prepare(config_file, workdir, data, train, test, workers)
    before = prepared.folder.known()
    room = room_lib.chosen(at_once, prepared, workers, before.get("threads"))
    at_once = room.at_once
    make_slots(at_once, workers)
    known = before.get("precisions")
    # The sizes on disk do not depend on them.
    precisions = Precisions(**known) if known else Precisions("float32", "float32")
    jobs = make_jobs(prepared.sweep, prepared.cells, prepared.folder, precisions, prepared.prints)
    done = {job.name for job in jobs if job.is_done()}
    runs = [_planned(run, precisions, workers, run.name in done) for run in prepared.runs]
    speeds = _speeds(prepared, workers, measure)
    for line, run in zip(runs, prepared.runs, strict=True):
        line["seconds"] = _seconds(line.pop("plan"), speeds.get(_kind(run)))
    result = {
        "dry_run": True,
        "at_once": at_once,
        "cells": len([cell for cell in prepared.cells if cell.evaluated]),
        "runs": runs,
        "evaluations": len(jobs) - len(runs),
        "evaluations_done": len(done - {run.name for run in prepared.runs}),
        "disk_bytes": sum(line["disk_bytes"] for line in runs),
        "seconds": _total(runs, at_once),
        "evaluation_seconds": _evaluation_seconds(prepared, jobs, done, at_once),
    }
    return DryRun(_text(prepared.sweep, result, room), result)


def _planned(run, precisions, workers, done) -> dict:
    plan = _plan(precisions.applied(run.experiment), run.rows, workers)
    after = run.after.name if run.after else None
    disk = plan.shared_bytes + workers * plan.scratch_bytes
    return {
        "name": run.name,
        "after": after,
        "images": run.rows,
        "steps": plan.steps,
        "disk_bytes": disk,
        "done": done,
        "plan": plan,
    }


def _plan(experiment, rows, workers):
    from dc_tf.planning.plan import make_plan

    return make_plan(experiment, rows, workers, _on_gpu())


def _on_gpu():
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))


def _kind(run) -> str:
    """What the speed of a run depends on most: the network, and the batches of its stages."""
    stages = [(s.batch_size, s.accumulate, s.rotations_together) for s in run.experiment.stages]
    return json.dumps([run.experiment.model.as_dict(), stages])


def _speeds(prepared, workers, measure) -> dict:
    """{kind: planning.plan.Rates} of those that are known."""
    from dc_tf.training.monitoring.rates import rates_of

    found = {}
    for run in prepared.runs:
        rates = rates_of(RunDir(prepared.folder.run(run.name)))
        if rates.images_per_s:
            found[_kind(run)] = rates
    if measure:
        for run in prepared.runs:
            if _kind(run) not in found:
                found[_kind(run)] = _measured(run, prepared.sweep.data, workers)
    return found


def _measured(run, data, workers):
    """The speed of a run on all of the data set, whose views do not exist yet."""
    from dc_tf.distributed.cluster import connect
    from dc_tf.distributed.session import leaving
    from dc_tf.training.measure import measure
    from dc_tf.training.precisions import choose_precisions

    whole = run.experiment.data.replace(path=data)
    experiment = choose_precisions(run.experiment.replace(data=whole)).experiment
    cluster = connect()
    with leaving(cluster):
        return measure(experiment, _plan(experiment, run.rows, workers), cluster)


def _seconds(plan, rates) -> float | None:
    """Seconds of the training of a run; None if its speed is unknown."""
    from dc_tf.planning.report import seconds_of

    if rates is None:
        return None
    parts = []
    for index, stage in enumerate(plan.stages):
        parts.append(seconds_of(index, stage, rates))
        parts.append(rates.clusterings_s(stage) or 0.0)
    return None if None in parts else sum(parts)


def _total(runs, at_once) -> float | None:
    """Seconds of all trainings that are left, side by side; None if one is unknown."""
    left = [line["seconds"] for line in runs if not line["done"]]
    return None if None in left else sum(left) / at_once


def _evaluation_seconds(prepared, jobs, done, at_once) -> float | None:
    """Seconds of the evaluations that are left, as long as those done; None without any done."""
    total = 0.0
    for evaluation in prepared.sweep.evaluations:
        names = {run.name: job_name(run.name, evaluation.name) for run in prepared.runs}
        known = [
            kept_result(prepared.folder.evaluation(run, evaluation.name))["seconds"]
            for run, name in names.items()
            if name in done
        ]
        left = len([job for job in jobs if job.name in {*names.values()} - done])
        if left and not known:
            return None
        total += left * sum(known) / max(1, len(known))
    return total / at_once


def _text(sweep, result, room) -> str:
    lines = [
        [
            line["name"],
            line["after"] or "",
            f"{line['images']:,}",
            f"{line['steps']:,}",
            size(line["disk_bytes"]),
            "done" if line["done"] else _duration(line["seconds"]),
        ]
        for line in result["runs"]
    ]
    head = ["run", "after", "images", "steps", "disk", "time"]
    side = f", {room.at_once} at a time" if room.at_once > 1 else ""
    evaluations = _duration(result["evaluation_seconds"])
    return "\n".join(
        [
            f"{sweep.title}: {result['cells']} cells, {len(lines)} runs, "
            f"{result['evaluations']} evaluations, of which {result['evaluations_done']} are done",
            "",
            markdown(head, lines),
            "",
            f"disk: up to {size(result['disk_bytes'])}",
            *filter(None, [room.text]),
            f"time of what is left{side}: training {_duration(result['seconds'])}, "
            f"evaluations {evaluations}",
        ]
    )


def _duration(seconds) -> str:
    if seconds is None:
        return "unknown"
    for unit, length in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} seconds"
