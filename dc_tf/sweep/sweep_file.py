"""A sweep file: a base experiment, what varies, and how every network is evaluated.

    sweep = read_sweep("methods_small", data="DATA/train", test="DATA/test")
    sweep.axes, sweep.variants, sweep.evaluations

docs/sweep.md describes every field. Only the file itself is checked here; `cells.expand` makes the
experiments.
"""

import dataclasses
import os
from collections.abc import Mapping

from dc_tf import paths, shipped, strict_yaml, text_files
from dc_tf import settings as settings_lib
from dc_tf.errors import ConfigError
from dc_tf.sweep import published

_MAPPING = "the sweep"  # in the place of a file's name
LAYER, VARIANT = "layer", "variant"  # what a plot may have on its horizontal axis beside an axis


@dataclasses.dataclass(frozen=True)
class Point:
    """One value of an axis.

    Attributes:
        label: as text, in tables and in the names of cells.
        settings: of the experiment, which it changes.
        fraction: share of the data set's rows that are trained on, a random view.
    """

    label: str = ""
    settings: dict = dataclasses.field(default_factory=dict)
    fraction: float = 1.0


@dataclasses.dataclass(frozen=True)
class Axis:
    """What varies, with its points in the order of the file."""

    name: str
    points: tuple[Point, ...]


@dataclasses.dataclass(frozen=True)
class Variant:
    """A method, or another named change of the base experiment.

    Attributes:
        name: "" of the only variant of a file that lists none.
        settings: of the experiment, which it changes.
        stages: names of the stages that are run; () for all.
        after: name of the variant whose networks training starts from; "" for random weights.
        untrained: name of the variant whose untrained networks are measured, without training.
        axes: names of the axes that it varies over; None for all. An untrained variant is at the
            first point of the others; a trained one does without them.
        evaluate: whether its networks are measured.
    """

    name: str = ""
    settings: dict = dataclasses.field(default_factory=dict)
    stages: tuple[str, ...] = ()
    after: str = ""
    untrained: str = ""
    axes: tuple[str, ...] | None = None
    evaluate: bool = True


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """One task of `dc_tf evaluate`, with its flags of the same names.

    Attributes:
        name: in tables and results.
        task: name of the task; "" for the one that `config_file` names.
        config_file: file or preset with settings; "" for none.
        settings: over those of the file.
        protocol: "paper", "small" or "auto".
        layers: of tasks that measure layers.
        train, test: data; "" for the data set and the test set of the sweep.
    """

    name: str = ""
    task: str = ""
    config_file: str = ""
    settings: dict = dataclasses.field(default_factory=dict)
    protocol: str = "auto"
    layers: tuple[str, ...] = ("all",)
    train: str = ""
    test: str = ""

    @property
    def config_files(self) -> list[str]:
        return [self.config_file] if self.config_file else []


