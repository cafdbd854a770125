"""Modules that are parsed rather than imported."""

import ast
import pathlib

from generator.markdown import yaml_value

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


def parsed(module: str) -> ast.Module:
    return ast.parse(_path(module).read_text(encoding="utf-8"))


def _path(module):
    base = ROOT.joinpath(*module.split("."))
    return base.with_suffix(".py") if base.with_suffix(".py").is_file() else base / "__init__.py"


def module_value(tree, name) -> object:
    """Value of a literal constant of a module; None if there is none."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == name:
            try:
                return ast.literal_eval(node.value)
            except ValueError:
                return None
    return None


def default_code(node, module) -> str:
    """Source of a default, with names of constants replaced by their values."""
    if node is None:
        return ""
    if isinstance(node, ast.Call):  # dataclasses.field(default_factory=lambda: ...)
        factory = node.keywords[0].value
        node = factory.body if isinstance(factory, ast.Lambda) else factory
        if isinstance(node, ast.Call):  # dict(NAME)
            node = node.args[0]
    if isinstance(node, ast.Name | ast.Attribute):
        value = _constant(ast.unparse(node), module)
        return ast.unparse(node) if value is None else yaml_value(value)
    try:
        return yaml_value(ast.literal_eval(node))
    except ValueError:
        return ast.unparse(node)


def _constant(name, module):
    """Value of `NAME` or `module.NAME` in a module, followed through its imports."""
    tree = parsed(module)
    first, _, rest = name.partition(".")
    value = None if rest else module_value(tree, first)
    if value is not None:
        return value
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == first:
                    if rest:
                        return _constant(rest, f"{node.module}.{alias.name}")
                    return _constant(alias.name, node.module)
    return None
