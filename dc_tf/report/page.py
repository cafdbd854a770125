"""Renders a report: one HTML file that loads nothing.

    text, left_out = fit(content, max_mb=25)

Every text of the data goes through the escaping of jinja2. The policy in the head forbids the
network, and any script or style but those of this package, which it names by their hashes.
"""

import base64
import hashlib
import pathlib

import jinja2
from markupsafe import Markup

from dc_tf.data.storage.metadata import text as clean
from dc_tf.errors import ConfigError
from dc_tf.report import charts
from dc_tf.report.sections import about
from dc_tf.report.sections import map as map_lib
from dc_tf.versions import installed

CAP_MB = 25.0
MARK = b"<!doctype html><!-- a report of dc_tf -->"
_TEMPLATES = pathlib.Path(__file__).parent / "templates"
_DROPPED = 0.15  # share of the cards that are left out at a time


def fit(content: dict, max_mb: float) -> tuple[bytes, list[str]]:
    """The page, with as many pictures as fit.

    Args:
        content: what the templates show; see `build`.
        max_mb: largest size, in millions of bytes.

    Returns:
        UTF-8, and sentences about what was left out.

    Raises:
        ConfigError: not even the page without pictures fits.
    """
    gallery, dropped, notes = content["gallery"], 0, []
    while True:
        notes = _left_out(gallery, dropped, max_mb)
        page = render({**content, "left_out": notes, "max_mb": max_mb})
        if len(page) <= max_mb * 1e6:
            return page, notes
        if gallery is None or not gallery.can_drop():
            raise ConfigError(
                f"max_mb is {max_mb:g}, but the page without contact sheets has "
                f"{len(page) / 1e6:.1f} MB; use more."
            )
        dropped += gallery.drop(_DROPPED)


def render(content: dict) -> bytes:
    """The page in UTF-8."""
    style, script = asset("style.css"), asset("script.js")
    page = (
        environment()
        .get_template("page.html")
        .render(
            **content,
            style=Markup(style),
            script=Markup(script),
            made_by=installed(),
            policy=policy(style, script),
            charts=charts,
            map_pictures=_map_pictures(content["gallery"]),
            map_size=(map_lib.WIDTH, map_lib.HEIGHT),
        )
    )
    return MARK + page.encode("utf-8", "replace")


def is_report(path: str) -> bool:
    """Whether a file is a report."""
    with open(path, "rb") as file:
        return file.read(len(MARK)) == MARK


def _left_out(gallery, dropped, max_mb):
    if gallery is None:
        return []
    notes = []
    more = gallery.looked_at - len(gallery.cards) - dropped
    if dropped:
        notes.append(
            f"Contact sheets of {dropped:,} clusters are left out, so that the file stays below "
            f"{max_mb:g} MB."
        )
    if more > 0:
        notes.append(f"{more:,} more clusters are in the statistics without a contact sheet.")
    return notes


def _map_pictures(gallery):
    """{cluster number: data URI} for the script."""
    if gallery is None:
        return {}
    return {number: one.uri for number, one in gallery.map_pictures.items() if one.uri}


def environment() -> jinja2.Environment:
    """The templates of this package, with every text escaped."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "clean": clean,
        "duration": about.duration,
        "short_number": charts.short_number,
    }
    return made


def asset(name: str) -> str:
    """The text of a file of the templates."""
    return (_TEMPLATES / name).read_text(encoding="utf-8")


def policy(style: str, script: str | None = None) -> str:
    """A Content-Security-Policy that allows data URIs, this style and this script only."""
    allowed = ["default-src 'none'", "img-src data:", f"style-src '{_hash(style)}'"]
    if script is not None:
        allowed.append(f"script-src '{_hash(script)}'")
    return "; ".join([*allowed, "base-uri 'none'", "form-action 'none'"])


def _hash(text):
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
