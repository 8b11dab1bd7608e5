"""Figures on a light and on a dark screen: the same drawing, colours that can be told apart, few bytes."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from helpers import record_factory as factory
from helpers.colours import contrast, over
from matplotlib.figure import Figure
from PIL import Image

from fmcs_bench import svg
from fmcs_bench.core.figure_style import BAND, BLUE, DARK, GRID, INK, MUTED, PAPER, SERIES, house_style
from fmcs_bench.leaderboard import build as leaderboard
from fmcs_bench.leaderboard.figures import answers, evaluators
from fmcs_bench.results.evaluator_board import evaluator_boards

SCHEMES = {"light": {color: color for color in DARK}, "dark": DARK}
CIRCLE = "M 3 0 " + " ".join(
    f"C 0 0 0 0 {3 * np.cos(turn):.6f} {3 * np.sin(turn):.6f}" for turn in np.arange(1, 9) * np.pi / 4
)


def tall() -> Figure:
    """Intervals, dashes, bands, markers of two shapes, names, numbers, a title in bold."""
    return evaluators.evaluator_figure(evaluator_boards(factory.evaluator_records())[0])


def panels() -> Figure:
    """Bands and lines that axes cut off, a second axis."""
    return evaluators.score_figure(evaluator_boards(factory.evaluator_records())[0])


def as_written(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    with house_style():
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def drawing(inside: str) -> ET.Element:
    """What becomes of a drawing."""
    head = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 9 9">'
    return ET.fromstring(svg.adapt(f"{head}{inside}</svg>".encode(), {"#ffffff": "#000000"}))  # noqa: S314


def tags(root: ET.Element) -> list[str]:
    return [element.tag.partition("}")[2] for element in root.iter()]


def only(root: ET.Element, tag: str) -> dict[str, str]:
    (found,) = [element.attrib for element in root.iter() if element.tag.endswith(f"}}{tag}")]
    return found


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_colour_can_be_told_from_its_ground(scheme: str) -> None:
    color = SCHEMES[scheme]
    assert set(SERIES) < set(color)
    for ground in (color[PAPER], color[BAND]):
        assert all(contrast(color[text], ground) >= 4.5 for text in (INK, MUTED)), scheme
        assert all(contrast(color[line], ground) >= 3 for line in SERIES), scheme
        assert contrast(color[GRID], ground) < 1.7, "the grid is behind the data"
    full = over(color[BLUE], color[PAPER], answers.DARKEST)
    assert contrast(color[INK], full) >= 4.5, "numbers on a full cell of the confusion figure"
    assert len({color[line] for line in SERIES}) == len(SERIES)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_figures_have_the_ground_of_the_page(scheme: str) -> None:
    sheet = (Path(leaderboard.__file__).parent / "assets/page.css").read_text(encoding="utf-8")
    light, dark = (
        dict(re.findall(r"--(\w+): (#\w{6})", part)) for part in sheet.split("prefers-color-scheme: dark")[:2]
    )
    own = light if scheme == "light" else dark
    assert [own[name] for name in ("paper", "soft", "line", "ink")] == [
        SCHEMES[scheme][color] for color in (PAPER, BAND, GRID, INK)
    ]


def test_a_figure_is_much_smaller_than_what_matplotlib_writes() -> None:
    figure = tall()
    assert len(evaluators.encode(figure, "svg")) < 0.45 * len(as_written(figure))
    assert len(evaluators.encode(panels(), "svg")) < 0.45 * len(as_written(panels()))


def test_every_reference_has_its_definition_and_every_id_is_used() -> None:
    text = evaluators.encode(tall(), "svg").decode()
    ids = re.findall(r' id="(\w+)"', text)
    assert len(ids) == len(set(ids)) > 20
    assert set(ids) == set(re.findall(r'(?:href="|url\()#(\w+)', text))


def test_groups_that_say_nothing_are_opened_and_what_is_shared_comes_first() -> None:
    root = drawing('<g id="a"><g id="b" transform="scale(2)"><defs><path id="m" d="M 0 0 L 1 1"/></defs>'
                   '<use xlink:href="#m" x="1.23456"/></g></g>')  # fmt: skip
    assert tags(root) == ["svg", "style", "defs", "path", "g", "use"]
    assert only(root, "g") == {"transform": "scale(2)"}
    assert only(root, "use") == {"x": "1", "href": "#a"}
    assert only(root, "path") == {"id": "a", "d": "M0 0l1 1"}


@pytest.mark.parametrize(
    ("path", "short"),
    [
        ("M 0 0 \nL 1.238 -0.001 \nL 2 3 \nz\n", "M0 0h1.2l.8 3z"),
        ("M 0 0 L 1 1 M 2 2 L 3 3", "M0 0l1 1M2 2l1 1"),  # a second M is not a line
        ("M 0 0 Q 1 1 2 2 Q 3 3 4 4", "M0 0q1 1 2 2 1 1 2 2"),
        ("M 5 5 L 5 7 L 8 7 z M 1 1 L 1 2", "M5 5v2h3zM1 1v1"),
        ("M 0 0 C 1 2 3 4 5 6 C 6 7 4 3 0.04 0", "M0 0c1 2 3 4 5 6 1 1-1-3-5-6"),
        (" ".join(["M 0 0", *(f"L {0.04 * i} {i}" for i in range(1, 6))]), "M0 0v1l.1 1v1l.1 1v1"),  # no drift
        ("", ""),
    ],
)
def test_paths_go_in_steps_of_tenths_of_a_point(path: str, short: str) -> None:
    assert only(drawing(f'<path d="{path}"/>'), "path") == {"d": short}


def test_a_circle_is_a_circle_and_a_flat_one_is_not() -> None:
    assert only(drawing(f'<path d="{CIRCLE} z" style="fill: red"/>'), "circle") == {
        "class": "a", "cx": "0", "cy": "0", "r": "3",
    }  # fmt: skip
    flat = re.sub(r"(C 0 0 0 0 \S+) (\S+)", lambda end: f"{end[1]} {float(end[2]) / 2:.6f}", CIRCLE)
    for other in (f"{flat} z", CIRCLE):  # and an open line round a circle is none either
        assert "circle" not in tags(drawing(f'<path d="{other}"/>'))


def text(letters: str, y: int = 0) -> str:
    uses = "".join(
        f'<use xlink:href="#L{letter}" transform="translate({60.4 * i:.6f} 0)"/>' for i, letter in enumerate(letters)
    )
    return f'<g style="fill: #111111" transform="translate(0.123 {y}) scale(0.08 -0.08)">{uses}</g>'


def read(root: ET.Element) -> list[list[tuple[str, float]]]:
    """Letters and places of every text, by what its words are made of."""
    known = {element.get("id"): element for element in root.iter() if element.get("id")}

    def letters(element: ET.Element, x: float) -> list[tuple[str, float]]:
        found = []
        for use in element:
            target, place = known[use.get("href", "")[1:]], x + float(use.get("x", "0"))
            found += letters(target, place) if target.tag.endswith("}g") else [(target.get("d", ""), place)]
        return found

    return [letters(group, 0) for group in root if group.tag.endswith("}g")]


def test_words_that_come_again_are_drawn_once_and_every_letter_stays_where_it_was() -> None:
    names = ("baseline-align", "baseline-none", "baseline", "align none", "b")
    glyphs = {letter: f"M{i} 0 L {i} 9" for i, letter in enumerate(sorted(set("".join(names)) - {" "}), start=1)}
    defs = "".join(f'<path id="L{letter}" d="{d}"/>' for letter, d in glyphs.items()) + '<path id="L " d=""/>'
    root = drawing(f"<defs>{defs}</defs>{''.join(text(name, y) for y, name in enumerate(names))}")
    shown = read(root)
    assert len(shown) == len(names)
    for name, found in zip(names, shown, strict=True):
        kept = [(i, letter) for i, letter in enumerate(name) if letter != " "]
        assert [d for d, _ in found] == [glyphs[letter].replace(" L", "v").split("v")[0] + "v9" for _, letter in kept]
        assert all(abs(x - 60.4 * i) <= 1.5 for (_, x), (i, _) in zip(found, kept, strict=True))
    uses = [element for element in root.iter() if element.tag.endswith("}use")]
    assert len(uses) < 0.75 * sum(map(len, names))


def test_a_style_and_what_cuts_off_are_said_once_for_a_group() -> None:
    same = '<path d="M 0 0 L 1 1" style="fill: #111111"/>'
    root = drawing(f'<g transform="scale(2)">{same}{same}</g>')
    assert only(root, "g") == {"transform": "scale(2)", "class": "a"}
    see_through = same.replace("fill", "opacity: 0.5; fill")
    assert only(drawing(f'<g transform="scale(2)">{see_through}{see_through}</g>'), "g") == {"transform": "scale(2)"}
    cut = same.replace("<path", '<path clip-path="url(#c)"')
    clip = '<defs><clipPath id="c"><rect x="0" y="0" width="1" height="1"/></clipPath></defs>'
    assert only(drawing(f"{clip}{cut}{cut}{same}"), "g") == {"clip-path": "url(#a)"}
    assert tags(drawing(f"{clip}{cut}{cut}{same}")).count("path") == 3
    moved = cut.replace("<path", '<path transform="scale(2)"')  # which moves what cuts it off, too
    assert "g" not in tags(drawing(f"{clip}{moved}{moved}"))


def test_tiles_of_one_colour_are_one_path_and_what_overlaps_is_not() -> None:
    def tile(x: float, color: str) -> str:
        path = f"M {x} 0 L {x + 2} 0 L {x + 2} 2 L {x} 2 z"
        return f'<path d="{path}" clip-path="url(#c)" style="fill: {color}"/>'

    clip = '<defs><clipPath id="c"><rect x="0" y="0" width="9" height="2"/></clipPath></defs>'
    row = [tile(0, "#111111"), tile(2, "#222222"), tile(4, "#111111")]
    paths = [element.get("d") for element in drawing(clip + "".join(row)).iter() if element.tag.endswith("}path")]
    assert paths == ["M0 0h2v2h-2zM4 0h2v2h-2z", "M2 0h2v2h-2z"]
    for other in (tile(5, "#222222"), tile(6, "#333333").replace("L 6 2", "L 7 2")):
        assert tags(drawing(clip + "".join([*row, other]))).count("path") == 4


def test_a_style_is_said_once_and_its_colour_for_both_schemes() -> None:
    root = drawing('<rect style="fill: #ffffff; opacity: 0.4567"/><rect style="fill: #ffffff; opacity: 0.4567"/>'
                   '<rect style="fill: #123456; stroke: #ffffff"/>')  # fmt: skip
    assert [element.get("class") for element in root if element.tag.endswith("rect")] == ["a", "a", "b"]
    light, dark = (root[0].text or "").split("@media (prefers-color-scheme:dark){")
    assert ".a{fill:#ffffff;opacity:0.46}\n.b{fill:#123456;stroke:#ffffff}" in light
    assert dark.split() == [".a{fill:#000000}", ".b{stroke:#000000}", "}"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="the browser is driven by playwright")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium is installed; `apt-get install chromium` does it")
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(
            executable_path=chromium, args=["--headless=new", "--no-sandbox", "--disable-gpu"]
        )
        yield found
        found.close()


def shown(browser: Any, folder: Path, data: bytes, scheme: str) -> np.ndarray:
    """Pixels of a figure in a page, as a reader with this scheme sees it."""
    (folder / "figure.svg").write_bytes(data)
    (folder / "page.html").write_text('<meta name="color-scheme" content="light dark"><img src="figure.svg">')
    page = browser.new_page(color_scheme=scheme, viewport={"width": 1000, "height": 800})
    page.goto((folder / "page.html").as_uri())
    image = page.locator("img")
    image.evaluate("image => image.decode()")
    pixels = np.asarray(Image.open(io.BytesIO(image.screenshot())).convert("RGB")).astype(int)
    page.close()
    return pixels


@pytest.mark.parametrize("make", [tall, panels])
def test_the_browser_draws_what_matplotlib_wrote(browser: Any, tmp_path: Path, make: Any) -> None:
    figure = make()
    before, after = (
        shown(browser, tmp_path, data, "light") for data in (as_written(figure), evaluators.encode(figure, "svg"))
    )
    assert before.shape == after.shape
    assert np.abs(before - after).mean() < 0.5
    assert (np.abs(before - after).max(axis=2) > 60).mean() < 0.002  # edges of letters, by a hundredth of a point


def test_the_browser_draws_it_dark_for_who_prefers_that(browser: Any, tmp_path: Path) -> None:
    light, dark = (shown(browser, tmp_path, evaluators.encode(tall(), "svg"), scheme) for scheme in SCHEMES)
    for pixels, colors in ((light, SCHEMES["light"]), (dark, DARK)):
        there = {f"#{r:02x}{g:02x}{b:02x}" for r, g, b in np.unique(pixels.reshape(-1, 3), axis=0)}
        assert {colors[color] for color in (PAPER, BAND, BLUE, INK)} <= there
    assert PAPER not in {f"#{r:02x}{g:02x}{b:02x}" for r, g, b in np.unique(dark.reshape(-1, 3), axis=0)}
