"""What the functions of the Python API share: paths, messages that name arguments, short forms.

@takes_arguments(workdir="run")
def export(run: Path, output: Path) -> dict: ...
"""

from __future__ import annotations

import functools
import inspect
import os
import re
from collections.abc import Callable, Mapping

from dc_tf import paths
from dc_tf.distributed import stop_request
from dc_tf.errors import ConfigError, DataError

Path = str | os.PathLike

_COMMAND = r"`[^`]*`|'dc_tf [^']*'"  # what a message says to type in a shell
_FLAG = re.compile(rf"{_COMMAND}|--(\w+)(=?)")


def takes_arguments(**names) -> Callable:
    """Decorates a function of the API, of a command of `dc_tf`.

    A request to stop that ended an earlier call does not end this one, and errors name arguments.

    Args:
        names: {flag: argument} of those that differ.
    """

    def decorate(function):
        arguments = inspect.signature(function).parameters
        switches = {name for name, own in arguments.items() if own.annotation == "bool"}
        places = {n for n, own in arguments.items() if re.search(r"\bPath\b", str(own.annotation))}
        known = {name: name for name in arguments} | names

        def rename(match):
            name = known.get(match[1])
            if name is None:  # a command, or a flag of another one
                return match[0]
            return f"{name}=True" if name in switches and not match[2] else f"{name}{match[2]}"

        @functools.wraps(function)
        def call(*args, **kwargs):
            stop_request.reset()
            try:
                bound = inspect.signature(function).bind(*args, **kwargs)
                given = bound.arguments
                given |= {name: _expanded(given[name]) for name in places & given.keys()}
                return function(*bound.args, **bound.kwargs)
            except (ConfigError, DataError) as error:
                error.args = (_FLAG.sub(rename, str(error)),)
                raise

        return call

    return decorate


def _expanded(value):
    """A path, or several, with `~` expanded; other values as they are."""
    if isinstance(value, str | os.PathLike):
        return paths.expand(value)
    if isinstance(value, list | tuple):
        return [_expanded(item) for item in value]
    return value


def several(given) -> list:
    """One path, text or mapping as a list of one; several as they are."""
    return [given] if isinstance(given, str | os.PathLike | Mapping) else list(given)


def path_or_none(given) -> str | None:
    return None if given is None else os.fspath(given)


def paths_or_none(given) -> str | list[str] | None:
    """One path as str, several as a list of str."""
    return list(map(os.fspath, given)) if isinstance(given, list | tuple) else path_or_none(given)


def queries_of(given) -> list:
    """One file or row id, or several, as a list of str."""
    one = isinstance(given, str | int | os.PathLike) or not hasattr(given, "__iter__")
    return [
        os.fspath(x) if isinstance(x, os.PathLike) else str(x) for x in ([given] if one else given)
    ]


def names_of(layer) -> list[str]:
    return layer.split(",") if isinstance(layer, str) else list(layer)
