"""The functions of the Python API."""

import ast

from dc_tf.kmeans_options import COMMAND_OPTIONS
from generator.docstrings import docstring_markdown
from generator.source import module_value, parsed

API_PARTS = ("data", "training", "features", "classification", "collection", "clusters")


def api() -> str:
    """The functions of the Python API with their docstrings."""
    parts = []
    for name, node in api_functions().items():
        parts += [f"## {name}", f"```python\n{_signature(node)}\n```"]
        parts.append(docstring_markdown(ast.get_docstring(node)))
    return "\n\n".join(parts)


def api_functions() -> dict[str, ast.FunctionDef]:
    """Public functions of `dc_tf.api`, in the order of its `__all__`."""
    parts = [parsed(f"dc_tf.api.{part}") for part in API_PARTS]
    nodes = [node for part in parts for node in part.body if isinstance(node, ast.FunctionDef)]
    functions = {node.name: _with_values(node) for node in nodes}
    return {name: functions[name] for name in module_value(parsed("dc_tf.api"), "__all__")}


def _with_values(node):
    """A function whose defaults are values, where the code names options of k-means."""
    for defaults in (node.args.defaults, node.args.kw_defaults):
        for i, default in enumerate(defaults):
            if default is not None and "COMMAND_OPTIONS" in ast.unparse(default):
                value = eval(ast.unparse(default), {"COMMAND_OPTIONS": COMMAND_OPTIONS})
                defaults[i] = ast.Constant(value)
    return node


def _signature(node):
    """A function as one calls it, one argument a line where a line is too short for all."""
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    one_line = f"dc_tf.{node.name}({ast.unparse(node.args)}){returns}"
    if len(one_line) <= 90:
        return one_line
    # Each argument by itself, so that a comma inside of a type does not part it.
    own, lines = node.args, []
    plain = [*own.posonlyargs, *own.args]
    defaults = [None] * (len(plain) - len(own.defaults)) + own.defaults
    lines += [_argument(a, d) for a, d in zip(plain, defaults, strict=True)]
    if own.vararg or own.kwonlyargs:
        lines.append(f"*{_argument(own.vararg, None)}" if own.vararg else "*")
    lines += [_argument(a, d) for a, d in zip(own.kwonlyargs, own.kw_defaults, strict=True)]
    if own.kwarg:
        lines.append(f"**{_argument(own.kwarg, None)}")
    return f"dc_tf.{node.name}(\n" + "".join(f"    {line},\n" for line in lines) + f"){returns}"


def _argument(node, default):
    text = ast.unparse(node)
    if default is None:
        return text
    value = ast.unparse(default)
    return f"{text} = {value}" if node.annotation else f"{text}={value}"
