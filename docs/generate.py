"""Parts of the handbook that come from the code, and pages that lie elsewhere.

    python docs/generate.py commands        # prints a part, as Markdown

MkDocs runs this file as a hook (`mkdocs.yml`). A comment `<!-- generated: commands -->` in a page
stands for a part of `PARTS`; `INCLUDED` names files of the repository that become pages as they
are. Commands are imported, without TensorFlow; tasks of `dc_tf evaluate` are only parsed.
"""

import ast
import dataclasses
import importlib
import inspect
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

_PART = re.compile(r"<!-- generated: ([\w ]+) -->")
_LINK = re.compile(r"\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")
_SKIPPED_FLAGS = ("verbosity", "v")
# Page of the site: file of the repository.
INCLUDED = {
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "security.md": "SECURITY.md",
    **{
        f"results/{path.name}": f"benchmarks/results/{path.name}"
        for path in sorted((ROOT / "benchmarks" / "results").glob("*.md"))
    },
}


# The hook of MkDocs.


def on_files(files, config):
    """Adds the pages that lie outside of docs/."""
    from mkdocs.structure.files import File

    for page, path in INCLUDED.items():
        text = with_site_links((ROOT / path).read_text(encoding="utf-8"), page, path)
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown, page, **_):
    """Puts the generated parts where a page names them."""
    return with_parts(markdown)


def with_parts(markdown: str) -> str:
    """A page with its generated parts.

    Raises:
        KeyError: there is no such part.
    """
    return _PART.sub(lambda match: PARTS[match[1]](), markdown)


def with_site_links(markdown: str, page: str, path: str) -> str:
    """An included page whose links lead to pages of the site; others become plain text."""
    pages = {f"docs/{p.relative_to(ROOT / 'docs')}" for p in (ROOT / "docs").rglob("*.md")}
    pages = {source: source.removeprefix("docs/") for source in pages}
    pages |= {source: target for target, source in INCLUDED.items()}
    up = "../" * page.count("/")

    def link(match):
        text, target, anchor = match[1], match[2], match[3] or ""
        if "://" in target or target.startswith("mailto:"):
            return match[0]
        source = (ROOT / path).parent.joinpath(target).resolve()
        if not source.is_relative_to(ROOT):
            return text
        known = pages.get(source.relative_to(ROOT).as_posix())
        return f"[{text}]({up}{known}{anchor})" if known else text

    return _LINK.sub(link, markdown)


# Parts.


def commands() -> str:
    """Every command: its docstring and its flags."""
    from dc_tf.commands.main import COMMANDS

    modules = {name: importlib.import_module(path) for name, path in COMMANDS.items()}
    overview = [
        (f"[`{name}`](#{name})", _first_line(module.__doc__)) for name, module in modules.items()
    ]
    parts = [_table(("command", "what it does"), overview)]
    for name, module in modules.items():
        parts += [f"## {name}", f"`dc_tf {name} --flags`", docstring_markdown(module.__doc__)]
        argument = getattr(module, "ARGUMENT", None)
        if argument is not None:
            parts.append(f"The value of `--{argument.name}` may stand without its name.")
        if hasattr(module, "FLAGS"):
            rows = [_flag_row(module.FLAGS[flag]) for flag in flag_names(module)]
            parts.append(_table(("flag", "kind", "default", "meaning"), rows))
        else:
            parts.append(program("local"))
    return "\n\n".join(parts)


def program(name: str) -> str:
    """The options of a program of launch/."""
    rows = [(f"`{option}`", _sentence(text)) for option, text in options(name).items()]
    return _table(("flag", "meaning"), rows)


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
            value = _module_value(tree, source)
            if value is None and "." in source:  # of a module beside it
                module, _, constant = source.partition(".")
                other = (ROOT / "launch" / f"{module}.py").read_text(encoding="utf-8")
                value = _module_value(ast.parse(other), constant)
            form = ast.literal_eval(ast.unparse(part.format_spec)[1:]) if part.format_spec else ""
            parts.append(source if value is None else format(value, form))
    return "".join(parts)


def flag_names(module) -> list[str]:
    """Names of a command's own flags, in the order in which they are defined."""
    return [name for name in getattr(module, "FLAGS", ()) if name not in _SKIPPED_FLAGS]


