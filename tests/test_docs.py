"""Examples in the documentation run, their links lead somewhere, and the README's numbers are the records'."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest
from conftest import subprocess_environment

from fmcs_bench.boards import evaluator_boards, training_boards
from fmcs_bench.cli import main
from fmcs_bench.records import EvaluatorRecord, RecordStore, TrainingRecord

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "data_cards/README.md", *sorted((ROOT / "docs").glob("*.md"))]
STORE = RecordStore(ROOT / "leaderboard/records")
DATASET = "digits-smallcnn-32px-base"


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
    assert "records checked: no faults" in done.stdout


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


def readme_rows(heading):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text.split(f"<!-- {heading} -->")[1].strip().split("\n\n")[0]
    return [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def shown(estimate, scale=1.0, form="{:.3f}"):
    low, high = (form.format(scale * value) for value in (estimate.low, estimate.high))
    return f"{form.format(scale * estimate.mean)} [{low}, {high}]"


def test_the_readme_shows_the_evaluator_records():
    (board,) = (b for b in evaluator_boards(STORE.all(EvaluatorRecord)) if b.dataset_id.startswith(f"{DATASET}@"))
    expected = [
        [row.evaluator, shown(row.mae["test_run"]), shown(row.mae["same_run"]), f"{row.accuracy['test_run'].mean:.1%}"]
        for row in board.rows
    ]
    assert readme_rows("evaluators") == expected
    assert all(len(row.records) == 5 for row in board.rows)


def test_the_readme_shows_the_training_records():
    (board,) = (b for b in training_boards(STORE.all(TrainingRecord)) if b.dataset_id.startswith(f"{DATASET}@"))
    expected = [
        [
            row.family,
            f"{row.chosen.raf:g}",
            shown(row.chosen.test_accuracy, 100, "{:.1f}"),
            "" if row.difference is None else shown(row.difference.estimate, 100, "{:+.2f}"),
            "" if row.holm_p is None else f"{row.holm_p:.2f}",
        ]
        for row in board.rows
    ]
    assert readme_rows("training") == expected


def test_the_committed_page_is_the_one_that_the_records_give(tmp_path):
    from fmcs_bench import leaderboard

    shutil.copytree(ROOT / "leaderboard", tmp_path / "leaderboard")
    shutil.copytree(ROOT / "data_cards", tmp_path / "data_cards")
    leaderboard.build(tmp_path / "leaderboard/records", tmp_path / "leaderboard", datasets=[tmp_path / "data_cards"])
    for path in (tmp_path / "leaderboard").rglob("*"):
        if path.suffix in (".html", ".md"):
            committed = ROOT / "leaderboard" / path.relative_to(tmp_path / "leaderboard")
            assert path.read_bytes() == committed.read_bytes(), (
                f"{committed.name}: `fmcs-bench leaderboard build --root leaderboard`"
            )


def test_the_page_on_speed_shows_the_committed_results_and_rounds_nothing_up():
    text = (ROOT / "docs/performance.md").read_text(encoding="utf-8")
    tables = re.findall(r"<!-- ([\w-]+\.json) -->\n\n(.*?)\n\n", text, flags=re.DOTALL)
    assert len(tables) == 5
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
