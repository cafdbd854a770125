"""Reads settings from YAML files and command-line overrides into configuration objects.

settings = read(["a.yaml"], ["stages[0].epochs=3"])   # one nested dict
config = fill(Experiment(), settings)                 # names and types checked
protocol = build(knn.Protocol, {"cells": 1})          # the same for a dataclass
"""

import collections.abc
import dataclasses
import math
import os
import re
import typing

from dc_tf import paths, shipped, strict_yaml, text_files
from dc_tf.errors import ConfigError
from dc_tf.hyperparams import Config
from dc_tf.limits import FLOAT_LIMIT, INT_LIMIT

T = typing.TypeVar("T")
# Settings, of training and of evaluations, that are paths: `~` is expanded in them.
PATHS = ("path", "init_from", "workdir", "scratch")
# Settings of evaluations that may be negative.
_SIGNED = ("init_bias",)
# The index of stages[00] is that of stages[0].
_INDEX = re.compile(r"\[0*(\d+)\]")


def read(config_files=(), params_override=()) -> dict:
    """The files merged in order, then the overrides.

    Args:
        config_files: paths of YAML files, or names of presets (`shipped.config_file`).
        params_override: "a.b=c,d=e" strings, YAML/JSON mappings as text, paths of YAML files, or
            dicts, whose names may be dotted: {"a.b": c}.

    Raises:
        ConfigError: unreadable or not a mapping.
    """
    settings: dict = {}
    for path in config_files:
        _merge(settings, _read_yaml(shipped.config_file(path)))
    for override in params_override:
        _merge(settings, _read_override(override))
    return settings


def fill(config, settings: dict, where: str = "") -> Config:
    """`config`, updated from `settings`; unknown names and wrong types are refused."""
    known = config.as_dict()
    for name, value in settings.items():
        place = f"{where}.{name}" if where else name
        if name not in known:
            raise ConfigError(f"unknown setting {place!r}; known here: {', '.join(sorted(known))}.")
        current = getattr(config, name)
        if type(current) is Config:  # the function that takes it checks its content
            current.override(_mapping(value, place), is_strict=False)
        elif isinstance(current, Config):
            if not isinstance(value, dict):
                raise ConfigError(f"{place} is {value!r}; expected a mapping.")
            fill(current, value, place)
        else:
            setattr(config, name, _coerce(value, current, place))
    return config


def build(kind: type[T], settings: dict) -> T:
    """A dataclass from settings; unknown names and wrong types are refused.

    Args:
        kind: dataclass whose fields all have defaults, and whose numbers are not negative; a field
            with the default None has the annotation "type | None".
        settings: {name: value}.
    """
    types = typing.get_type_hints(kind)
    known = {field.name: field for field in dataclasses.fields(kind)}
    values = {}
    for name, value in settings.items():
        if name not in known:
            raise ConfigError(f"unknown setting {name!r}; known here: {', '.join(sorted(known))}.")
        like = _default(known[name], types[name])
        optional = type(None) in typing.get_args(types[name])
        values[name] = None if optional and value is None else _coerce(value, like, name)
    built = kind(**values)
    for name, value in values.items():
        if name not in _SIGNED:
            _check_not_negative(name, value)
    return built


def _check_not_negative(name, value):
    numbers = value if isinstance(value, tuple) else (value,)
    if any(isinstance(number, (int, float)) and number < 0 for number in numbers):
        raise ConfigError(f"{name} is {value!r}; use 0 or more.")


