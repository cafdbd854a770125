"""Checks a sweep file by itself: names that refer to others, values that cannot work.

check_file(sweep)           # raises ConfigError with the place
"""

import re

from dc_tf.errors import ConfigError
from dc_tf.sweep import published

LAYER, VARIANT = "layer", "variant"  # what a plot may have on its horizontal axis beside an axis
_EXAMPLE = "{knn: {task: knn, layers: [conv13]}}"


def check_file(sweep) -> None:
    """Refuses what cannot work whatever the experiment is; raises ConfigError with the place."""
    path = sweep.path
    if not sweep.data:
        raise ConfigError(f"{path}, data is missing; set it, or give --data=DATA.")
    _check_seeds(sweep.seeds, f"{path}, seeds")
    for axis in sweep.axes:
        _check_axis(axis, f"{path}, axes.{axis.name}")
    for check in (_check_names, _check_variant):
        for variant in sweep.variants:
            check(variant, sweep, f"{path}, variants.{variant.name}")
    if not any(variant.evaluate for variant in sweep.variants):
        raise ConfigError(f"{path}, variants: none is evaluated; leave evaluate out of one.")
    if not sweep.evaluations:
        raise ConfigError(f"{path}, evaluations is missing; give at least one, as in {_EXAMPLE}.")
    for evaluation in sweep.evaluations:
        _check_evaluation(evaluation, f"{path}, evaluations.{evaluation.name}")
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
        _check_fraction(point.fraction, place)


def _check_fraction(fraction, place):
    if not 0 < fraction <= 1:
        raise ConfigError(f"{place}: the fraction {fraction:g} cannot be drawn; use (0, 1].")


def _check_names(variant, sweep, place):
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


def _check_variant(variant, sweep, place):
    _check_fraction(variant.fraction, place)
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
    own = ("base", "settings", "stages", "after")
    given = [name for name in own if getattr(variant, name)]
    given += [] if variant.evaluate else ["evaluate"]
    if given:
        raise ConfigError(f"{place} has {', '.join(given)} beside untrained; leave it out.")


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
    if not re.fullmatch(r"[\w.-]+", evaluation.name):
        raise ConfigError(f"{place} is the name of a file; use letters, digits, _, - and dots.")
    if not evaluation.task and not evaluation.config_file:
        raise ConfigError(f"{place} has no task; set task, or config_file to a file that has one.")
    if not evaluation.layers:
        raise ConfigError(f"{place}.layers is empty; name layers, or leave it out for all.")


def _check_plot(sweep, place):
    known = [*(axis.name for axis in sweep.axes), VARIANT, LAYER]
    if sweep.plot.x not in ("", *known):
        raise ConfigError(f"{place}.x is {sweep.plot.x!r}; use one of {', '.join(known)}.")
