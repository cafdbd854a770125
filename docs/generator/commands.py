"""Commands and the programs of launch/, with their flags."""

import ast
import importlib
import re

from generator.docstrings import docstring_markdown, first_line
from generator.markdown import cell, code, sentence, table
from generator.source import ROOT, module_value

_SKIPPED_FLAGS = ("verbosity", "v")


def commands() -> str:
    """Every command: its docstring and its flags."""
    from dc_tf.commands.main import COMMANDS

    modules = {name: importlib.import_module(path) for name, path in COMMANDS.items()}
    overview = [
        (f"[`{name}`](#{name})", first_line(module.__doc__)) for name, module in modules.items()
    ]
    parts = [table(("command", "what it does"), overview)]
    for name, module in modules.items():
        parts += [f"## {name}", f"`dc_tf {name} --flags`", docstring_markdown(module.__doc__)]
        argument = getattr(module, "ARGUMENT", None)
        if argument is not None:
            parts.append(f"The value of `--{argument.name}` may stand without its name.")
        if hasattr(module, "FLAGS"):
            rows = [_flag_row(module.FLAGS[flag]) for flag in flag_names(module)]
            parts.append(table(("flag", "kind", "default", "meaning"), rows))
        else:
            parts.append(program("local"))
    return "\n\n".join(parts)


def program(name: str) -> str:
    """The options of a program of launch/."""
    rows = [(f"`{option}`", sentence(text)) for option, text in options(name).items()]
    return table(("flag", "meaning"), rows)


def options(name: str) -> dict[str, str]:
    """{option: help} of a program of launch/, from its calls of `add_argument`."""
    tree = ast.parse((ROOT / "launch" / f"{name}.py").read_text(encoding="utf-8"))
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_argument":
            option = ast.literal_eval(node.args[0])
            text = next((k.value for k in node.keywords if k.arg == "help"), None)
            if option.startswith("--") and text is not None:
                found[option] = _text(text, tree)
    return found


def _text(node, tree):
    """Text of a string, with constants of the module in place of their names."""
    if isinstance(node, ast.Constant):
        return node.value
    parts = []
    for part in node.values:
        if isinstance(part, ast.Constant):
            parts.append(part.value)
        else:
            source = ast.unparse(part.value)
            value = module_value(tree, source)
            if value is None and "." in source:  # of a module beside it
                module, _, constant = source.partition(".")
                other = (ROOT / "launch" / f"{module}.py").read_text(encoding="utf-8")
                value = module_value(ast.parse(other), constant)
            form = ast.literal_eval(ast.unparse(part.format_spec)[1:]) if part.format_spec else ""
            parts.append(source if value is None else format(value, form))
    return "".join(parts)


def flag_names(module) -> list[str]:
    """Names of a command's own flags, in the order in which they are defined."""
    return [name for name in getattr(module, "FLAGS", ()) if name not in _SKIPPED_FLAGS]


def _flag_row(flag):
    name = f"`--[no]{flag.name}`" if flag.boolean else f"`--{flag.name}`"
    required = any("must have a value" in str(v.message) for v in flag.validators)
    default = "required" if required else code(str(flag.default_as_str or "").strip("'"))
    kind = {"multi string": "string, repeatable", "int": "integer"}.get(
        flag.flag_type(), flag.flag_type().replace("comma separated list of strings", "list")
    )
    values = getattr(flag.parser, "enum_values", None)
    if values:
        kind = ", ".join(code(value) for value in values)
    return name, kind, default, cell(_own_help(flag))


def _own_help(flag):
    """The help of a flag without what absl adds to it."""
    text = re.sub(r"^<[^>]*>: ", "", flag.help)
    return text.partition(";\n    repeat this option")[0]