def _default(field, kind):
    """The default of a dataclass's field; an empty value of its type if that is None or ()."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    if field.default not in (None, ()):
        return field.default
    kind = kind if field.default == () else typing.get_args(kind)[0]
    return (typing.get_args(kind)[0](),) if typing.get_origin(kind) is tuple else kind()


def _coerce(value, like, place):
    """`value` in the type of the default `like`.

    Raises:
        ConfigError: another type, or a number that the type cannot hold.
    """
    if isinstance(like, dict):
        return dict(_mapping(value, place))
    if isinstance(like, tuple):
        if not isinstance(value, (list, tuple)):
            raise _wrong_type(value, like, place)
        kind = like[0] if like else 0
        return tuple(_coerce(item, kind, f"{place}[{i}]") for i, item in enumerate(value))
    if isinstance(like, str):
        return _text(value, like, place)
    if isinstance(value, bool) or isinstance(like, bool):
        if not (isinstance(value, bool) and isinstance(like, bool)):
            raise _wrong_type(value, like, place)
        return value
    number = _number(value, like, place)
    return _whole(number, value, like, place) if isinstance(like, int) else _finite(number, place)


def _text(value, like, place) -> str:
    # YAML reads off and no as booleans, and numbers without their zeros: 007, 1.10.
    for kind, name in ((bool, "boolean"), ((int, float), "number")):
        if isinstance(value, kind):
            raise ConfigError(f"{place} is the {name} {value!r}; expected str: write it in quotes.")
    if not isinstance(value, (str, type(None))):
        raise _wrong_type(value, like, place)
    if value and place.rpartition(".")[2] in PATHS:
        return paths.expand(value)
    return "" if value is None else value


def _number(value, like, place) -> int | float:
    """The number; YAML reads 1e-5 as text."""
    if isinstance(value, (int, float)):
        return value
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise _wrong_type(value, like, place) from error


def _whole(number, value, like, place) -> int:
    if isinstance(number, float) and not number.is_integer():  # inf and nan are not
        raise _wrong_type(value, like, place)
    least = 0 if place.rpartition(".")[2] == "seed" else -INT_LIMIT - 1
    if not least <= number <= INT_LIMIT:
        raise ConfigError(f"{place} is {value!r}; use a whole number from {least} to {INT_LIMIT}.")
    return int(number)


def _finite(number, place) -> float:
    try:
        number = float(number)
    except OverflowError:  # an integer of more than 308 digits
        number = math.inf
    if not abs(number) <= FLOAT_LIMIT:
        raise ConfigError(f"{place} is {number!r}; expected float: use at most {FLOAT_LIMIT:.2g}.")
    return number


def _wrong_type(value, like, place):
    return ConfigError(f"{place} is {value!r}; expected {type(like).__name__} such as {like!r}.")


def _read_yaml(path: str) -> dict:
    text = _read_remote(path) if "://" in path else text_files.read(path)
    return _mapping(strict_yaml.load(text, path), path)


def _read_remote(path: str) -> str:
    import tensorflow as tf  # only for buckets, since it takes seconds to import

    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            return text_files.decode(file.read(), path)
    except tf.errors.OpError as error:
        raise ConfigError(
            f"cannot read {path}: {error.message}; give the address of a file that this process "
            "may read."
        ) from error


def _read_override(text) -> dict:
    if isinstance(text, collections.abc.Mapping):
        return _read_mapping(text)
    if text.endswith((".yaml", ".yml", ".json")) and "=" not in text:
        return _read_yaml(paths.expand(text))
    try:
        if "=" not in text or text.lstrip().startswith("{"):
            return _nested(_mapping(strict_yaml.load(text, "it"), text).items())
        # A comma separates settings only where a name and '=' follow it.
        parts = re.split(r",\s*(?=[A-Za-z_][\w.\[\]]*\s*=)", text)
        assignments = (part.split("=", 1) for part in parts)
        return _nested((name.strip(), strict_yaml.load(v, name.strip())) for name, v in assignments)
    except (ConfigError, ValueError) as error:
        raise ConfigError(
            f"--params_override {text!r} is not understood ({str(error).rstrip('.')}); write "
            "data.path=DIR,stages[0].epochs=3 or a YAML mapping."
        ) from error


def _read_mapping(settings) -> dict:
    try:
        return _nested((str(name), _plain(value)) for name, value in settings.items())
    except ValueError as error:
        raise ConfigError(
            f"params_override {dict(settings)!r}: {error}; set each name once."
        ) from error


def _plain(value):
    """The value in YAML's types: Python has more kinds of mappings, sequences and paths."""
    if isinstance(value, collections.abc.Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _nested(assignments) -> dict:
    """[("a.b", 1), ("a.c", "x")] to {"a": {"b": 1, "c": "x"}}.

    Raises:
        ValueError: a setting is given twice.
    """
    settings: dict = {}
    for name, value in assignments:
        name = _INDEX.sub(r"[\1]", str(name))
        _insert(settings, name, value, name)
    return settings


def _insert(place: dict, name: str, value, full_name: str):
    """Puts a value into nested mappings at a dotted name; mappings are joined."""
    first, _, rest = name.partition(".")
    if rest:
        value = {rest: value}
    if isinstance(value, dict):
        below = place.setdefault(first, {})
        if not isinstance(below, dict):
            raise ValueError(f"{first} is both a value and a mapping")
        for key, item in value.items():
            _insert(below, str(key), item, full_name if rest else f"{full_name}.{key}")
    elif first in place:
        raise ValueError(f"{full_name} is given twice, as {place[first]!r} and as {value!r}")
    else:
        place[first] = value


def _mapping(value, source) -> dict:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{source!r} holds {type(value).__name__}; expected a mapping.")
    return value


def _merge(target: dict, source: dict):
    """Merges `source` into `target`; names such as stages[0] reach into the elements of a list."""
    for name, value in source.items():
        base, _, index = str(name).partition("[")
        if index:
            element = _element(target.get(base), index, name)
            _merge(element, _mapping(value, name))
        elif isinstance(value, dict) and isinstance(target.get(name), dict):
            _merge(target[name], value)
        else:
            target[name] = value


def _element(elements, index: str, name: str) -> dict:
    position = index.rstrip("]")
    if not position.isdigit() or not isinstance(elements, list) or int(position) >= len(elements):
        count = len(elements) if isinstance(elements, list) else 0
        raise ConfigError(f"{name!r} does not exist; the configuration has {count}.")
    return elements[int(position)]
