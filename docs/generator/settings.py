"""Settings of experiments and of evaluations, and the shipped configurations."""

import ast
import dataclasses
import inspect

from generator.docstrings import before_sections, described, docstring_markdown, with_neighbours
from generator.markdown import cell, code, sentence, table, yaml_value
from generator.source import ROOT, default_code, module_value, parsed


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
        (experiment.Contrast, "stages[i].contrast."),
        (experiment.Optimizer, "stages[i].optimizer."),
        (experiment.Clustering, "stages[i].clustering."),
        (experiment.Augmentation, "stages[i].augmentation."),
        (experiment.Views, "stages[i].views."),
        (experiment.Watchdog, "watchdog."),
    ):
        names = [field.name for field in dataclasses.fields(kind)]
        about = with_neighbours(names, described(inspect.getdoc(kind)))
        parts += [f"## {kind.__name__}", docstring_markdown(before_sections(kind.__doc__))]
        rows = []
        for field in dataclasses.fields(kind):
            default = _experiment_default(field)
            if default is None:
                continue  # A section of its own below.
            text = sentence(about.get(field.name, ""))
            rows.append((f"`{prefix}{field.name}`", code(default), text))
        parts.append(table(("setting", "default", "meaning"), rows))
    return "\n\n".join(parts)


def evaluation() -> str:
    """Every setting of every task of `dc_tf evaluate`."""
    parts = []
    for name, module in tasks().items():
        tree = parsed(module)
        fields, about = protocol(module)
        small = module_value(tree, "SMALL") or {}
        rows = [
            (
                f"`{field}`",
                code(default),
                *((code(yaml_value(small[field])) if field in small else "",) if small else ()),
                sentence(about.get(field, "")),
            )
            for field, default in fields.items()
        ]
        head = ("setting", "default", *(("small protocol",) if small else ()), "meaning")
        parts += [
            f"## {name}",
            docstring_markdown(ast.get_docstring(tree), shell_only=True),
            table(head, rows),
        ]
    return "\n\n".join(parts)


def tasks() -> dict[str, str]:
    """{task of `dc_tf evaluate`: its module}."""
    return module_value(parsed("dc_tf.evaluation.task_names"), "TASKS")


def protocol(module: str) -> tuple[dict, dict]:
    """Settings of a task: {name: default as code}, {name: description}."""
    tree = parsed(module)
    node = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "Protocol")
    fields = {
        line.target.id: default_code(line.value, module)
        for line in node.body
        if isinstance(line, ast.AnnAssign)
    }
    return fields, with_neighbours(fields, described(ast.get_docstring(node)))


def configurations() -> str:
    """Every shipped configuration, with the text at its head; the command there is left out."""
    rows = []
    for path in sorted((ROOT / "configs").rglob("*.yaml")):
        lines = path.read_text(encoding="utf-8").splitlines()
        head = lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))]
        head = [line.removeprefix("#").strip() for line in head]
        command = next(i for i, line in enumerate(head) if not line.endswith("\\"))
        rows.append((f"`{path.relative_to(ROOT)}`", cell(" ".join(head[command + 1 :]))))
    return table(("file", "what it is"), rows)


def _experiment_default(field):
    """A default as YAML has it; None for a section."""
    if field.default is not dataclasses.MISSING:
        return None if field.name == "stages" else yaml_value(field.default)
    return "{}" if field.default_factory.__name__ == "Config" else None
