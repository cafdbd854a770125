"""Geometry of the charts of a report; the template `chart.html` draws them as inline SVG.

    chart = line_chart("Loss", [Series("loss", steps, losses)], x_label="step")
    chart.lines[0].path                      # "M44.0,160.2L45.1,158.0..."

Colours are classes of the style sheet, so a chart follows light and dark. A chart is drawn 360 wide
and is shown about that wide, on a phone as on a desk.
"""

import dataclasses
import math

import numpy as np

WIDTH, HEIGHT = 360, 200
LEFT, RIGHT, TOP, BOTTOM = 44, 350, 16, 172
_POINTS = 160  # of a line; more are averaged in equal parts
_TICKS = 4
_MARKERS = 16  # points of a line up to which each is marked


@dataclasses.dataclass(frozen=True)
class Series:
    """Values to draw.

    Attributes:
        name: for the legend.
        x, y: (n,) floats; those that are not finite are left out.
        dashed: whether the line is drawn so.
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    dashed: bool = False


@dataclasses.dataclass(frozen=True)
class Line:
    """A series, drawn.

    Attributes:
        name: for the legend.
        number: of its colour.
        dashed: see Series.
        path: SVG path.
        points: list of [x, y, text of x, text of y], in pixels of the drawing.
        marked: whether each point is marked.
    """

    name: str
    number: int
    dashed: bool
    path: str
    points: list
    marked: bool


@dataclasses.dataclass(frozen=True)
class Bar:
    """A bar, drawn: place and size in pixels of the drawing, and what it says."""

    x: float
    y: float
    width: float
    height: float
    text: str


@dataclasses.dataclass(frozen=True)
class Chart:
    """What a template draws.

    Attributes:
        title: heading.
        summary: the chart in a sentence, for people who do not see it.
        lines: list of Line.
        bars: list of Bar.
        x_ticks, y_ticks: lists of (pixels, text).
        marks: list of (pixels, text), vertical lines.
        x_label: below the axis.
        unit: of the values, in the heading.
    """

    title: str
    summary: str
    lines: list
    bars: list
    x_ticks: list
    y_ticks: list
    marks: list
    x_label: str
    unit: str = ""


def line_chart(
    title, series, x_label, unit="", marks=(), log=False, zero=False, names=None
) -> Chart | None:
    """A chart of some series over one axis.

    Args:
        title, x_label, unit: texts.
        series: list of Series.
        marks: list of (x, text), vertical lines.
        log: logarithmic values; the others are left out.
        zero: let the axis of values begin at 0.
        names: texts of x = 0, 1, ... in place of numbers.

    Returns:
        None if there is nothing to draw.
    """
    series = [_cleaned(one, log) for one in series]
    series = [one for one in series if len(one.x)]
    if not series:
        return None
    xs, ys = (np.concatenate([getattr(s, a) for s in series]) for a in "xy")
    x_axis = _Axis(float(xs.min()), float(xs.max()), LEFT, RIGHT)
    bounds = min(0.0, float(ys.min())) if zero else float(ys.min()), float(ys.max())
    y_axis = _Axis(*bounds, BOTTOM, TOP, log=log, rounded=True)
    marked = max(len(one.x) for one in series) <= _MARKERS
    lines = [_line(number, one, x_axis, y_axis, names, marked) for number, one in enumerate(series)]
    return Chart(
        title=title,
        summary=_summary(title, series, x_label, unit, names),
        lines=lines,
        bars=[],
        x_ticks=_named_ticks(x_axis, names) if names else x_axis.ticks(),
        y_ticks=y_axis.ticks(),
        marks=[(x_axis.place(x), text) for x, text in marks if x_axis.holds(x)],
        x_label=x_label,
        unit=unit,
    )


def bar_chart(title, names, values, x_label, unit="") -> Chart | None:
    """A chart of one bar for each name; values are at least 0. None without a value."""
    if not len(values) or max(values) <= 0:
        return None
    axis = _Axis(0.0, float(max(values)), BOTTOM, TOP, rounded=True)
    step = (RIGHT - LEFT) / len(values)
    bars = [
        Bar(
            round(LEFT + step * place + min(2, step / 8), 1),
            round(axis.place(value), 1),
            round(max(step - 2 * min(2, step / 8), 1), 1),
            round(BOTTOM - axis.place(value), 1),
            f"{name}: {short_number(value)} {unit}".strip(),
        )
        for place, (name, value) in enumerate(zip(names, values, strict=True))
    ]
    every = -(-len(names) // 6)
    ticks = [(LEFT + step * (place + 0.5), name) for place, name in enumerate(names)][::every]
    top = int(np.argmax(values))
    return Chart(
        title=title,
        summary=f"{title}: {len(values)} bars; the largest is {names[top]}, "
        f"{short_number(values[top])}.",
        lines=[],
        bars=bars,
        x_ticks=ticks,
        y_ticks=axis.ticks(),
        marks=[],
        x_label=x_label,
        unit=unit,
    )


def short_number(value) -> str:
    """A number in a few digits: "1,234", "0.037", "2.1M"."""
    value = float(value)
    size = abs(value)
    if size >= 1e6:
        for limit, letter in ((1e9, "G"), (1e6, "M")):
            if size >= limit:
                return f"{value / limit:.3g}{letter}"
    if size >= 1000:
        return f"{value:,.0f}"
    if size and size < 1e-3:
        return f"{value:.1e}".replace("e-0", "e-")
    return f"{value:.3g}"


class _Axis:
    """Maps values to pixels.

    Args:
        low, high: of the values.
        start, end: pixels of these.
        log: whether it is logarithmic.
        rounded: widen the range to whole ticks.
    """

    def __init__(self, low, high, start, end, log=False, rounded=False):
        self._log = log
        if log:
            low, high = math.log10(low), math.log10(high)
        if high - low < 1e-12 * max(1.0, abs(high)):
            low, high = (low - 0.5, high + 0.5) if log or not low else sorted((0.0, 2 * low))
        self._step = _round_step((high - low) / _TICKS)
        if log:
            self._step = max(1.0, round(self._step))
        if rounded:
            low = self._step * math.floor(low / self._step + 1e-9)
            high = self._step * math.ceil(high / self._step - 1e-9)
        self._low, self._high, self._start, self._end = low, high, start, end

    def place(self, value) -> float:
        value = math.log10(value) if self._log else value
        share = (value - self._low) / (self._high - self._low)
        return self._start + share * (self._end - self._start)

    def holds(self, value) -> bool:
        return self._low <= value <= self._high

    def ticks(self):
        """List of (pixels, text)."""
        first = math.ceil(self._low / self._step - 1e-9)
        last = math.floor(self._high / self._step + 1e-9)
        values = [number * self._step for number in range(first, last + 1)]
        values = [10**value for value in values] if self._log else values
        return [(round(self.place(value), 1), short_number(value)) for value in values]


def _round_step(step):
    """The step of 1, 2, 2.5 or 5 times a power of ten that is next above."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= step * 0.999)