@dataclasses.dataclass(frozen=True)
class Plot:
    """What the plot shows.

    Attributes:
        x: name of an axis, "variant" or "layer"; "" for the first axis or, without axes, "layer".
        layer: that is shown if `x` is not "layer"; "" for the last one measured.
        log: whether the horizontal axis is logarithmic.
    """

    x: str = ""
    layer: str = ""
    log: bool = False


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A sweep file.

    Attributes:
        path: of the file.
        title: of tables and of the plot.
        base: files or presets of the experiment that all cells have in common.
        settings: of the experiment, over those of `base`.
        data, test: labelled data sets, absolute paths; `test` may be "".
        seeds: a cell is run once for each.
        axes, variants, evaluations: tuples.
        plot: Plot.
        paper: name in `published.NAMES`, or "".
    """

    path: str
    title: str
    base: tuple[str, ...]
    settings: dict
    data: str
    test: str
    seeds: tuple[int, ...]
    axes: tuple[Axis, ...]
    variants: tuple[Variant, ...]
    evaluations: tuple[Evaluation, ...]
    plot: Plot
    paper: str

    def variant(self, name: str) -> Variant:
        return next(variant for variant in self.variants if variant.name == name)

    def axes_of(self, variant: Variant) -> list[Axis]:
        """The axes that a variant varies over, in the order of the file."""
        whole = self.axes_of(self.variant(variant.untrained)) if variant.untrained else self.axes
        return [axis for axis in whole if variant.axes is None or axis.name in variant.axes]


@dataclasses.dataclass(frozen=True)
class _Fields:
    """The fields of a file, with their types."""

    title: str = ""
    base: str = ""
    settings: dict = dataclasses.field(default_factory=dict)
    data: str = ""
    test: str = ""
    seeds: tuple[int, ...] = (0,)
    axes: dict = dataclasses.field(default_factory=dict)
    variants: dict = dataclasses.field(default_factory=dict)
    evaluations: dict = dataclasses.field(default_factory=dict)
    plot: dict = dataclasses.field(default_factory=dict)
    paper: str = ""


def read_sweep(config_file, data: str | None = None, test: str | None = None) -> Sweep:
    """Reads and checks a sweep file.

    Args:
        config_file: path of a YAML file, the name of a preset, or a mapping with the same fields.
        data, test: data sets, instead of those in the file.

    Raises:
        ConfigError: unreadable, an unknown field, or a value that cannot work; names the place.
    """
    if isinstance(config_file, Mapping):
        path, values = _MAPPING, dict(config_file)
    else:
        path = shipped.config_file(config_file)
        values = strict_yaml.load(text_files.read(path), path)
    fields = _build(_Fields, values, path)
    sweep = Sweep(
        path=path,
        title=fields.title or os.path.splitext(os.path.basename(path))[0],
        base=(fields.base,) if fields.base else (),
        settings=fields.settings,
        data=_absolute(data or fields.data),
        test=_absolute(test or fields.test),
        seeds=fields.seeds,
        axes=tuple(_axis(*item, path) for item in fields.axes.items()),
        variants=_named(Variant, fields.variants, f"{path}, variants") or (Variant(),),
        evaluations=_named(Evaluation, fields.evaluations, f"{path}, evaluations"),
        plot=_build(Plot, fields.plot, f"{path}, plot"),
        paper=fields.paper,
    )
    _check(sweep)
    return sweep


def _absolute(path):
    expanded = paths.expand(path)
    return expanded if not expanded or "://" in expanded else os.path.abspath(expanded)


def _build(kind, values, place):
    """A dataclass from a mapping of the file; errors name the place."""
    if not isinstance(values, dict | None):
        raise ConfigError(f"{place} is {values!r}; expected a mapping.")
    try:
        return settings_lib.build(
            kind, {str(name): value for name, value in (values or {}).items()}
        )
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from error


def _named(kind, values, place) -> tuple:
    """Dataclasses from {name: fields}, of which the name is one."""
    return tuple(
        dataclasses.replace(_build(kind, fields, f"{place}.{name}"), name=str(name))
        for name, fields in values.items()
    )


_FORMS = "give {setting: a.b, values: [...]}, {fractions: [...]} or {points: {LABEL: {...}}}"


def _axis(name, given, path) -> Axis:
    place = f"{path}, axes.{name}"
    if not isinstance(given, dict):
        raise ConfigError(f"{place} is {given!r}; {_FORMS}.")
    match sorted(given):
        case ["setting", "values"]:
            points = [
                Point(_label(value), {str(given["setting"]): value})
                for value in _list(given["values"], f"{place}.values")
            ]
        case ["fractions"]:
            points = [
                _build(Point, {"label": _label(value), "fraction": value}, f"{place}.fractions")
                for value in _list(given["fractions"], f"{place}.fractions")
            ]
        case ["points"]:
            points = [
                dataclasses.replace(_build(Point, fields, f"{place}.points.{at}"), label=_label(at))
                for at, fields in _items(given["points"], f"{place}.points")
            ]
        case names:
            raise ConfigError(f"{place} has {', '.join(map(str, names)) or 'nothing'}; {_FORMS}.")
    return Axis(str(name), tuple(points))


def _label(value) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _list(value, place) -> list:
    if not isinstance(value, list) or not value:
        raise ConfigError(f"{place} is {value!r}; give a list of at least one value.")
    return value


def _items(value, place):
    if not isinstance(value, dict) or not value:
        raise ConfigError(f"{place} is {value!r}; give at least one {{LABEL: {{settings: ...}}}}.")
    return value.items()


def _check(sweep):
    """Refuses what cannot work whatever the experiment is; raises ConfigError."""
    path = sweep.path
    if not sweep.data:
        raise ConfigError(f"{path}, data is missing; set it, or give --data=DATA.")
    _check_seeds(sweep.seeds, f"{path}, seeds")
    for axis in sweep.axes:
        _check_axis(axis, f"{path}, axes.{axis.name}")
    for variant in sweep.variants:
        _check_variant(variant, sweep, f"{path}, variants.{variant.name}")
    for evaluation in sweep.evaluations:
        _check_evaluation(evaluation, f"{path}, evaluations.{evaluation.name}")
    if sweep.evaluations and not any(variant.evaluate for variant in sweep.variants):
        raise ConfigError(f"{path}, variants: none is evaluated; leave evaluate out of one.")
    _check_plot(sweep, f"{path}, plot")
    if sweep.paper not in ("", *published.NAMES):
        raise ConfigError(
            f"{path}, paper is {sweep.paper!r}; use one of {', '.join(published.NAMES)}."
        )


def _check_seeds(seeds, place):
    if not seeds or len(set(seeds)) < len(seeds):
        raise ConfigError(
            f"{place} is {list(seeds)}; give different whole numbers, such as [0, 1]."
        )


def _check_axis(axis, place):
    if axis.name in (LAYER, VARIANT, "seed"):
        raise ConfigError(f"{place} has the name of a column of the table; use another.")
    labels = [point.label for point in axis.points]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise ConfigError(f"{place} has {', '.join(twice)} twice; give every point another label.")
    for point in axis.points:
        if not 0 < point.fraction <= 1:
            raise ConfigError(
                f"{place}: the fraction {point.fraction:g} cannot be drawn; use (0, 1]."
            )


def _check_variant(variant, sweep, place):
    names = [other.name for other in sweep.variants]
    for field in ("after", "untrained"):
        other = getattr(variant, field)
        if other and (other not in names or other == variant.name):
            others = ", ".join(name for name in names if name != variant.name) or "none here"
            raise ConfigError(f"{place}.{field} is {other!r}; use another variant: {others}.")
    axes = [axis.name for axis in sweep.axes]
    unknown = sorted({*(variant.axes or ())} - {*axes})
    if unknown:
        raise ConfigError(
            f"{place}.axes has {', '.join(unknown)}; the file has {', '.join(axes) or 'no axes'}."
        )
    if variant.untrained:
        _check_untrained(variant, sweep, place)
    elif variant.after:
        _check_order(variant, sweep, place)


def _check_untrained(variant, sweep, place):
    other = sweep.variant(variant.untrained)
    if other.untrained or not other.evaluate:
        raise ConfigError(
            f"{place}.untrained is {other.name!r}, which is not trained and evaluated; name one "
            "that is."
        )
    given = {"settings", "stages", "after"} - {
        field.name
        for field in dataclasses.fields(Variant)
        if getattr(variant, field.name) == getattr(Variant(), field.name)
    }
    if given or not variant.evaluate:
        raise ConfigError(
            f"{place} has {', '.join(sorted(given)) or 'evaluate'} beside untrained; leave it out."
        )


def _check_order(variant, sweep, place):
    """Checks the variants that a variant comes after."""
    seen, other = {variant.name}, sweep.variant(variant.after)
    while True:
        if other.name in seen:
            raise ConfigError(f"{place}.after leads back to itself; let one start without.")
        if other.untrained:
            raise ConfigError(f"{place}.after leads to {other.name!r}, which is not trained.")
        seen.add(other.name)
        if not other.after:
            break
        other = sweep.variant(other.after)
    before = sweep.axes_of(sweep.variant(variant.after))
    more = [axis.name for axis in before if axis not in sweep.axes_of(variant)]
    if more:
        raise ConfigError(
            f"{place}.after is {variant.after!r}, which also varies over {', '.join(more)}; give "
            "it fewer axes, or this one more."
        )


def _check_evaluation(evaluation, place):
    if not evaluation.task and not evaluation.config_file:
        raise ConfigError(f"{place} has no task; set task, or config_file to a file that has one.")
    if not evaluation.layers:
        raise ConfigError(f"{place}.layers is empty; name layers, or leave it out for all.")


def _check_plot(sweep, place):
    known = [*(axis.name for axis in sweep.axes), VARIANT, LAYER]
    if sweep.plot.x not in ("", *known):
        raise ConfigError(f"{place}.x is {sweep.plot.x!r}; use one of {', '.join(known)}.")