def settings() -> str:
    """Every setting of an experiment."""
    from dc_tf import experiment

    parts = []
    for kind, prefix in (
        (experiment.Experiment, ""),
        (experiment.Data, "data."),
        (experiment.Model, "model."),
        (experiment.Stage, "stages[i]."),
        (experiment.Projection, "stages[i].projection."),
        (experiment.Optimizer, "stages[i].optimizer."),
        (experiment.Clustering, "stages[i].clustering."),
        (experiment.Watchdog, "watchdog."),
    ):
        names = [field.name for field in dataclasses.fields(kind)]
        about = _with_neighbours(names, described(inspect.getdoc(kind)))
        parts += [f"## {kind.__name__}", docstring_markdown(_before_sections(kind.__doc__))]
        rows = []
        for field in dataclasses.fields(kind):
            default = _experiment_default(field)
            if default is None:
                continue  # A section of its own below.
            text = _sentence(about.get(field.name, ""))
            rows.append((f"`{prefix}{field.name}`", _code(default), text))
        parts.append(_table(("setting", "default", "meaning"), rows))
    return "\n\n".join(parts)


def evaluation() -> str:
    """Every setting of every task of `dc_tf evaluate`."""
    parts = []
    for name, module in tasks().items():
        tree = _parsed(module)
        fields, about = protocol(module)
        small = _module_value(tree, "SMALL") or {}
        rows = [
            (
                f"`{field}`",
                _code(default),
                *((_code(_yaml(small[field])) if field in small else "",) if small else ()),
                _sentence(about.get(field, "")),
            )
            for field, default in fields.items()
        ]
        head = ("setting", "default", *(("small protocol",) if small else ()), "meaning")
        parts += [
            f"## {name}",
            docstring_markdown(ast.get_docstring(tree), shell_only=True),
            _table(head, rows),
        ]
    return "\n\n".join(parts)


def tasks() -> dict[str, str]:
    """{task of `dc_tf evaluate`: its module}."""
    return _module_value(_parsed("dc_tf.evaluation.tasks"), "TASKS")


def protocol(module: str) -> tuple[dict, dict]:
    """Settings of a task: {name: default as code}, {name: description}."""
    tree = _parsed(module)
    node = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "Protocol")
    fields = {
        line.target.id: _default_code(line.value, module)
        for line in node.body
        if isinstance(line, ast.AnnAssign)
    }
    return fields, _with_neighbours(fields, described(ast.get_docstring(node)))


def configurations() -> str:
    """Every shipped configuration, with the text at its head; the command there is left out."""
    rows = []
    for path in sorted((ROOT / "configs").rglob("*.yaml")):
        lines = path.read_text(encoding="utf-8").splitlines()
        head = lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))]
        head = [line.removeprefix("#").strip() for line in head]
        command = next(i for i, line in enumerate(head) if not line.endswith("\\"))
        rows.append((f"`{path.relative_to(ROOT)}`", _cell(" ".join(head[command + 1 :]))))
    return _table(("file", "what it is"), rows)


def run_folder() -> str:
    """Every path of a run folder."""
    from dc_tf.run_dir import RunDir

    run = RunDir("/RUN")
    rows = []
    for name, member in vars(RunDir).items():
        if isinstance(member, property):
            path, about = getattr(run, name), member.__doc__
        elif name in _RUN_METHODS:
            path, about = getattr(run, name)(*_RUN_METHODS[name]), member.__doc__
        else:
            continue
        rows.append((f"`{path.removeprefix('/RUN/')}`", _sentence(_paragraph(about or ""))))
    return _table(("path", "what it holds"), sorted(rows))


# Methods of RunDir that name a path, with arguments for an example.
_RUN_METHODS = {"log": (0,), "clustering": (1, 0), "embeddings": ("fc7",), "features": (0,)}


def checkpoint() -> str:
    """The files of a checkpoint."""
    return docstring_markdown(ast.get_docstring(_parsed("dc_tf.training.checkpoint")))


def centroids() -> str:
    """The files that are kept of a clustering."""
    return docstring_markdown(ast.get_docstring(_parsed("dc_tf.clustering.kept_clustering")))


def api() -> str:
    """The functions of the Python API with their docstrings."""
    parts = []
    for name, node in api_functions().items():
        parts += [f"## {name}", f"```python\n{_signature(node)}\n```"]
        parts.append(docstring_markdown(ast.get_docstring(node)))
    return "\n\n".join(parts)


API_PARTS = ("data", "training", "features", "collection", "clusters")


