"""The one loader of YAML: safe, and strict about names that are given twice.

    strict_yaml.load("a: 1\\nb: {c: 2}", "a.yaml")     # {"a": 1, "b": {"c": 2}}

PyYAML silently keeps the last of two equal names, so a section that is repeated at the end of
a file would replace the first one with defaults.
"""

from collections.abc import Hashable
from typing import Any

import yaml

from dc_tf.errors import ConfigError

_MERGE = "tag:yaml.org,2002:merge"


def load(text: str, source: str) -> Any:
    """The value of a YAML document.

    Args:
        text: of the document; an empty one gives None.
        source: names the document in messages, such as the path of its file.

    Raises:
        ConfigError: not YAML, more than one document, or a name given twice in one mapping.
    """
    try:
        return yaml.load(text, Loader=_StrictLoader)
    except yaml.YAMLError as error:
        raise ConfigError(
            f"{source} is not valid YAML: {_reason(error)}; correct it there, or put quotes around "
            "a text with special characters."
        ) from error
    except _GivenTwice as error:
        raise ConfigError(f"{source}: {error}") from error
    except (ValueError, RecursionError, OverflowError) as error:
        # Dates and numbers out of range, such as 2024-13-45; nesting without end.
        raise ConfigError(
            f"{source} is not valid YAML: {error}; put quotes around what is a text."
        ) from error


class _GivenTwice(Exception):
    """A name stands twice in one mapping."""


class _StrictLoader(yaml.SafeLoader):
    """`yaml.SafeLoader` that refuses equal names in one mapping."""

    def construct_mapping(self, node, deep=False):
        if isinstance(node, yaml.MappingNode):
            self._check_names(node)
        return super().construct_mapping(node, deep)

    def _check_names(self, node):
        """Of the mapping as it is written: names that `<<` merges in may be given again."""
        lines = {}
        for key_node, _ in node.value:
            if key_node.tag == _MERGE:
                continue
            name, line = self.construct_object(key_node, deep=True), key_node.start_mark.line + 1
            if not isinstance(name, Hashable):
                continue  # which PyYAML refuses
            if name in lines:
                raise _GivenTwice(_twice(name, lines[name], line))
            lines[name] = line


def _twice(key, first, second):
    where = f"in line {first}" if first == second else f"in lines {first} and {second}"
    return f"{key!r} is given twice, {where}; merge the two or remove one."


def _reason(error):
    """What PyYAML says, in one line."""
    mark = getattr(error, "problem_mark", None)
    text = " ".join(str(getattr(error, "problem", None) or error).split())
    return f"line {mark.line + 1}, column {mark.column + 1}: {text}" if mark else text
