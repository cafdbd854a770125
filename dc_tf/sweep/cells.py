"""The cells of a sweep, and the training runs behind them.

    cells = expand(sweep, rows=50_000, folder=SweepFolder("S"))
    cells[0].name, cells[0].run.experiment

A cell is a variant at a point of each of its axes with one seed. Its run has the settings of the
base, of the sweep, of the variant and of the points, in this order. Its seed is also that of the
random view, so that the views of one seed are nested.
"""

import dataclasses
import itertools
import re

from dc_tf import experiment as experiment_lib
from dc_tf import settings as settings_lib
from dc_tf.errors import ConfigError
from dc_tf.experiment import Experiment
from dc_tf.planning.stages import plan_stages
from dc_tf.sweep.folder import SweepFolder
from dc_tf.sweep.sweep_file import Sweep, Variant


@dataclasses.dataclass(frozen=True)
class Run:
    """A training run.

    Attributes:
        name: of its folder.
        experiment: its settings.
        fraction: share of the rows that it is trained on.
        rows: number of these rows.
        after: the Run whose network it starts from, or None.
    """

    name: str
    experiment: Experiment
    fraction: float
    rows: int
    after: "Run | None" = None


@dataclasses.dataclass(frozen=True)
class Cell:
    """A network that is trained and measured.

    Attributes:
        name: of the cell.
        variant: name of the variant.
        labels: {axis: label of its point}, of the axes that the variant varies over.
        seed: of the run.
        run: Run; of an untrained cell, that of the cell whose untrained network is measured.
        untrained: whether the network is measured before training.
        evaluated: whether it is measured at all.
    """

    name: str
    variant: str
    labels: dict
    seed: int
    run: Run
    untrained: bool
    evaluated: bool


def expand(sweep: Sweep, rows: int, folder: SweepFolder, workers: int = 1) -> list[Cell]:
    """All cells, each after those whose runs it starts from.

    Args:
        sweep: Sweep.
        rows: of the data set.
        folder: of the sweep.
        workers: of every run.

    Raises:
        ConfigError: an experiment cannot work; names the cell.
    """
    made: dict[str, Cell] = {}
    for variant in _in_order(sweep.variants):
        axes = sweep.axes_of(variant)
        for points in itertools.product(*(axis.points for axis in axes)):
            for seed in sweep.seeds:
                chosen = {axis.name: point for axis, point in zip(axes, points, strict=True)}
                cell = _cell(sweep, variant, chosen, seed, made, rows, folder)
                if cell.name in made:
                    raise ConfigError(
                        f"{sweep.path}: two cells are named {cell.name!r}; use other labels."
                    )
                _check(cell, sweep, workers)
                made[cell.name] = cell
    order = [variant.name for variant in sweep.variants]
    return sorted(made.values(), key=lambda cell: order.index(cell.variant))


def runs_of(cells) -> list[Run]:
    """The distinct runs of the cells, each after the one that it starts from."""
    found: dict[str, Run] = {}
    for cell in cells:
        line = [cell.run]
        while line[0].after:
            line.insert(0, line[0].after)
        found |= {run.name: run for run in line if run.name not in found}
    return list(found.values())


def _in_order(variants):
    """Variants, those that others start from or measure untrained first."""
    left, done = list(variants), []
    while left:
        names = {variant.name for variant in left}
        ready = [v for v in left if not names & {v.after or None, v.untrained or None}]
        done += ready
        left = [variant for variant in left if variant not in ready]
    return done


def _cell(sweep, variant, points, seed, made, rows, folder) -> Cell:
    labels = {name: point.label for name, point in points.items()}
    name = _name(variant, labels, seed)
    if variant.untrained:
        other = sweep.variant(variant.untrained)
        whole = {axis.name: axis.points[0].label for axis in sweep.axes_of(other)} | labels
        run = made[_name(other, whole, seed)].run
    else:
        run = _run(sweep, variant, points, seed, made, rows, folder, name)
    untrained = bool(variant.untrained)
    return Cell(name, variant.name, labels, seed, run, untrained, variant.evaluate)


def _run(sweep, variant, points, seed, made, rows, folder, name) -> Run:
    after = None
    if variant.after:
        before = sweep.variant(variant.after)
        own = {axis.name: points[axis.name].label for axis in sweep.axes_of(before)}
        after = made[_name(before, own, seed)].run
    fraction = variant.fraction
    for point in points.values():
        fraction *= point.fraction
    forced = {"seed": seed, "data": {"path": folder.data(sweep.data, fraction, seed)}}
    if after:
        forced["init_from"] = folder.run(after.name)
    changes = [sweep.settings, variant.settings, *(p.settings for p in points.values()), forced]
    place = f"{sweep.path}, cell {name}"
    experiment = _experiment(variant.base or sweep.base, changes, variant, place)
    return Run(name, experiment, fraction, max(1, round(fraction * rows)), after)


def _experiment(base, changes, variant: Variant, place) -> Experiment:
    try:
        settings = settings_lib.read([base] if base else [], changes)
        if variant.stages:
            settings["stages"] = _selected(settings.get("stages") or [], variant.stages)
        return experiment_lib.load(params_override=[settings])
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from error


def _selected(stages, names):
    by_name = {stage.get("name"): stage for stage in stages}
    unknown = [name for name in names if name not in by_name]
    if unknown:
        known = ", ".join(map(str, by_name)) or "none"
        raise ConfigError(f"stages has {', '.join(unknown)}; the experiment has {known}.")
    return [by_name[name] for name in names]


def _name(variant, labels, seed) -> str:
    parts = [variant.name] if variant.name else []
    parts += [f"{axis}_{label}" for axis, label in labels.items()]
    return "-".join(re.sub(r"[^\w.]+", "_", part) for part in [*parts, f"seed_{seed}"])


def _check(cell, sweep, workers):
    """Checks that the run of a cell fits its rows and workers; raises ConfigError."""
    run = cell.run
    try:
        plan_stages(run.experiment, run.rows, workers)
    except ConfigError as error:
        raise ConfigError(f"{sweep.path}, cell {cell.name}: {error}") from error
