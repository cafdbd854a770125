"""Parses a PASCAL VOC annotation file: the objects of an image with their boxes.

    annotation = parse(open("000005.xml", "rb").read())
    annotation.objects[0].name, annotation.objects[0].box

A file with a document type is rejected: it enables the attacks of untrusted XML, entities that
expand exponentially or read other files. VOC files have none.
"""

import xml.etree.ElementTree as ElementTree
from typing import NamedTuple
from xml.parsers import expat

MAX_BYTES = 4 << 20  # of a file; the largest of VOC 2007 has 10 KB
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


class Object(NamedTuple):
    """An object of an image.

    Attributes:
        name: of its class.
        box: (top, left, bottom, right) in pixels from the image's top left corner, so that the
            whole of a 10 x 10 image is (0, 0, 10, 10).
        difficult: marked as hard to recognize; ignored by the evaluation.
    """

    name: str
    box: tuple[float, float, float, float]
    difficult: bool


class Annotation(NamedTuple):
    """Contents of an annotation file.

    Attributes:
        size: (height, width) in pixels; (0, 0) if not given.
        objects: tuple of Object, in the order of the file.
    """

    size: tuple[int, int]
    objects: tuple[Object, ...]


def parse(data: bytes) -> Annotation:
    """Reads an annotation.

    Raises:
        ValueError: it is not XML or not an annotation, is too large, or has a document type.
    """
    if len(data) > MAX_BYTES:
        raise ValueError(f"has {len(data)} bytes, more than {MAX_BYTES}")
    root = _tree(data)
    if root.tag != "annotation":
        raise ValueError(f"is a <{root.tag}>, not an <annotation>")
    size = root.find("size")
    height, width = (0, 0) if size is None else (int(_number(size, n)) for n in ("height", "width"))
    # Direct children only: a person's parts, such as the head, are nested and have boxes too.
    return Annotation((height, width), tuple(_object(node) for node in root.findall("object")))


def _tree(data):
    builder = ElementTree.TreeBuilder()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = _refuse_doctype
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise ValueError(f"is not XML: {error}") from error
    return builder.close()


def _refuse_doctype(*_):
    raise ValueError("has a document type (<!DOCTYPE ...>), which is not allowed")


def _object(node):
    name = _text(node, "name")
    box = node.find("bndbox")
    if box is None:
        raise ValueError(f"has an object {name!r} without <bndbox>")
    left, top, right, bottom = (_number(box, corner) for corner in _CORNERS)
    if right < left or bottom < top:
        raise ValueError(
            f"has an object {name!r} from ({left:g}, {top:g}) to ({right:g}, {bottom:g})"
        )
    difficult = node.find("difficult") is not None and _number(node, "difficult") != 0
    # VOC numbers pixels from 1 and includes the last pixel in the box.
    return Object(name, (top - 1, left - 1, bottom, right), difficult)


def _text(node, tag):
    text = (node.findtext(tag) or "").strip()
    if not text:
        raise ValueError(f"has a <{node.tag}> without <{tag}>")
    return text


def _number(node, tag):
    text = _text(node, tag)
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not abs(value) < 1e9:  # not a number, or beyond any image
        raise ValueError(f"has <{tag}> {text!r}; expected a number")
    return value
