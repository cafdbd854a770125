"""Docstrings as Markdown."""

import inspect
import re

from generator.markdown import cell

_NAMED = re.compile(r"([a-z][\w, ]*): ")


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
            parts.append(cell(" ".join(line.strip() for line in lines), pipes=False))
    return "\n\n".join(_join_code(parts))


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
    return "\n".join(f"- {cell(item[2:], pipes=False)}" for item in items)


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
    return f"{head}\n\n" + "\n".join(f"- {cell(item[2:], pipes=False)}" for item in items)


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


def with_neighbours(names, about) -> dict[str, str]:
    """Descriptions; a name without one is referred to another's text that mentions it."""
    found = dict(about)
    for name in names:
        where = (n for n, text in about.items() if re.search(rf"\b{name}\b", text))
        if name not in about and (other := next(where, None)):
            found[name] = f"see `{other}`."
    return found


def before_sections(text) -> str:
    return re.split(r"\n\s*(?:Attributes|Args|Returns|Raises):\n", inspect.cleandoc(text))[0]


def first_line(text) -> str:
    return cell(inspect.cleandoc(text).partition("\n")[0])