def api_functions() -> dict[str, ast.FunctionDef]:
    """Public functions of `dc_tf.api`, in the order of its `__all__`."""
    parts = [_parsed(f"dc_tf.api.{part}") for part in API_PARTS]
    nodes = [node for part in parts for node in part.body if isinstance(node, ast.FunctionDef)]
    functions = {node.name: node for node in nodes}
    return {name: functions[name] for name in _module_value(_parsed("dc_tf.api"), "__all__")}


PARTS = {
    "commands": commands,
    "quickstart": lambda: program("quickstart"),
    "local": lambda: program("local"),
    "settings": settings,
    "evaluation": evaluation,
    "configurations": configurations,
    "run folder": run_folder,
    "checkpoint": checkpoint,
    "centroids": centroids,
    "api": api,
}


# Docstrings.


def docstring_markdown(text: str, shell_only=False) -> str:
    """A docstring as Markdown: examples as code, sections as lists.

    Args:
        text: the docstring.
        shell_only: leave out examples that are no command lines.
    """
    text = inspect.cleandoc(text or "")
    parts = []
    for block in re.split(r"\n\s*\n", text):
        lines = block.splitlines()
        if re.match(r"(Args|Attributes|Returns|Raises|Yields|Folder [^:]*):$", lines[0]):
            parts.append(_section(lines))
        elif lines[0].startswith(">>> "):
            parts.append("```python\n" + "\n".join(lines) + "\n```")
        elif lines[0].startswith("    ") or _is_shell(lines):
            code = inspect.cleandoc("\n" + block)
            if not shell_only or _is_shell(code.splitlines()):
                # A command whose line was continued.
                code = re.sub(r"(?<=\S) {5,}(?=--)", " \\\n    ", code)
                parts.append(f"```\n{code}\n```")
        elif _NAMED.match(lines[0]) and len(lines) > 1:
            parts.append(_list(lines))
        elif len(lines) > 1 and lines[-1].startswith("    ") and lines[-2].endswith(":"):
            parts += [" ".join(lines[:-1]), "```\n" + lines[-1].strip() + "\n```"]
        else:
            parts.append(_cell(" ".join(line.strip() for line in lines), pipes=False))
    return "\n\n".join(_join_code(parts))


_NAMED = re.compile(r"([a-z][\w, ]*): ")


def _is_shell(lines):
    return all(line.startswith(("dc_tf ", "launch/", "    ")) for line in lines)


def _join_code(parts):
    """Blocks of code that follow one another as one."""
    joined = []
    for part in parts:
        if joined and part.startswith("```") and joined[-1].endswith("```"):
            joined[-1] = joined[-1].removesuffix("```") + "\n" + part.removeprefix("```\n")
        else:
            joined.append(part)
    return joined


def _list(lines):
    items = []
    for line in lines:
        if match := _NAMED.match(line):
            items.append(f"- {_quoted(match[1])}: {line[match.end() :]}")
        else:
            items[-1] += f" {line.strip()}"
    return "\n".join(f"- {_cell(item[2:], pipes=False)}" for item in items)


def _quoted(names):
    """Names as code; other words as they are."""
    names = [name.strip() for name in names.split(",")]
    return ", ".join(name if " " in name else f"`{name}`" for name in names)


def _section(lines):
    body = inspect.cleandoc("\n" + "\n".join(lines[1:])).splitlines()
    head = f"**{lines[0].rstrip(':')}**"
    if lines[0].startswith("Folder"):
        return f"{lines[0]}\n\n```\n" + "\n".join(body) + "\n```"
    items = []
    for line in body:
        match = re.match(r"([\w*, .]+): ", line)
        if match and not line.startswith(" "):
            items.append(f"- {_quoted(match[1])}: {line[match.end() :]}")
        elif items:
            items[-1] += f" {line.strip()}"
        else:
            items.append(f"- {line.strip()}")
    return f"{head}\n\n" + "\n".join(f"- {_cell(item[2:], pipes=False)}" for item in items)


def described(text: str) -> dict[str, str]:
    """{name: description} of the section `Attributes` or `Args` of a docstring."""
    lines = inspect.cleandoc(text or "").splitlines()
    heads = [i for i, line in enumerate(lines) if line in ("Attributes:", "Args:")]
    found, names = {}, ()
    for line in lines[heads[0] + 1 :] if heads else ():
        if line and not line.startswith(" "):
            break
        match = re.match(r"    (\w+(?:, \w+)*): (.*)", line)
        if match:
            names = match[1].split(", ")
            found |= dict.fromkeys(names, match[2])
        else:
            for name in names:
                found[name] = f"{found[name]} {line.strip()}".strip()
    return found


