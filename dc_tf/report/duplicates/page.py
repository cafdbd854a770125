"""A gallery of groups of copies: one HTML file that loads nothing.

    page = gallery(found, dataset, statistics, groups=100)

Sources come from the data and may hold anything; all text goes through the escaping of jinja2.
"""

import dataclasses

import numpy as np
from markupsafe import Markup

from dc_tf.data.storage.metadata import text as clean
from dc_tf.report import page
from dc_tf.report.thumbnails import Picture, Thumbnails

MARK = b"<!doctype html><!-- duplicates of dc_tf -->"
_MEMBERS = 12  # shown of a group
_SIDE = 96


@dataclasses.dataclass(frozen=True)
class Member:
    """An image of a group.

    Attributes:
        picture: Picture.
        kind: how it equals the one that stays; "" of that one.
        similarity: cosine with it.
        size: "640 x 480".
        is_keeper: whether it stays.
    """

    picture: Picture
    kind: str
    similarity: float
    size: str
    is_keeper: bool


@dataclasses.dataclass(frozen=True)
class Group:
    """Copies of one image, the one that stays first.

    Attributes:
        number: of the group, as in the table.
        size: number of images.
        members: those that are shown.
    """

    number: int
    size: int
    members: list


def gallery(found, dataset, statistics, groups=100) -> bytes:
    """The page, UTF-8.

    Args:
        found: duplicates.find.Duplicates.
        dataset: Dataset.
        statistics: dict of `duplicates.files.summary`.
        groups: number of groups that are shown: those with the least similar copies, where a
            look is worth most.
    """
    shown = _chosen(found, groups)
    pictures = Thumbnails(dataset, _SIDE)
    places = {number: np.flatnonzero(found.group == number) for number in shown}
    at = np.concatenate([np.empty(0, np.int64), *_cut(places)])
    pictures.load(found.rows[at])
    made = [
        Group(number, len(places[number]), [_member(found, pictures, at) for at in own])
        for number, own in zip(shown, _cut(places), strict=True)
    ]
    style = page.asset("style.css") + page.asset("duplicates.css")
    text = (
        page.environment()
        .get_template("duplicates.html")
        .render(
            groups=made,
            left_out=statistics["groups"] - len(made),
            statistics=statistics,
            data=clean(dataset.path, 200),
            style=Markup(style),
            policy=page.policy(style),
        )
    )
    return MARK + text.encode("utf-8", "replace")


def _chosen(found, groups):
    """Numbers of the groups to show, the least similar first."""
    if not len(found.group):
        return []
    starts = np.unique(found.group, return_index=True)[1]
    least = np.minimum.reduceat(found.similarity, starts)
    return found.group[starts][np.argsort(least, kind="stable")[:groups]].tolist()


def _cut(places):
    """Positions of the members that are shown, of each group."""
    return [own[:_MEMBERS] for own in places.values()]


def _member(found, pictures, at):
    return Member(
        picture=pictures[found.rows[at]],
        kind=str(found.kind[at]),
        similarity=float(found.similarity[at]),
        size=f"{found.width[at]} x {found.height[at]}",
        is_keeper=bool(found.keeper[at]),
    )
