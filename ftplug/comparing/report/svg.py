"""A figure as SVG for a page: colours by the page's CSS, text as text, no style attribute.

A Content-Security-Policy that names its styles by hash lets no ``style=""`` pass, so what
matplotlib writes there becomes attributes, and colours that have a name become classes.
"""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftplug.comparing.report.colors import LIGHT

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NAMES = {color: name for name, color in LIGHT.items()}
_FONT = re.compile(r"(?:(\d+|bold) )?([\d.]+)px")
_NOTHING = {"Date": None, "Creator": None, "Format": None, "Type": None}


def svg_of(figure: Figure, key: str, title: str, description: str) -> str:
    """Return a figure as an ``<svg>`` element; ``key`` begins the ids that the page has of it."""
    import matplotlib

    content = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": key}):
        figure.savefig(content, format="svg", metadata=_NOTHING)
    root = ET.fromstring(content.getvalue())
    _without_style_sheets(root)
    used = {name for element in root.iter() for name in _references(element)}
    for element in root.iter():
        _for_a_page(element, key, used)
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.attrib |= {"role": "img", "aria-labelledby": f"{key}-title {key}-desc"}
    for at, (tag, text) in enumerate((("title", title), ("desc", description))):
        named = ET.Element(tag, {"id": f"{key}-{tag}"})
        named.text = text
        root.insert(at, named)
    return ET.tostring(root, encoding="unicode")


def _without_style_sheets(root: ET.Element) -> None:
    for parent in list(root.iter()):
        for child in list(parent):
            name = child.tag.rpartition("}")[2]
            if name in ("metadata", "style") or (name == "defs" and _holds_style(child)):
                parent.remove(child)
    root.attrib |= {"stroke-linejoin": "round", "stroke-linecap": "butt"}  # what it had said


def _holds_style(defs: ET.Element) -> bool:
    return any(child.tag.endswith("}style") for child in defs)


def _references(element: ET.Element) -> Iterator[str]:
    for value in element.attrib.values():
        yield from re.findall(r"(?:^|url\()#([\w-]+)", value)


def _for_a_page(element: ET.Element, key: str, used: set[str]) -> None:
    element.tag = element.tag.rpartition("}")[2]
    found: dict[str, str] = {}
    for name, value in element.attrib.items():
        short = name.rpartition("}")[2]
        if short == "id":
            found |= {"id": f"{key}-{value}"} if value in used else {}
        elif short != "style":
            found[short] = re.sub(r"(^|url\()#", rf"\1#{key}-", value)
    found |= _attributes(element.attrib.get("style", ""), key)
    element.attrib.clear()
    element.attrib.update(found)


def _attributes(style: str, key: str) -> dict[str, str]:
    """Return the declarations of a style as attributes, colours that have a name as classes."""
    found: dict[str, str] = {}
    classes: list[str] = []
    for declaration in filter(None, map(str.strip, style.split(";"))):
        name, _, value = (part.strip() for part in declaration.partition(":"))
        if name in ("fill", "stroke") and value in _NAMES:
            classes.append(f"{name[0]}-{_NAMES[value]}")
        elif name == "font":
            if font := _FONT.match(value):
                found["font-size"] = font[2]
                found |= {"font-weight": font[1]} if font[1] else {}
        else:
            found[name] = re.sub(r"url\(#", f"url(#{key}-", value)
    return found | ({"class": " ".join(classes)} if classes else {})
