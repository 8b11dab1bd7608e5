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
import record_factory as factory
from colours import contrast, over
from matplotlib.figure import Figure
from PIL import Image

from fmcs_bench import answer_plots, boards, leaderboard, plots, svg
from fmcs_bench.plot_style import BAND, BLUE, DARK, GRID, INK, MUTED, PAPER, SERIES, house_style

SCHEMES = {"light": {color: color for color in DARK}, "dark": DARK}
CIRCLE = "M 3 0 " + " ".join(
    f"C 0 0 0 0 {3 * np.cos(turn):.6f} {3 * np.sin(turn):.6f}" for turn in np.arange(1, 9) * np.pi / 4
)


def tall() -> Figure:
    """Intervals, dashes, bands, markers of two shapes, names, numbers, a title in bold."""
    return plots.evaluator_figure(boards.evaluator_boards(factory.evaluator_records())[0])


def panels() -> Figure:
    """Bands and lines that axes cut off, a second axis."""
    return plots.score_figure(boards.evaluator_boards(factory.evaluator_records())[0])


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
    full = over(color[BLUE], color[PAPER], answer_plots.DARKEST)
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
    assert len(plots.encode(figure, "svg")) < 0.62 * len(as_written(figure))
    assert len(plots.encode(panels(), "svg")) < 0.66 * len(as_written(panels()))


def test_every_reference_has_its_definition_and_every_id_is_used() -> None:
    text = plots.encode(tall(), "svg").decode()
    ids = re.findall(r' id="(\w+)"', text)
    assert len(ids) == len(set(ids)) > 20
    assert set(ids) == set(re.findall(r'(?:href="|url\()#(\w+)', text))


def test_groups_that_say_nothing_are_opened_and_what_is_shared_comes_first() -> None:
    root = drawing('<g id="a"><g id="b" transform="scale(2)"><defs><path id="m" d="M 0 0 L 1 1"/></defs>'
                   '<use xlink:href="#m" x="1.23456"/></g></g>')  # fmt: skip
    assert tags(root) == ["svg", "style", "defs", "path", "g", "use"]
    assert only(root, "g") == {"transform": "scale(2)"}
    assert only(root, "use") == {"x": "1.23", "{http://www.w3.org/1999/xlink}href": "#a"}
    assert only(root, "path") == {"id": "a", "d": "M0 0L1 1"}


@pytest.mark.parametrize(
    ("path", "short"),
    [
        ("M 0 0 \nL 1.238 -0.001 \nL 2 3 \nz\n", "M0 0L1.24 0 2 3z"),
        ("M 0 0 L 1 1 M 2 2 L 3 3", "M0 0L1 1M2 2L3 3"),  # a second M is not a line
        ("M 0 0 Q 1 1 2 2 Q 3 3 4 4", "M0 0Q1 1 2 2 3 3 4 4"),
        ("", ""),
    ],
)
def test_paths_keep_hundredths_of_a_point(path: str, short: str) -> None:
    assert only(drawing(f'<path d="{path}"/>'), "path") == {"d": short}


def test_a_circle_is_a_circle_and_a_flat_one_is_not() -> None:
    assert only(drawing(f'<path d="{CIRCLE} z" style="fill: red"/>'), "circle") == {
        "class": "a", "cx": "0", "cy": "0", "r": "3",
    }  # fmt: skip
    flat = re.sub(r"(C 0 0 0 0 \S+) (\S+)", lambda end: f"{end[1]} {float(end[2]) / 2:.6f}", CIRCLE)
    for other in (f"{flat} z", CIRCLE):  # and an open line round a circle is none either
        assert "circle" not in tags(drawing(f'<path d="{other}"/>'))


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
        shown(browser, tmp_path, data, "light") for data in (as_written(figure), plots.encode(figure, "svg"))
    )
    assert before.shape == after.shape
    assert np.abs(before - after).mean() < 0.5
    assert (np.abs(before - after).max(axis=2) > 60).mean() < 0.002  # edges of letters, by a hundredth of a point


def test_the_browser_draws_it_dark_for_who_prefers_that(browser: Any, tmp_path: Path) -> None:
    light, dark = (shown(browser, tmp_path, plots.encode(tall(), "svg"), scheme) for scheme in SCHEMES)
    for pixels, colors in ((light, SCHEMES["light"]), (dark, DARK)):
        there = {f"#{r:02x}{g:02x}{b:02x}" for r, g, b in np.unique(pixels.reshape(-1, 3), axis=0)}
        assert {colors[color] for color in (PAPER, BAND, BLUE, INK)} <= there
    assert PAPER not in {f"#{r:02x}{g:02x}{b:02x}" for r, g, b in np.unique(dark.reshape(-1, 3), axis=0)}
