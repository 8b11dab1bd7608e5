"""Tables of the training board beyond those that every page shows: choice, seeds, score, epoch, best epoch on test."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import record_factory as factory

from fmcs_bench.leaderboard import tables
from fmcs_bench.leaderboard.cells import Cell, Table
from fmcs_bench.leaderboard.training_figures import training_figures
from fmcs_bench.results.training_board import TrainingBoard, training_boards
from fmcs_bench.training.methods import Method


@pytest.fixture(scope="module")
def board() -> TrainingBoard:
    plans = [(Method(), None, 0.0), *((Method(raf=raf), "set", 0.01) for raf in (0.9, 0.75, 0.5))]
    records = factory.watched_records([*plans, (Method(raf=0.9), "random", 0.02)], num_epochs=6)
    (found,) = training_boards(records)
    return found


def rows(table: Table) -> dict[str, dict[str, Cell]]:
    names = [column.name for column in table.columns]
    return {row.cells[0].text: dict(zip(names, row.cells, strict=True)) for row in table.rows}


def test_score_epoch_and_best_epoch_on_test_have_columns_where_records_have_them(board: TrainingBoard) -> None:
    found = rows(tables.training_table(board))
    point = next(row for row in board.rows if row.family == "ral-set").chosen
    cells = found["ral-set"]
    assert point.score is not None
    assert point.epoch is not None
    assert point.best_test_accuracy is not None
    assert point.score_difference is not None
    assert cells["Score, mean"][1:4] == point.score[:3]
    assert cells["Score difference, stages"][1:4] == point.score_difference.estimate[:3]
    assert cells["Epoch, chosen"].value == point.epoch.mean
    assert cells["Best epoch on test, flatters"][1:4] == point.best_test_accuracy[:3]
    assert found["baseline"]["Score difference, stages"].value is None
    assert {column.name for column in tables.TRAINING_COLUMNS} == set(cells)  # all of them are explained
    (plain,) = training_boards(factory.training_records(2))
    names = [column.name for column in tables.training_table(plain).columns]
    assert not [name for name in names if name.startswith(("Score", "Epoch", "Best"))]


def test_controls_are_marked_in_every_table(board: TrainingBoard) -> None:
    for table in (tables.training_table(board), tables.sweep_table(board), tables.seed_table(board)):
        found = rows(table)
        assert found["ral-random-set"]["Method"].mark == "control"
        assert "control" not in found["ral-set"]["Method"].mark


def test_the_caption_names_the_smallest_p_that_is_possible(board: TrainingBoard) -> None:
    caption = tables.training_table(board).caption
    assert "no p here can be below 0.0625, and none below 0.125 after the correction for 2 rows" in caption
    assert rows(tables.training_table(board))["ral-set"]["p, smallest"].text == "0.0625"
    (one,) = training_boards(factory.training_records(1))
    assert "no p here" not in tables.training_table(one).caption


def test_the_choice_table_has_the_optimism_of_methods_that_had_a_choice(board: TrainingBoard) -> None:
    found = rows(tables.choice_table(board))
    choice = next(row.choice for row in board.rows if row.family == "ral-set")
    assert choice is not None
    assert list(found) == ["ral-set"]
    cells = found["ral-set"]
    for name, value in {
        "Optimism, validation, pp": choice.validation.points,
        "Optimism, headline, pp": choice.headline.points,
        "Added by test, pp": choice.added_by_test,
        "Optimism, test, pp": choice.test.points,
        "RAF, by test": choice.picked_on_test.raf,
    }.items():
        assert cells[name].value == pytest.approx(value, abs=1e-12)
    added = f"{100 * choice.added_by_test:.2f}"
    assert f"added {added} to {added} percentage points of test accuracy (mean of 1 method: {added})" in (
        tables.choice_summary(board)
    )


def test_what_was_not_chosen_has_neither_summary_nor_rows() -> None:
    (board,) = training_boards([factory.training_record(raf, seed) for raf in (1.0, 0.9) for seed in range(2)])
    assert tables.choice_summary(board) == ""
    assert tables.choice_table(board).rows == ()


def test_the_seed_table_has_every_seed_and_a_dash_where_one_is_missing() -> None:
    records = [factory.training_record(seed=seed, test=0.5 + seed / 10) for seed in (0, 1, 3)]
    records += [factory.training_record(0.9, seed, test=0.6) for seed in (0, 1)]
    (board,) = training_boards(records)
    found = rows(tables.seed_table(board))
    assert [found["baseline"][f"Seed, {seed}"].value for seed in (0, 1, 3)] == [0.5, 0.6, 0.8]
    assert found["baseline"]["Seed, 3"].text == "80.0"
    assert found["ral-set"]["Seed, 3"].value is None


def test_the_sweep_table_has_every_number_of_every_point(board: TrainingBoard) -> None:
    table = tables.sweep_table(board)
    points = [point for row in board.rows for point in row.sweep]
    assert len(table.rows) == len(points)
    names = [column.name for column in table.columns]
    for point, row in zip(points, table.rows, strict=True):
        cells = dict(zip(names, row.cells, strict=True))
        test = [record.metrics.test_accuracy for record in point.records]
        assert cells["Spread, test, pp"].value == pytest.approx(np.std(test, ddof=1))
        assert cells["RAF"].value == point.raf
        if point.difference is not None:
            assert cells["Difference, pp"].value == point.difference.estimate.mean
            assert cells["Detectable, pp"].value == point.difference.detectable


def test_every_picture_has_a_text_alternative_with_its_finding(board: TrainingBoard) -> None:
    pictures = training_figures(board)
    assert set(pictures) == {"training", "raf", "accuracy-curves", "score-curves", "score-accuracy"}
    assert "Largest of a method: ral-set" in pictures["training"][1]
    assert "Of 2, the interval of 2 is above 0 in score" in pictures["score-accuracy"][1]