def _cleaned(series, log):
    """A series of finite values, and of no more points than can be seen."""
    x, y = np.asarray(series.x, np.float64), np.asarray(series.y, np.float64)
    good = np.isfinite(x) & np.isfinite(y) & ((y > 0) if log else True)
    x, y = x[good], y[good]
    if len(x) > _POINTS:
        parts = np.array_split(np.arange(len(x)), _POINTS)
        x, y = (np.array([values[part].mean() for part in parts]) for values in (x, y))
    return dataclasses.replace(series, x=x, y=y)


def _line(number, series, x_axis, y_axis, names, marked):
    points = [
        [round(x_axis.place(x), 1), round(y_axis.place(y), 1), _x_text(x, names), short_number(y)]
        for x, y in zip(series.x.tolist(), series.y.tolist(), strict=True)
    ]
    path = "M" + "L".join(f"{x},{y}" for x, y, _, _ in points)
    return Line(series.name, number, series.dashed, path, points, marked)


def _x_text(x, names):
    if names is not None:
        return names[int(x)]
    return short_number(round(x)) if x >= 100 else short_number(x)


def _named_ticks(axis, names):
    every = -(-len(names) // 6)
    return [(axis.place(place), name) for place, name in enumerate(names)][::every]


def _summary(title, series, x_label, unit, names):
    parts = [
        f"{one.name} from {short_number(one.y[0])} at {x_label} {_x_text(one.x[0], names)} to "
        f"{short_number(one.y[-1])} at {_x_text(one.x[-1], names)}"
        for one in series
    ]
    return f"{title}{f' in {unit}' if unit else ''}: {'; '.join(parts)}."
