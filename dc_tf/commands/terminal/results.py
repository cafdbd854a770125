"""Prints the result of a command: one line of JSON for programs, a short table for people.

    show({"rows": 4000, "classes": 12})
    show(Result(found, shown=True, path="RUN/result.json"))   # its text is printed already

A pipe or a file gets JSON, as the last line on stdout. A terminal gets the table, and the place of
the whole result.
"""

import json
import math
import os
import sys
from typing import Any

_WIDTH = 100  # characters of a line
_LINES = 30


class Result(dict):
    """A result and how to show it on a terminal.

    Attributes:
        shown: whether the command has printed a text for people.
        path: file with the same JSON, or None.
        flag: of the command, which names such a file; None if it has none.
    """

    def __init__(self, values, shown=False, path=None, flag=None):
        super().__init__(values)
        self.shown = shown
        self.path = path
        self.flag = flag


def show(result) -> None:
    """Prints a result, a dict; nothing for None, the result of workers other than the chief."""
    if result is None:
        return
    if not sys.stdout.isatty():
        print(json.dumps(plain(result)), flush=True)
        return
    if not getattr(result, "shown", False):
        print(table(result))
    print(_where(result), flush=True)


def _where(result):
    """A sentence that says where the whole result is."""
    if path := getattr(result, "path", None):
        return f"whole result: {path}"
    flag = getattr(result, "flag", None)
    return f"whole result, as JSON: add {f'{flag}=FILE, or ' if flag else ''}| cat"


def table(result) -> str:
    """One line per entry; long ones are shortened."""
    rows = [(str(name), _text(value)) for name, value in plain(result).items()]
    width = max((len(name) for name, _ in rows), default=0) + 2
    lines = [_cut(f"{name:{width}}{value}") for name, value in rows[:_LINES]]
    if len(rows) > _LINES:
        lines.append(f"... and {len(rows) - _LINES} more")
    return "\n".join(lines)


def plain(value) -> Any:
    """The value in JSON's types: NumPy scalars become numbers; NaN, which JSON lacks, null."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, os.PathLike) else value


def _text(value):
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(item)}" for name, item in value.items()) or "-"
    if isinstance(value, list):
        return ", ".join(map(_text, value)) or "-"
    return value


def _cut(line):
    first = line.replace("\n", " ")
    return first if len(first) <= _WIDTH else first[: _WIDTH - 4] + " ..."
