"""One form of the errors about settings: what was given, and what would work."""

from typing import Any

from dc_tf.errors import ConfigError


def need(condition: Any, setting: str, given: Any, works: str) -> None:
    """Refuses a setting unless `condition` holds.

    Args:
        condition: anything with a truth value.
        setting: path of the setting, as in "stages[0].epochs".
        given: its value.
        works: what would work, as in "use at least 1".

    Raises:
        ConfigError: the condition does not hold.
    """
    if not condition:
        raise ConfigError(f"{setting} is {given!r}; {works}.")


def need_choice(setting: str, given: Any, choices: tuple) -> None:
    """Refuses a setting that is not one of `choices`; raises as `need`."""
    *most, last = choices
    need(given in choices, setting, given, f"use {', '.join(most)} or {last}")


def need_at_least(setting: str, given: float, least: float) -> None:
    """Refuses a setting below `least`; raises as `need`."""
    need(given >= least, setting, given, f"use at least {least}")
