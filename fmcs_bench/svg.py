"""Matplotlib's SVG -> the same drawing at a quarter of the size, in the colour scheme that its reader prefers.

Flow: bytes -> tree -> circles, paths and glyphs in fewer digits; groups that say nothing are opened; words that come
again are drawn once; styles become classes and ids one letter -> a style sheet with the light colours, and the dark
ones for who prefers them -> bytes.

Plain classes, without CSS variables: a program that knows no media queries draws the light figure.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from string import ascii_lowercase
from typing import NamedTuple
from xml.etree import ElementTree as ET

_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_HREF = "href"
"""As SVG 2 has it; browsers have known it since 2018."""
_URL = re.compile(r"url\(#([^)]*)\)")
_NUMBER = re.compile(r"-?\d+\.\d+")
_SCALE = re.compile(r"scale\(([\d.]+)\)")
_OPACITY = re.compile(r"(?<!-)opacity")
_RECTANGLE = re.compile(r"M(-?[\d.]+)[ ]?(-?[\d.]+)h(-?[\d.]+)v(-?[\d.]+)h(-?[\d.]+)z")
_TOUCH = 0.11
"""Neighbours may overlap so far, in points, because they are rounded."""
_TENTHS = 10
_LENGTHS = (24, 16, 12, 9, 7, 5, 4, 3, 2)
"""Letters of words that are looked for; of other lengths are two words."""
_WORTH = 3
"""Letters that a word must save, as it takes some bytes itself."""
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
        element.text, element.tail = None, None if element.tag == "use" else "\n"
    shared = ET.Element("defs")
    shared.extend(definition for defs in root.iter("defs") for definition in defs if definition.tag != "style")
    root[:] = [shared, *_opened(root)]
    for element in root.iter():
        _simplify(element)
    _share_words(root)
    _shorten_ids(root)
    _say_once(root)
    sheet = ET.Element("style")
    sheet.text, sheet.tail = _style_sheet(_take_styles(root), dark), "\n"
    root.insert(0, sheet)
    root.attrib = {"xmlns": _SVG, **root.attrib}
    text = ET.tostring(root, encoding="unicode").replace(" />", "/>")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{text}'.encode()


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
    """Fewer digits: tenths of a point, and whole units of the font between the letters of a text."""
    if "d" in element.attrib:
        pieces = re.findall(r"([A-Za-z])([^A-Za-z]*)", element.attrib["d"])
        circle = _circle(pieces)
        if circle is None:
            scale = _SCALE.fullmatch(element.get("transform", ""))
            scale = None if {"style", "clip-path"} & set(element.attrib) else scale  # which it would scale, too
            if scale is not None:  # a letter, in units of its font
                del element.attrib["transform"]
            element.set("d", _path(pieces, float(scale[1]) if scale is not None else 1.0))
        else:
            del element.attrib["d"]
            element.tag = "circle"
            element.attrib.update(zip(("cx", "cy", "r"), map(_short, circle), strict=True))
    for name in ("x", "y", "width", "height"):
        if element.tag != "svg" and name in element.attrib:
            element.set(name, _short(float(element.attrib[name]), 1))
    transform = element.attrib.get("transform", "")
    if found := re.fullmatch(r"translate\(([-\d.]+) 0\)", transform):  # a letter, from the start of its text
        del element.attrib["transform"]
        element.set("x", _short(float(found[1]), 0))
    elif transform:
        place = re.sub(r"translate\([^)]*\)", lambda t: _NUMBER.sub(lambda n: _short(float(n[0]), 1), t[0]), transform)
        element.set("transform", re.sub(r"(?<![\d.])0(?=\.)", "", place.replace(") ", ")").replace(" -", "-")))


def _path(pieces: Sequence[tuple[str, str]], scale: float = 1.0) -> str:
    """Path data as steps from point to point; points are rounded and not steps, so that no error adds up.

    Args:
        pieces: commands of matplotlib (M, L, Q, C, z) with their numbers.
        scale: of all numbers.
    """
    parts: list[str] = []
    last, here, first = "", (0, 0), (0, 0)
    for command, text in pieces:
        flat = [round(_TENTHS * scale * float(number)) for number in text.split()]
        points = list(zip(flat[::2], flat[1::2], strict=True))
        if command in "zZ":
            name, numbers, here = "z", [], first
        elif command == "M":
            name, numbers, here, first = "M", flat, points[0], points[0]
        else:
            steps = [(x - here[0], y - here[1]) for x, y in points]
            name, numbers, here = command.lower(), [part for step in steps for part in step], points[-1]
            if name == "l" and 0 in numbers:
                name, numbers = ("h", numbers[:1]) if numbers[1] == 0 else ("v", numbers[1:])
        shown = [_tenths(number) for number in numbers]
        joined = "".join(part if part.startswith("-") else f" {part}" for part in shown)
        parts.append(joined if name == last and name in "lqchv" else name + joined.removeprefix(" "))
        last = name
    return "".join(parts)


def _tenths(number: int) -> str:
    """A number of tenths, without the zero before the point."""
    return re.sub(r"^(-?)0\.", r"\1.", f"{number / _TENTHS:.10g}")


def _circle(pieces: list[tuple[str, str]]) -> tuple[float, float, float] | None:
    """Centre and radius where a path is a circle."""
    if [command for command, _ in pieces[:-1]] != ["M", *["C"] * _CURVES] or pieces[-1][0] not in "zZ":
        return None
    ends = [[float(number) for number in numbers.split()[-2:]] for _, numbers in pieces[1:-1]]
    x, y = (sum(end[i] for end in ends) / _CURVES for i in (0, 1))
    radii = [math.hypot(end[0] - x, end[1] - y) for end in ends]
    return (x, y, max(radii)) if max(radii) - min(radii) < 1e-3 else None


class _Letter(NamedTuple):
    """A letter of a text, and how far from its start it stands."""

    name: str
    x: float


_Text = list[_Letter | None]
"""Letters in order; where a word has taken their place, None."""


def _share_words(root: ET.Element) -> None:
    """Letters that come again in the same order are a group that is drawn at each place; a space is nothing.

    The letters of a text are ``use`` elements in a group of their own.
    """
    shared = root[0]
    empty = {element.get("id") for element in shared if element.tag == "path" and not element.get("d")}
    shared[:] = [element for element in shared if element.get("id") not in empty]
    groups = [group for group in root.iter("g") if all(set(child.attrib) <= {_HREF, "x"} for child in group)]
    texts: list[_Text] = [
        [_Letter(name, float(use.get("x", "0"))) for use in group if (name := use.get(_HREF, "")[1:]) not in empty]
        for group in groups
    ]
    words: list[list[_Letter]] = [[] for _ in texts]
    for length in _LENGTHS:
        for where in list(_repeated(texts, length)):
            name = f"word-{len(shared)}"
            letters = _take(texts, words, where, length, name)
            if letters:  # a word is a text too, which shares shorter words with others
                group = ET.SubElement(shared, "g", {"id": name})
                group.tail = "\n"
                groups, texts, words = [*groups, group], [*texts, [*letters]], [*words, []]
    for group, text, own in zip(groups, texts, words, strict=True):
        left = [letter for letter in text if letter is not None]
        group[:] = [_use(letter) for letter in sorted([*left, *own], key=lambda letter: letter.x)]


def _repeated(texts: Sequence[_Text], length: int) -> Iterator[list[tuple[int, int]]]:
    """Text and place of each row of so many letters that comes often enough to be worth it."""
    places: dict[tuple[str, ...], list[tuple[int, int]]] = {}
    for i, text in enumerate(texts):
        for start in range(len(text) - length + 1):
            window = [letter for letter in text[start : start + length] if letter is not None]
            if len(window) == length:
                places.setdefault(tuple(letter.name for letter in window), []).append((i, start))
    return (where for where in places.values() if (len(where) - 1) * (length - 1) > _WORTH)


def _take(
    texts: Sequence[_Text], words: Sequence[list[_Letter]], where: Sequence[tuple[int, int]], length: int, name: str
) -> list[_Letter]:
    """Put a word in the place of its letters; returns them, or none where too few stand there at equal distances."""
    found: list[tuple[int, int, float, list[_Letter]]] = []
    for i, start in where:
        window = [letter for letter in texts[i][start : start + length] if letter is not None]
        if len(window) == length and (not found or found[-1][0] != i or start >= found[-1][1] + length):
            placed = [_Letter(letter.name, letter.x - window[0].x) for letter in window]
            model = found[0][3] if found else placed
            if all(abs(one.x - other.x) <= 1 for one, other in zip(placed, model, strict=True)):
                found.append((i, start, window[0].x, placed))
    if len(found) < 2:
        return []
    for i, start, x, _ in found:
        texts[i][start : start + length] = [None] * length
        words[i].append(_Letter(name, x))
    return found[0][3]


def _use(letter: _Letter) -> ET.Element:
    place = {"x": _short(letter.x, 0)} if letter.x else {}
    return ET.Element("use", {_HREF: f"#{letter.name}", **place})


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


def _say_once(root: ET.Element) -> None:
    """A style that everything in a group has is the group's; neighbours that are cut off alike are a group."""
    for group in root.iter("g"):
        styles = {child.get("style") for child in group}
        style = group[0].get("style") if len(group) > 1 and len(styles) == 1 else None
        # The opacity of a group is that of its picture: where two of its members overlap, it shows.
        if style is not None and "style" not in group.attrib and not _OPACITY.search(style):
            group.set("style", style)
            for child in group:
                del child.attrib["style"]
    drawn: list[ET.Element] = []
    for (clip, is_moved), run in itertools.groupby(
        root[1:], key=lambda element: (element.get("clip-path"), "transform" in element.attrib)
    ):
        elements = list(run)
        if clip is not None and not is_moved and len(elements) > 1:
            group = ET.Element("g", {"clip-path": clip})
            group.tail = "\n"
            for element in elements:
                del element.attrib["clip-path"]
            group.extend(_tiles(elements))
            elements = [group]
        drawn += elements
    root[1:] = drawn


def _tiles(elements: Sequence[ET.Element]) -> list[ET.Element]:
    """Rectangles that do not overlap are one path for each style; anything else stays as it is."""
    boxes = []
    for element in elements:
        found = _RECTANGLE.fullmatch(element.get("d", "")) if set(element.attrib) == {"d", "style"} else None
        if found is None or float(found[3]) != -float(found[5]):
            return list(elements)
        x, y, wide, high = (float(found[i]) for i in (1, 2, 3, 4))
        boxes.append((min(x, x + wide), max(x, x + wide), min(y, y + high), max(y, y + high)))
    for i, one in enumerate(boxes):
        for other in boxes[:i]:
            if min(one[1], other[1]) - max(one[0], other[0]) > _TOUCH < min(one[3], other[3]) - max(one[2], other[2]):
                return list(elements)
    merged: dict[str, ET.Element] = {}
    for element in elements:
        first = merged.setdefault(element.get("style", ""), element)
        if first is not element:
            first.set("d", first.get("d", "") + element.get("d", ""))
    return list(merged.values())


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
