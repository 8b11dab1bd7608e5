"""The leaderboard in a real browser, opened from disk: Chromium, driven by Playwright."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from helpers import record_factory as factory

import fmcs_bench as fb
from fmcs_bench.results.records import EvaluatorRecord

playwright = pytest.importorskip("playwright.sync_api", reason="the browser is driven by playwright, a test dependency")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed; `apt-get install chromium` does it"),
    pytest.mark.xdist_group("browser"),  # one site and one browser, not one in every process of the tests
]

FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
DESKTOP = {"width": 1280, "height": 800}
PHONE = {"width": 390, "height": 844}


class Site(NamedTuple):
    """The site on disk, and a browser with a profile of its own."""

    index: Path
    browser: Any


def hostile(record: EvaluatorRecord) -> EvaluatorRecord:
    """The same record from a machine whose names are markup."""
    environment = record.environment.model_copy(update={"processor": HOSTILE, "device": HOSTILE})
    return record.model_copy(update={"environment": environment, "created": HOSTILE})


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One site for all tests, which only read it."""
    root = tmp_path_factory.mktemp("site")
    factory.write(root / "records", [*map(hostile, factory.evaluator_records(2)), *factory.training_records(2)])
    index = fb.build_leaderboard(workspace=root)
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))  # with a new, empty profile
        yield Site(index, browser)
        browser.close()


