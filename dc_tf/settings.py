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

import yaml

from dc_tf import shipped
from dc_tf.errors import ConfigError
from dc_tf.hyperparams import Config

T = typing.TypeVar("T")


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
        kind: dataclass whose fields all have defaults; a field with the default None has the
            annotation "type | None".
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
    return kind(**values)


def _default(field, kind):
    """The default of a dataclass's field; an empty value of its type if that is None or ()."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    if field.default is None:
        return typing.get_args(kind)[0]()
    return field.default if field.default != () else (typing.get_args(kind)[0](),)


def _coerce(value, like, place):
    """`value` in the type of the default `like`; YAML reads 1e-5 as text."""
    try:
        if isinstance(like, dict):
            return dict(_mapping(value, place))
        if isinstance(like, bool):
            if not isinstance(value, bool):
                raise TypeError
            return value
        if isinstance(like, int):
            if isinstance(value, bool) or float(value) != int(float(value)):
                raise TypeError
            return int(float(value))
        if isinstance(like, tuple):
            if not isinstance(value, (list, tuple)):
                raise TypeError
            kind = type(like[0]) if like else int
            return tuple(kind(v) for v in value)
        if isinstance(like, str):
            if not isinstance(value, (str, int, float, type(None))):
                raise TypeError
            return "" if value is None else str(value)
        if not math.isfinite(float(value)):
            raise ValueError
        return float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigError(
            f"{place} is {value!r}; expected {type(like).__name__} such as {like!r}."
        ) from error


def _read_yaml(path: str) -> dict:
    try:
        return _mapping(yaml.safe_load(_read_text(path)), path)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path!r} is not YAML: {error}") from error


def _read_text(path: str) -> str:
    try:
        if "://" in path:
            return _read_remote(path)
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"cannot read the configuration {path!r}: {reason}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"cannot read the configuration {path!r}: {error}") from error


def _read_remote(path: str) -> str:
    import tensorflow as tf  # only for buckets, since it takes seconds to import

    try:
        with tf.io.gfile.GFile(path) as file:
            return file.read()
    except tf.errors.OpError as error:
        raise OSError(error.message) from error


def _read_override(text) -> dict:
    if isinstance(text, collections.abc.Mapping):
        return _read_mapping(text)
    if text.endswith((".yaml", ".yml", ".json")) and "=" not in text:
        return _read_yaml(text)
    try:
        if "=" not in text or text.lstrip().startswith("{"):
            return _mapping(yaml.safe_load(text), text)
        # A comma separates settings only where a name and '=' follow it.
        parts = re.split(r",\s*(?=[A-Za-z_][\w.\[\]]*\s*=)", text)
        assignments = (part.split("=", 1) for part in parts)
        return _nested((name.strip(), yaml.safe_load(value)) for name, value in assignments)
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(
            f"--params_override {text!r} is not understood ({error}); write "
            "data.path=DIR,stages[0].epochs=3 or a YAML mapping."
        ) from error


def _read_mapping(settings) -> dict:
    try:
        return _nested((str(name), _plain(value)) for name, value in settings.items())
    except ValueError as error:
        raise ConfigError(f"params_override {dict(settings)!r}: {error}.") from error


def _plain(value):
    """The value in YAML's types: Python has more kinds of mappings, sequences and paths."""
    if isinstance(value, collections.abc.Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _nested(assignments) -> dict:
    """[("a.b", 1), ("a.c", "x")] to {"a": {"b": 1, "c": "x"}}."""
    settings: dict = {}
    for name, value in assignments:
        *parents, leaf = name.split(".")
        place = settings
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise ValueError(f"{parent} is both a value and a mapping")
        place[leaf] = value
    return settings


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
