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
from dc_tf.sweep.file_checks import check_file

_MAPPING = "the sweep"  # in the place of a file's name


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
        base: file or preset in the place of the sweep's; "" for that one.
        settings: of the experiment, which it changes.
        fraction: share of the rows, times those of the points.
        stages: names of the stages that are run; () for all.
        after: name of the variant whose networks training starts from; "" for random weights.
        untrained: name of the variant whose untrained networks are measured, without training.
        axes: names of the axes that it varies over; None for all. An untrained variant is at the
            first point of the others; a trained one does without them.
        evaluate: whether its networks are measured.
    """

    name: str = ""
    base: str = ""
    settings: dict = dataclasses.field(default_factory=dict)
    fraction: float = 1.0
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
        train, test: data; "" for those of the sweep.
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
        base: file or preset of the experiment that all cells have in common; "" for none.
        settings: of the experiment, over those of `base`.
        data: data set that networks learn from; an absolute path, as the next two.
        train, test: of evaluations; "" for `data` and for none.
        seeds: a cell is run once for each.
        axes, variants, evaluations: tuples.
        plot: Plot.
        paper: name in `published.NAMES`, or "".
    """

    path: str
    title: str
    base: str
    settings: dict
    data: str
    train: str
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
    train: str = ""
    test: str = ""
    seeds: tuple[int, ...] = (0,)
    axes: dict = dataclasses.field(default_factory=dict)
    variants: dict = dataclasses.field(default_factory=dict)
    evaluations: dict = dataclasses.field(default_factory=dict)
    plot: dict = dataclasses.field(default_factory=dict)
    paper: str = ""


def read_sweep(config_file, data=None, train=None, test=None) -> Sweep:
    """Reads and checks a sweep file.

    Args:
        config_file: path of a YAML file, the name of a preset, or a mapping with the same fields.
        data, train, test: paths, instead of those in the file.

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
        base=fields.base,
        settings=fields.settings,
        data=_absolute(data or fields.data),
        train=_absolute(train or fields.train),
        test=_absolute(test or fields.test),
        seeds=fields.seeds,
        axes=tuple(_axis(*item, path) for item in fields.axes.items()),
        variants=_named(Variant, fields.variants, f"{path}, variants") or (Variant(),),
        evaluations=_named(Evaluation, fields.evaluations, f"{path}, evaluations"),
        plot=_build(Plot, fields.plot, f"{path}, plot"),
        paper=fields.paper,
    )
    check_file(sweep)
    return sweep


def _absolute(path):
    expanded = paths.expand(path)
    return expanded if not expanded or "://" in expanded else os.path.abspath(expanded)


def _build(kind, values, place, given=()):
    """A dataclass from a mapping of the file; errors name the place.

    Args:
        kind: dataclass.
        values: {field: value}, or None for none.
        place: in the file.
        given: fields that are not the mapping's to set.
    """
    if not isinstance(values, dict | None):
        raise ConfigError(f"{place} is {values!r}; expected a mapping.")
    for name in {*given} & {*(values or {})}:
        raise ConfigError(f"{place}.{name} cannot be set: it is the name of this entry.")
    try:
        return settings_lib.build(
            kind, {str(name): value for name, value in (values or {}).items()}
        )
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from error


def _named(kind, values, place) -> tuple:
    """Dataclasses from {name: fields}, of which the name is one."""
    return tuple(
        dataclasses.replace(_build(kind, fields, f"{place}.{name}", ["name"]), name=str(name))
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
                dataclasses.replace(_build(Point, fields, at, ["label"]), label=_label(label))
                for label, fields, at in _items(given["points"], f"{place}.points")
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
    return [(label, fields, f"{place}.{label}") for label, fields in value.items()]