@pytest.fixture
def page(site: Site, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A page of the site; whatever a test does, nothing leaves the folder and the console stays empty."""
    context = site.browser.new_context(**{"viewport": DESKTOP} | getattr(request, "param", {}))
    page = context.new_page()
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(site.index.as_uri())
    yield page
    context.close()
    inside = site.index.parent.as_uri()
    assert [url for url in asked if not url.startswith((inside, "data:"))] == []
    assert len(asked) > 3
    assert said == []


def contrast(one: str, other: str) -> float:
    """Contrast of two CSS colours by WCAG 2.2."""

    def luminance(color: str) -> float:
        parts = [int(part) / 255 for part in re.findall(r"\d+", color)[:3]]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def board(page: Any) -> Any:
    return page.get_by_role("table", name="Evaluators on")


def column(table: Any, place: int) -> list[str]:
    return [" ".join(text.split()) for text in table.locator(f"tbody tr > :nth-child({place})").all_text_contents()]


def names(table: Any) -> list[str]:
    return [text.split()[0] for text in column(table, 2)]


def test_a_heading_sorts_by_number_with_mouse_and_keyboard(page: Any) -> None:
    table = board(page)
    by_rank = names(table)
    heading = table.get_by_role("columnheader", name="Fit")
    heading.click()
    playwright.expect(heading).to_have_attribute("aria-sort", "ascending")
    place = 1 + table.get_by_role("columnheader").all_text_contents().index(heading.text_content())
    seconds = [float(text) for text in column(table, place)]
    assert seconds == sorted(seconds)
    heading.get_by_role("button").press("Enter")
    playwright.expect(heading).to_have_attribute("aria-sort", "descending")
    assert [float(text) for text in column(table, place)] == sorted(seconds, reverse=True)
    assert names(table) != by_rank
    assert sorted(names(table)) == sorted(by_rank)


def test_a_word_filters_rows_and_the_number_of_rows_is_told(page: Any) -> None:
    region = page.get_by_role("region", name="Evaluators on")
    region.get_by_label("Filter rows").fill("res")
    assert names(board(page)) == ["resnet"]
    assert region.get_by_role("status").text_content() == "1 rows of 7"
    region.get_by_label("Filter rows").fill("nobody")
    assert "No row holds these words" in board(page).text_content()
    region.get_by_label("Filter rows").fill("")
    assert len(names(board(page))) == 7


def test_a_row_opens_its_page_and_the_page_leads_back(page: Any) -> None:
    board(page).get_by_role("link", name="conv", exact=True).click()
    page.wait_for_url("**/details/**/conv.html")
    assert page.get_by_role("heading", level=1).text_content() == "conv"
    assert page.get_by_role("table", name="Metrics").locator("tbody tr").count() == 2 * 4  # seeds, subsets
    command = "fmcs-bench evaluate digits-smallcnn-32px-base --evaluator conv --seeds 2 --device"
    assert page.locator("#command").text_content().startswith(command)
    page.locator("summary", has_text="train loss").click()
    assert page.get_by_role("table", name="train loss").locator("tbody tr").count() == 2
    page.get_by_role("link", name="All results").click()
    page.wait_for_url("**/index.html#evaluators-*")


def test_the_first_tab_leads_past_the_head(page: Any) -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"


def test_a_row_has_an_address_that_lasts(page: Any) -> None:
    link = board(page).get_by_role("link", name="Link to the row of conv", exact=True)
    anchor = link.get_attribute("href")
    assert page.locator(f'[id="{anchor[1:]}"] th').text_content().split() == ["conv", "#"]
    link.click()
    assert page.url.endswith(anchor)


@pytest.mark.parametrize("allowed", [True, False], ids=["clipboard", "no clipboard"])
def test_the_citation_can_be_copied(page: Any, allowed: bool) -> None:
    if allowed:
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        said, kept = "Copied", "navigator.clipboard.readText()"
    else:
        page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(new Error('not allowed')); }")
        said, kept = "Selected, press Ctrl+C", "getSelection().toString()"
    page.get_by_role("button", name="Copy").click()
    page.get_by_role("button", name=said).wait_for()
    assert "@software{fmcs_bench," in page.evaluate(kept)


@pytest.mark.parametrize(
    "page", [{"color_scheme": "light"}, {"color_scheme": "dark"}], indirect=True, ids=["light", "dark"]
)
def test_both_colour_schemes_are_readable(page: Any, request: pytest.FixtureRequest) -> None:
    color = "element => getComputedStyle(element)"
    dark = "dark" in request.node.callspec.id
    paper = page.locator("body").evaluate(f"{color}.backgroundColor")
    assert (contrast(paper, "rgb(0, 0, 0)") < 2) == dark
    for selector in ("h1", "td.number", "td small", "nav a", "figcaption", "caption", ".mark", ".dt-search label"):
        own = page.locator(selector).first.evaluate(f"{color}.color")
        assert contrast(own, paper) >= 4.5, selector
    picture = page.locator("figure img").first
    picture.scroll_into_view_if_needed()
    assert picture.evaluate("img => img.decode().then(() => img.naturalWidth > 0)")


@pytest.mark.parametrize(
    "page", [{"viewport": PHONE, "has_touch": True, "is_mobile": True}], indirect=True, ids=["phone"]
)
def test_on_a_phone_wide_tables_scroll_in_their_box_and_the_page_does_not(page: Any) -> None:
    def widths() -> list[int]:
        return page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth, innerWidth]")

    page.evaluate("document.querySelectorAll('details').forEach(fold => (fold.open = true))")
    assert widths() == [PHONE["width"]] * 3
    region = page.get_by_role("region", name="Evaluators on")
    assert region.evaluate("box => box.scrollWidth > box.clientWidth")
    region.evaluate("box => box.scrollTo(300, 0)")
    assert region.get_by_label("Filter rows").bounding_box()["x"] >= 0  # the filter stays where it is
    board(page).get_by_role("link", name="conv", exact=True).click()
    page.wait_for_url("**/conv.html")
    assert widths() == [PHONE["width"]] * 3


@pytest.mark.parametrize("page", [{"java_script_enabled": False}], indirect=True, ids=["no script"])
def test_without_javascript_all_tables_and_records_are_there(page: Any) -> None:
    assert len(names(board(page))) == len(factory.EVALUATORS)
    assert page.get_by_role("table", name="Training methods on").is_visible()
    assert page.get_by_role("button", name="Copy").count() == 0
    assert page.get_by_text("Filter rows").count() == 0
    assert page.locator("noscript p").is_visible()  # by text nothing in a noscript is found
    board(page).get_by_role("link", name="conv", exact=True).click()
    page.wait_for_url("**/conv.html")
    assert page.get_by_role("table", name="Metrics").is_visible()


def test_a_hostile_name_is_text(page: Any) -> None:
    board(page).get_by_role("link", name="conv", exact=True).click()
    page.wait_for_url("**/conv.html")
    page.locator("summary", has_text="Software and hardware").click()
    assert HOSTILE in page.get_by_role("table", name="Software and hardware").text_content()
    assert HOSTILE in page.get_by_role("table", name="Costs").text_content()
    assert "owned" not in page.title()
    assert page.locator("img[src=x]").count() == 0


def test_every_table_box_and_control_has_a_name(page: Any) -> None:
    page.evaluate("document.querySelectorAll('details').forEach(fold => (fold.open = true))")
    for role in ("table", "region", "searchbox", "button", "link", "img", "columnheader", "navigation"):
        found = page.get_by_role(role)
        assert found.count() > 0, role
        unnamed = found.filter(has_not=page.locator("*")).evaluate_all(
            "all => all.filter(e => !(e.textContent || e.alt || e.ariaLabel || e.labels?.length)).map(e => e.outerHTML)"
        )
        assert unnamed == [], role
    assert page.locator("main, header, footer, nav[aria-label]").count() == 4
    levels = [int(tag[1]) for tag in page.locator("h1, h2, h3, h4").evaluate_all("all => all.map(e => e.tagName)")]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