def _with_neighbours(names, about):
    """Descriptions; a name without one is referred to another's text that mentions it."""
    found = dict(about)
    for name in names:
        where = (n for n, text in about.items() if re.search(rf"\b{name}\b", text))
        if name not in about and (other := next(where, None)):
            found[name] = f"see `{other}`."
    return found


def _before_sections(text):
    return re.split(r"\n\s*(?:Attributes|Args|Returns|Raises):\n", inspect.cleandoc(text))[0]


def _first_line(text):
    return _cell(inspect.cleandoc(text).partition("\n")[0])


def _paragraph(text):
    return re.sub(r"\s+", " ", text).strip()


def _sentence(text):
    text = _cell(text)
    return text[:1].upper() + text[1:]


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
    lines += [_argument(a, d) for a, d in zip(plain, defaults)]
    if own.vararg or own.kwonlyargs:
        lines.append(f"*{_argument(own.vararg, None)}" if own.vararg else "*")
    lines += [_argument(a, d) for a, d in zip(own.kwonlyargs, own.kw_defaults)]
    if own.kwarg:
        lines.append(f"**{_argument(own.kwarg, None)}")
    return f"dc_tf.{node.name}(\n" + "".join(f"    {line},\n" for line in lines) + f"){returns}"


def _argument(node, default):
    text = ast.unparse(node)
    if default is None:
        return text
    return (
        f"{text} = {ast.unparse(default)}" if node.annotation else f"{text}={ast.unparse(default)}"
    )


# Tables.


def _table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in lines)


def _flag_row(flag):
    name = f"`--[no]{flag.name}`" if flag.boolean else f"`--{flag.name}`"
    required = any("must have a value" in str(v.message) for v in flag.validators)
    default = "required" if required else _code(str(flag.default_as_str or "").strip("'"))
    kind = {"multi string": "string, repeatable", "int": "integer"}.get(
        flag.flag_type(), flag.flag_type().replace("comma separated list of strings", "list")
    )
    values = getattr(flag.parser, "enum_values", None)
    if values:
        kind = ", ".join(_code(value) for value in values)
    return name, kind, default, _cell(_own_help(flag))


def _own_help(flag):
    """The help of a flag without what absl adds to it."""
    text = re.sub(r"^<[^>]*>: ", "", flag.help)
    return text.partition(";\n    repeat this option")[0]


def _code(text):
    """In a cell; a bar inside of code ends the cell otherwise."""
    text = str(text)
    return "`" + text.replace("|", "\\|") + "`" if text else ""


def _cell(text, pipes=True):
    """Text as it is: what Markdown or HTML would take for its own is escaped outside of code."""
    pieces = re.split(r"(`[^`]*`)", _paragraph(text))
    pieces[::2] = [re.sub(r"([*_<])", r"\\\1", piece) for piece in pieces[::2]]
    text = "".join(pieces)
    return text.replace("|", "\\|") if pipes else text


def _experiment_default(field):
    """A default as YAML has it; None for a section."""
    if field.default is not dataclasses.MISSING:
        return None if field.name == "stages" else _yaml(field.default)
    return "{}" if field.default_factory.__name__ == "Config" else None


def _yaml(value):
    """A value as YAML has it."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, str):
        return value or '""'
    if isinstance(value, tuple | list):
        return f"[{', '.join(_yaml(v) for v in value)}]"
    return str(value)


# Modules that are parsed rather than imported.


def _parsed(module: str) -> ast.Module:
    return ast.parse(_path(module).read_text(encoding="utf-8"))


def _path(module):
    base = ROOT.joinpath(*module.split("."))
    return base.with_suffix(".py") if base.with_suffix(".py").is_file() else base / "__init__.py"


def _module_value(tree, name):
    """Value of a literal constant of a module; None if there is none."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == name:
            try:
                return ast.literal_eval(node.value)
            except ValueError:
                return None
    return None


def _default_code(node, module):
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
        return ast.unparse(node) if value is None else _yaml(value)
    try:
        return _yaml(ast.literal_eval(node))
    except ValueError:
        return ast.unparse(node)


def _constant(name, module):
    """Value of `NAME` or `module.NAME` in a module, followed through its imports."""
    tree = _parsed(module)
    first, _, rest = name.partition(".")
    value = None if rest else _module_value(tree, first)
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


if __name__ == "__main__":
    for part in sys.argv[1:] or PARTS:
        print(PARTS[part]())
