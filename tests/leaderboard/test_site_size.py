"""The site stays small: bytes of each method and each panel, from which the size at 1,100 records follows."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

import pytest
from helpers import many_records
from helpers import record_factory as factory
from helpers.page_reader import Page

from fmcs_bench.leaderboard import build as leaderboard
from fmcs_bench.training.methods import Method

NAMES = ("conv", "linear", "norm", "set")
PLANS = [(Method(), None, 0.0), *((Method(raf=raf), judge, 0.01) for judge in ("set", "random") for raf in (0.9, 0.5))]
FAMILIES = 2
DATASET = "digits-smallcnn-32px-base"

ASSETS = 660_000
EVALUATOR_PAGE, TRAINING_PAGE = 14_000, 12_000
EVALUATOR_DRAWN, FAMILY_DRAWN, HEAD_DRAWN = 13_000, 11_000, 80_000
"""Bytes of all figures of a board, for each evaluator, each family of methods, and without any."""


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small site, as real ones are made."""
    root = tmp_path_factory.mktemp("site")
    records = [*many_records.evaluators(NAMES), *many_records.trainings(PLANS)]
    factory.write(root / "records", many_records.on(DATASET, records))
    return leaderboard.build(root / "records", root / "out").parent


def sizes(folder: Path, pattern: str) -> list[int]:
    return [path.stat().st_size for path in sorted(folder.rglob(pattern)) if path.is_file()]


def test_each_method_and_panel_has_its_budget(out: Path) -> None:
    evaluators, trainings = (sizes(out / "details" / track, "*.html") for track in ("evaluator", "training"))
    assert len(evaluators) == len(NAMES)
    assert len(trainings) == len(PLANS)
    assert max(evaluators) <= EVALUATOR_PAGE
    assert max(trainings) <= TRAINING_PAGE
    (evaluator_figures,) = {path.parent for path in out.rglob("evaluators.svg")}
    (training_figures,) = {path.parent for path in out.rglob("training.svg")}
    assert sum(sizes(evaluator_figures, "*.svg")) <= HEAD_DRAWN + len(NAMES) * EVALUATOR_DRAWN
    assert sum(sizes(training_figures, "*.svg")) <= HEAD_DRAWN + FAMILIES * FAMILY_DRAWN
    assert sum(sizes(out / "assets", "*")) <= ASSETS


def test_there_is_one_file_for_each_figure(out: Path) -> None:
    drawn = sorted(path.name for path in (out / "figures").rglob("*"))
    assert len([name for name in drawn if name.endswith(".svg")]) == 10
    assert not [name for name in drawn if "dark" in name]
    page = Page(out / "index.html")
    assert len({source for source in page.sources if source.startswith("figures/")}) == 10


def test_what_all_seeds_share_is_said_once(out: Path) -> None:
    (path,) = out.rglob("details/training/**/ral-set@0.9.html")
    text = path.read_text(encoding="utf-8")
    once = ("Linux-6.8.0", "scikit-learn", "recipe.optimizer", "method.raf", "a processor, 2 logical cores")
    assert [text.count(words) for words in once] == [1] * len(once)
    assert unquote(text).count("seed-3.json") == 1


def test_a_long_curve_is_shown_at_ten_places(out: Path) -> None:
    (path,) = out.rglob("details/evaluator/**/conv.html")
    (table,) = [table for table in Page(path).tables if table.rows[0][0].text == "Step"]
    steps = [int(row[0].text.replace(",", "")) for row in table.rows[1:]]
    every = many_records.evaluators(["conv"])[0].trajectory.step
    assert len(steps) == 10 < len(every)
    assert (steps[0], steps[-1]) == (every[0], every[-1])
    assert steps == sorted(set(steps) & set(every))
    assert f"(10 of {len(every)}; the record has all)" in path.read_text(encoding="utf-8")


def test_what_seeds_do_not_share_stands_beside_them(tmp_path: Path) -> None:
    records = many_records.on(DATASET, many_records.trainings(PLANS[:1]))
    other = records[0].environment.model_copy(update={"device": "cuda", "threads": 4})
    records[3] = records[3].model_copy(update={"environment": other})
    factory.write(tmp_path / "records", records)
    leaderboard.build(tmp_path / "records", tmp_path / "out")
    (path,) = (tmp_path / "out").rglob("details/training/**/*.html")
    rows = {row[0].text: row[1].text for table in Page(path).tables for row in table.rows[1:] if row[0].tag == "th"}
    assert rows["device"] == "cpu (seed 0, 1, 2, 4); cuda (seed 3)"
    assert rows["threads"] == "2 (seed 0, 1, 2, 4); 4 (seed 3)"
    assert rows["python"] == "3.11.7"
    assert rows["seed"] == "0, 1, 2, 3, 4"
