"""Examples in the documentation run, links lead somewhere, and the README shows the committed results."""

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest
from conftest import subprocess_environment

import fmcs_bench as fb
from fmcs_bench.cli.main import main

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "data_cards/README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_python_examples_run_in_order(tmp_path):
    examples = [block for page in PAGES for block in blocks(page, "python")]
    assert len(examples) >= 2
    script = tmp_path / "examples.py"
    script.write_text("\n".join(examples))
    done = subprocess.run(
        [sys.executable, "-W", "error", script],
        capture_output=True, text=True, cwd=tmp_path, env=subprocess_environment(), check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Evaluators on digits-smallcnn-16px-base@" in done.stdout
    assert "index.html" in done.stdout
    assert "not loaded" in done.stdout  # a selection of maps
    assert "ral-norm" in done.stdout  # trainings


def test_commands_exist():
    commands = re.findall(r"^fmcs-bench ([a-z]+)(?: ([a-z]+))?", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
    assert len(commands) >= 6
    for name, second in commands:
        command = main.commands[name]
        if hasattr(command, "commands"):
            assert second in command.commands


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if not target.startswith("https://"):
            assert (page.parent / unquote(target)).exists(), f"{page.name} links to {target}"


def test_the_python_page_has_every_public_function():
    functions = [getattr(fb, name) for name in fb.__all__ if not name.startswith("__")]
    shown = re.findall(r"^::: ([\w.]+)$", (ROOT / "docs/api.md").read_text(), re.MULTILINE)
    missing = [f"{f.__module__}.{f.__name__}" for f in functions if f.__module__ not in shown]
    assert [name for name in missing if name not in shown] == []


def test_the_readme_shows_the_committed_results():
    made = runpy.run_path(str(ROOT / "docs/readme.py"))
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert made["readme"](text) == text, "type `python docs/readme.py`"
    assert made["picture"]() == (ROOT / "docs/pictures/evaluators.svg").read_text(encoding="utf-8")


def test_readme_and_pages_stay_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
    assert sum(len(page.read_text(encoding="utf-8").split()) for page in (ROOT / "docs").glob("*.md")) <= 16_000


def test_on_the_documentation_site_tables_sort():
    base = pytest.importorskip("mkdocs.config.base", reason="mkdocs is not installed; the extra `docs` has it")
    from mkdocs.structure.files import Files

    from fmcs_bench.leaderboard.build import Results

    hooks = runpy.run_path(str(ROOT / "docs/site_hooks.py"))
    config = base.load_config(str(ROOT / "mkdocs.yml"))
    config.plugins._current_plugin = None  # mkdocs sets it while a hook runs
    hooks["on_files"].__globals__["results"] = lambda: Results([])  # the boards of all results take a while to draw
    files = hooks["on_files"](Files([]), config=config)
    assert b"window.DataTable=" in files.get_file_from_path("leaderboard/assets/datatables.js").content_bytes
    assert files.get_file_from_path("leaderboard/assets/page.js") is not None


def measured_tables(text: str) -> list[tuple[str, str]]:
    """Name of the committed result, and the table that shows it."""
    return re.findall(r"<!-- ([\w-]+\.json) -->\n\n(.*?)\n(?:\n|\Z)", text, flags=re.DOTALL)


def test_the_ideas_for_an_evaluator_have_the_errors_that_were_measured():
    text = (ROOT / "docs/evaluators.md").read_text(encoding="utf-8")
    ((name, table),) = measured_tables(text)
    result = json.loads((ROOT / "benchmarks/results" / name).read_text(encoding="utf-8"))
    measured = [result[key]["mae"] for key in result if "@" in key]
    rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    assert [idea for idea, *_ in rows] == sorted(measured[0], key=measured[0].get)
    for idea, *shown in rows:
        assert [float(value) for value in shown] == [mae[idea] for mae in measured]


def test_the_page_on_speed_shows_the_committed_results_and_rounds_nothing_up():
    text = (ROOT / "docs/performance.md").read_text(encoding="utf-8")
    tables = measured_tables(text)
    assert len(tables) == 7
    for name, table in tables:
        result = json.loads((ROOT / "benchmarks/results" / name).read_text(encoding="utf-8"))
        rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
        assert len(rows) >= 4
        for what, path, shown_value, goal in rows:
            value = result
            for key in path.split("/"):
                value = value[key]
            last_digit = 10.0 ** -len(shown_value.partition(".")[2])
            lost = value - float(shown_value.replace(",", ""))
            assert -1e-9 <= (-lost if goal.startswith("at most") else lost) < last_digit, (what, value, shown_value)
            if goal:
                limit = float(goal.removeprefix("at most ").removesuffix(", missed").replace(",", ""))
                reached = value <= limit if goal.startswith("at most") else value >= limit
                assert reached != goal.endswith(", missed"), (what, value, goal)
