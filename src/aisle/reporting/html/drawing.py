"""Render figures as PNG bytes, and as inline SVG with colours from the page's style sheet.

The same figure gives the same bytes: without dates and program versions, and with ids from a fixed salt.
"""

from __future__ import annotations

import io
import re
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
from matplotlib import image
from matplotlib.figure import Figure
from numpy.typing import NDArray

from aisle.reporting.html.palette import COLOURS

__all__ = ["inline_svg", "png_bytes", "rgb_pixels", "svg_bytes"]

_SALT: dict[Any, Any] = {"svg.hashsalt": "aisle", "svg.fonttype": "none"}
_PNG_DPI = 160
_VARIABLES = {colour: f"var(--{name})" for name, colour in COLOURS.items()}
_DROPPED_STYLES = {"font-family"}
_LINK = "{http://www.w3.org/1999/xlink}href"
_FIGURE = re.compile(r"-?\d+\.\d+")


def png_bytes(figure: Figure) -> bytes:
    """Return the figure as PNG on white, at 160 dots per inch."""
    content = io.BytesIO()
    with matplotlib.rc_context(_SALT):
        figure.savefig(content, format="png", dpi=_PNG_DPI, facecolor="white", metadata={"Software": None})
    return content.getvalue()


def svg_bytes(figure: Figure) -> bytes:
    """Return the figure as an SVG file on white."""
    content = io.BytesIO()
    with matplotlib.rc_context(_SALT):
        figure.savefig(content, format="svg", facecolor="white", metadata={"Date": None, "Creator": None})
    return content.getvalue()


def rgb_pixels(figure: Figure) -> NDArray[np.uint8]:
    """Return the pixels of `png_bytes`, (height, width, 3)."""
    shares = image.imread(io.BytesIO(png_bytes(figure)), format="png")[..., :3]
    pixels: NDArray[np.uint8] = np.rint(shares * 255).astype(np.uint8)
    return pixels


def inline_svg(figure: Figure, *, name: str, alt: str) -> str:
    """Return the figure as an <svg> element for an HTML page.

    Palette colours become CSS variables, so that the chart follows the light and dark themes. Styles
    become attributes, because the page's policy forbids inline styles. Ids start with the figure's
    name, so that several charts fit on a page.

    Args:
        figure: Figure drawn in palette colours only.
        name: Name of the figure on the page: letters and underscores.
        alt: Text for screen readers.
    """
    content = io.BytesIO()
    with matplotlib.rc_context(_SALT):
        figure.savefig(content, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    root = ElementTree.fromstring(content.getvalue())
    for parent in root.iter():
        for child in list(parent):
            if _local(child.tag) in {"metadata", "style"}:
                parent.remove(child)
    linked = _linked_ids(root)
    for element in root.iter():
        element.tag = _local(element.tag)
        _plain_attributes(element, prefix=f"{name}-", linked=linked)
        element.tail = None
        if element.tag not in {"text", "tspan"}:
            element.text = None
    width, height = (root.attrib.pop(side).removesuffix("pt") for side in ("width", "height"))
    root.attrib.pop("version", None)
    root.attrib.update({"class": "chart", "role": "img", "aria-label": alt, "width": width, "height": height})
    return ElementTree.tostring(root, encoding="unicode")


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]


def _linked_ids(root: ElementTree.Element) -> set[str]:
    links = {value for element in root.iter() for value in element.attrib.values() if "#" in value}
    return {match for link in links for match in re.findall(r"#(\w+)", link)}


def _plain_attributes(element: ElementTree.Element, *, prefix: str, linked: set[str]) -> None:
    """Turn styles into attributes and colours into variables, and prefix ids."""
    attributes = dict(element.attrib)
    for declaration in attributes.pop("style", "").split(";"):
        name, _, value = (part.strip() for part in declaration.partition(":"))
        if name and name not in _DROPPED_STYLES:
            attributes[name] = _VARIABLES.get(value.lower(), value)
    if _LINK in attributes:
        attributes["href"] = attributes.pop(_LINK)
    if attributes.get("transform", "").startswith("rotate(-0 "):
        del attributes["transform"]
    element.attrib.clear()
    for name, value in attributes.items():
        if name == "id":
            if value in linked:
                element.set(name, prefix + value)
        elif name in {"href", "clip-path"}:
            element.set(name, value.replace("#", f"#{prefix}"))
        else:
            # A hundredth of a point is finer than any screen; rounding halves the page's size.
            element.set(name, _FIGURE.sub(_shorter, value) if name in {"d", "x", "y", "transform"} else value)


def _shorter(match: re.Match[str]) -> str:
    return f"{float(match[0]):.2f}".rstrip("0").rstrip(".")
