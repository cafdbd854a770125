"""Text, code and tables as Markdown."""

import re


def table(head, rows) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in lines)


def code(text) -> str:
    """In a cell; a bar inside of code ends the cell otherwise."""
    text = str(text)
    return "`" + text.replace("|", "\\|") + "`" if text else ""


def cell(text, pipes=True) -> str:
    """Text as it is: what Markdown or HTML would take for its own is escaped outside of code."""
    pieces = re.split(r"(`[^`]*`)", paragraph(text))
    pieces[::2] = [re.sub(r"([*_<])", r"\\\1", piece) for piece in pieces[::2]]
    text = "".join(pieces)
    return text.replace("|", "\\|") if pipes else text


def paragraph(text) -> str:
    return re.sub(r"\s+", " ", text).strip()


def sentence(text) -> str:
    text = cell(text)
    return text[:1].upper() + text[1:]


def yaml_value(value) -> str:
    """A value as YAML has it."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, str):
        return value or '""'
    if isinstance(value, tuple | list):
        return f"[{', '.join(yaml_value(v) for v in value)}]"
    return str(value)
