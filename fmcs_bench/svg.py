"""Matplotlib's SVG -> the same drawing at a third of the size, in the colour scheme that its reader prefers.

Flow: bytes -> tree -> circles, paths and glyphs in fewer digits; groups that say nothing are opened; styles become
classes and ids one letter -> a style sheet with the light colours, and the dark ones for who prefers them -> bytes.

Plain classes, without CSS variables: a program that knows no media queries draws the light figure.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from string import ascii_lowercase
from xml.etree import ElementTree as ET

_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_HREF = "xlink:href"
_URL = re.compile(r"url\(#([^)]*)\)")
_NUMBER = re.compile(r"-?\d+\.\d+")
_EVERYWHERE = "*{stroke-linejoin:round;stroke-linecap:butt}"
_CURVES = 8
"""Bezier curves that matplotlib makes a circle of."""


def adapt(svg: bytes, dark: Mapping[str, str]) -> bytes:
    """A figure that is light or dark as its reader's screen is; the same figure gives the same bytes.

    Args:
        svg: written by matplotlib with text as paths.
        dark: colour on a dark ground by colour on a light one, both as ``#rrggbb``; a colour that is not here is the
            same on both.
    """
    root = ET.fromstring(svg)  # noqa: S314 - matplotlib wrote it in this process
    for element in root.iter():
        element.tag = element.tag.removeprefix(f"{{{_SVG}}}")
        if (target := element.attrib.pop(f"{{{_XLINK}}}href", None)) is not None:
            element.set(_HREF, target)
        element.text, element.tail = None, "\n"
    shared = ET.Element("defs")
    shared.extend(definition for defs in root.iter("defs") for definition in defs if definition.tag != "style")
    root[:] = [shared, *_opened(root)]
    for element in root.iter():
        _simplify(element)
    _shorten_ids(root)
    sheet = ET.Element("style")
    sheet.text, sheet.tail = _style_sheet(_take_styles(root), dark), "\n"
    root.insert(0, sheet)
    root.attrib = {"xmlns": _SVG, "xmlns:xlink": _XLINK, **root.attrib}
    return f'<?xml version="1.0" encoding="utf-8"?>\n{ET.tostring(root, encoding="unicode")}'.encode()


def _opened(parent: ET.Element) -> Iterator[ET.Element]:
    """What a group draws, without the groups inside it that change nothing and without definitions."""
    for child in parent:
        if child.tag == "g":
            child[:] = list(_opened(child))
        if child.tag == "g" and not set(child.attrib) - {"id"}:
            yield from child
        elif child.tag != "defs":
            yield child


def _simplify(element: ET.Element) -> None:
    """Fewer digits: hundredths of a point, and whole units of the font between the letters of a text."""
    if "d" in element.attrib:
        pieces = re.findall(r"([A-Za-z])([^A-Za-z]*)", element.attrib["d"])
        circle = _circle(pieces)
        if circle is None:
            element.set("d", _path(pieces))
        else:
            del element.attrib["d"]
            element.tag = "circle"
            element.attrib.update(zip(("cx", "cy", "r"), map(_short, circle), strict=True))
    for name in ("x", "y", "width", "height"):
        if element.tag != "svg" and name in element.attrib:
            element.set(name, _short(float(element.attrib[name])))
    transform = element.attrib.get("transform", "")
    if found := re.fullmatch(r"translate\(([-\d.]+) 0\)", transform):  # a letter, from the start of its text
        del element.attrib["transform"]
        element.set("x", _short(float(found[1]), 0))
    elif transform:
        place = re.sub(r"translate\([^)]*\)", lambda t: _NUMBER.sub(lambda n: _short(float(n[0])), t[0]), transform)
        element.set("transform", place)


def _path(pieces: Iterable[tuple[str, str]]) -> str:
    """Path data; a command that is repeated is not named again."""
    parts, last = [], ""
    for command, numbers in pieces:
        shown = " ".join(_short(float(number)) for number in numbers.split())
        parts.append(f" {shown}" if command == last and command in "LQC" else command + shown)
        last = command
    return "".join(parts)


def _circle(pieces: list[tuple[str, str]]) -> tuple[float, float, float] | None:
    """Centre and radius where a path is a circle."""
    if [command for command, _ in pieces[:-1]] != ["M", *["C"] * _CURVES] or pieces[-1][0] not in "zZ":
        return None
    ends = [[float(number) for number in numbers.split()[-2:]] for _, numbers in pieces[1:-1]]
    x, y = (sum(end[i] for end in ends) / _CURVES for i in (0, 1))
    radii = [math.hypot(end[0] - x, end[1] - y) for end in ends]
    return (x, y, max(radii)) if max(radii) - min(radii) < 1e-3 else None


def _shorten_ids(root: ET.Element) -> None:
    """Ids that something refers to get one letter, the others go."""
    used = [element.get(_HREF, "")[1:] for element in root.iter() if element.get(_HREF, "").startswith("#")]
    used += [name for element in root.iter() for value in element.attrib.values() for name in _URL.findall(value)]
    names = {old: _name(i) for i, old in enumerate(dict.fromkeys(used))}
    for element in root.iter():
        if "id" in element.attrib and (old := element.attrib.pop("id")) in names:
            element.set("id", names[old])
        for key, value in element.attrib.items():
            if key == _HREF and value.startswith("#"):
                element.set(key, f"#{names[value[1:]]}")
            elif key != "id":
                element.set(key, _URL.sub(lambda url: f"url(#{names[url[1]]})", value))


def _take_styles(root: ET.Element) -> dict[str, str]:
    """Name of the class of each style, which takes the place of the style."""
    classes: dict[str, str] = {}
    for element in root.iter():
        style = element.attrib.pop("style", None)
        if style:
            plain = _NUMBER.sub(lambda number: _short(float(number[0])), re.sub(r"([:;])\s+", r"\1", style))
            element.set("class", classes.setdefault(plain, _name(len(classes))))
    return classes


def _style_sheet(classes: Mapping[str, str], dark: Mapping[str, str]) -> str:
    rules = [_EVERYWHERE, *(f".{name}{{{style}}}" for style, name in classes.items())]
    others: dict[str, list[str]] = {}
    for style, name in classes.items():
        for part in style.split(";"):
            key, _, value = part.partition(":")
            if value in dark:
                others.setdefault(f"{key}:{dark[value]}", []).append(f".{name}")
    changes = [f"{','.join(names)}{{{part}}}" for part, names in others.items()]
    return "\n".join([*rules, "@media (prefers-color-scheme:dark){", *changes, "}"])


def _short(number: float, digits: int = 2) -> str:
    """A number without needless digits, never as -0."""
    return f"{round(number, digits) + 0.0:.10g}"


def _name(i: int) -> str:
    """A .. z, a1 .. z1, a2 .."""
    return f"{ascii_lowercase[i % 26]}{i // 26 or ''}"
