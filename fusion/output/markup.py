"""XML built from elements, so that no text can break it."""

from __future__ import annotations

import re
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from fusion.page import Polygon

_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]|[\ud800-\udfff]")
_NOT_NAME = re.compile(r"[^\w.-]", re.ASCII)


def clean(text: str) -> str:
    """Text as XML 1.0 can hold it: other characters become U+FFFD."""
    return _FORBIDDEN.sub("\ufffd", text)


def xml_id(text: str) -> str:
    """A name that XML takes for an id; `l003` stays."""
    name = _NOT_NAME.sub("_", text)
    return name if name[:1].isalpha() else f"_{name}"


def add(parent: Element, tag: str, text: str = "", /, **attributes: object) -> Element:
    """A new last child. Attributes that are None are left out; `class_` is class, `xml__id` xml:id, `text_anchor` text-anchor."""
    given = {_named(name): clean(_shown(value)) for name, value in attributes.items() if value is not None}
    child = SubElement(parent, tag, given)
    child.text = clean(text) or None
    return child


def say(parent: Element, text: str) -> None:
    """Text after what an element already holds."""
    if len(parent):
        parent[-1].tail = (parent[-1].tail or "") + clean(text)
    else:
        parent.text = (parent.text or "") + clean(text)


def document(root: Element, *pretty: Element, doctype: str = "") -> str:
    """A whole document; `pretty` are the elements in which white space means nothing, and which are indented."""
    for element in pretty:
        indent(element, " ")
        element.tail = "\n" if element is not root else None
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{doctype}{tostring(root, encoding="unicode")}\n'


def points(polygon: list[tuple[int, int]] | Polygon) -> str:
    """`x,y x,y`, as PAGE and SVG write polygons."""
    return " ".join(f"{x:g},{y:g}" for x, y in polygon)


def _named(name: str) -> str:
    name = name.rstrip("_").replace("__", ":")
    return name.replace("_", "-") if name.islower() else name


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.4f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
