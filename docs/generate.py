"""Parts of the handbook that come from the code, and pages that lie elsewhere.

    python docs/generate.py commands        # prints a part, as Markdown

MkDocs runs this file as a hook (`mkdocs.yml`). A comment `<!-- generated: commands -->` in a page
stands for a part of `PARTS`; `INCLUDED` names files of the repository that become pages as they
are. Commands are imported, without TensorFlow; tasks of `dc_tf evaluate` are only parsed.
"""

import pathlib
import re
import sys
import typing

_DOCS = pathlib.Path(__file__).resolve().parent
# MkDocs loads this file by its path.
sys.path[:0] = [path for path in (str(_DOCS), str(_DOCS.parent)) if path not in sys.path]

from generator import api, commands, folders, settings  # noqa: E402
from generator.source import ROOT  # noqa: E402

if typing.TYPE_CHECKING:
    from mkdocs.structure.files import Files

_PART = re.compile(r"<!-- generated: ([\w ]+) -->")
_LINK = re.compile(r"\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")
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


def on_files(files, config) -> "Files":
    """Adds the pages that lie outside of docs/."""
    from mkdocs.structure.files import File

    for page, path in INCLUDED.items():
        text = with_site_links((ROOT / path).read_text(encoding="utf-8"), page, path)
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown, page, **_) -> str:
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


PARTS = {
    "commands": commands.commands,
    "quickstart": lambda: commands.program("quickstart"),
    "local": lambda: commands.program("local"),
    "settings": settings.settings,
    "evaluation": settings.evaluation,
    "configurations": settings.configurations,
    "run folder": folders.run_folder,
    "checkpoint": folders.checkpoint,
    "centroids": folders.centroids,
    "api": api.api,
}


if __name__ == "__main__":
    for part in sys.argv[1:] or PARTS:
        print(PARTS[part]())
