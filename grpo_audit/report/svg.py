"""Matplotlib's SVG made fit to stand inside an HTML page under a strict content security policy.

No style attributes or style elements (the policy forbids them), no metadata, no namespaces, ids that cannot collide
with another figure's, colours as classes so that the page's dark theme reaches them, and a title and a description.
The colour itself stays behind as an attribute, so that the figure is right without the page's style sheet, too.
"""

from __future__ import annotations

import io
import re
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Ink(StrEnum):
    """The palette: Okabe and Ito's colour-blind safe hues, darkened for contrast. The names become CSS classes."""

    TEXT = "#22211f"
    MUTED = "#6f6a62"
    HAIR = "#d8d3ca"
    PAPER = "#fdfcfa"
    BLUE = "#1d5f8f"
    VERMILION = "#b8480f"
    GREEN = "#00755f"
    OCHRE = "#8f6a00"
    PURPLE = "#8a4f8f"
    GREY = "#7b766e"


@dataclass(frozen=True)
class Drawing:
    """One figure: inline SVG, with a heading and a caption that the page sets as text."""

    name: str
    heading: str
    caption: str
    svg: str


RC = {
    "svg.fonttype": "none",  # text stays text: small, searchable, read aloud; anchors survive another face's widths
    "svg.hashsalt": "grpo-audit",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # ships with matplotlib; used to measure, the page's own face draws
    "font.size": 8.5,
    "text.color": Ink.TEXT,
    "axes.edgecolor": Ink.HAIR,
    "axes.labelcolor": Ink.MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "xtick.color": Ink.HAIR,
    "ytick.color": Ink.HAIR,
    "xtick.labelcolor": Ink.MUTED,
    "ytick.labelcolor": Ink.MUTED,
    "lines.solid_capstyle": "round",
    "text.parse_math": False,  # a task called a$b$ is not mathematics
    "path.simplify": False,
}
"""Settings every figure is drawn and saved under."""

_NAMES = {ink.value: ink.name.lower() for ink in Ink}
_DROPPED = {"font-family", "font-stretch"}
_LONG = re.compile(r"-?\d+\.\d{3,}")
_REFERENCE = re.compile(r"#([\w.:-]+)")


def to_svg(figure: Figure, name: str, title: str, description: str) -> str:
    """The figure as one ``<svg>`` element. Same figure, same bytes. Call it under ``rc_context(RC)``."""
    FigureCanvasSVG(figure)
    raw = io.StringIO()
    figure.savefig(raw, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    root = ElementTree.fromstring(raw.getvalue())
    _clean(root)
    _rename_ids(root, name)
    for attribute in ("width", "height", "version"):
        root.attrib.pop(attribute, None)
    root.attrib.update({"role": "img", "aria-labelledby": f"{name}-title {name}-desc", "class": "figure"})
    for position, (tag, text) in enumerate((("title", title), ("desc", description))):
        element = ElementTree.Element(tag, {"id": f"{name}-{tag}"})
        element.text = text
        root.insert(position, element)
    return ElementTree.tostring(root, encoding="unicode")


def settings() -> AbstractContextManager[None]:
    """Context in which every figure is built and saved, whatever the user's own matplotlib settings are."""
    context: AbstractContextManager[None] = mpl.rc_context(
        {**mpl.rcParamsDefault, **RC, "backend": mpl.rcParams["backend"]}
    )
    return context


def _clean(element: ElementTree.Element) -> None:
    element.tag = _local(element.tag)
    for child in list(element):
        if not isinstance(child.tag, str) or _local(child.tag) in {"metadata", "style"}:
            element.remove(child)
        else:
            _clean(child)
    attributes = {_local(key): value for key, value in element.attrib.items()}
    styles = dict(_declarations(attributes.pop("style", "")))
    element.attrib.clear()
    element.attrib.update({key: _LONG.sub(_rounded, value) for key, value in attributes.items()})
    _apply(element, styles)
    element.tail = None
    if element.tag != "text" and not (element.text or "").strip():
        element.text = None


def _apply(element: ElementTree.Element, styles: dict[str, str]) -> None:
    """Turn style declarations into presentation attributes and palette classes."""
    classes = []
    if element.tag == "text" and "fill" not in styles:
        styles["fill"] = Ink.TEXT
    for key, value in styles.items():
        if key in _DROPPED:
            continue
        if key in {"fill", "stroke"} and value in _NAMES:
            classes.append(f"{key[0]}-{_NAMES[value]}")
        element.set(key, value)
    if classes:
        element.set("class", " ".join(classes))


def _rename_ids(root: ElementTree.Element, name: str) -> None:
    """Keep only the ids that something refers to, numbered within this figure."""
    used: dict[str, str] = {}
    for element in root.iter():
        for key, value in element.attrib.items():
            if key == "href" or value.startswith("url("):
                for found in _REFERENCE.findall(value):
                    used.setdefault(found, f"{name}-{len(used) + 1}")
    for element in root.iter():
        for key, value in list(element.attrib.items()):
            if key == "id":
                if value in used:
                    element.set(key, used[value])
                else:
                    del element.attrib[key]
            elif key == "href" or value.startswith("url("):
                element.set(key, _REFERENCE.sub(lambda match: "#" + used[match.group(1)], value))


def _rounded(match: re.Match[str]) -> str:
    """Hundredths of a point: finer than any screen or printer, and half the bytes."""
    return f"{float(match[0]):.2f}".rstrip("0").rstrip(".")


def _declarations(style: str) -> list[tuple[str, str]]:
    pairs = (part.split(":", 1) for part in style.split(";") if ":" in part)
    return [(key.strip(), value.strip()) for key, value in pairs]


def _local(name: str) -> str:
    return name.rpartition("}")[2]
