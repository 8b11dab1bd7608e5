"""Every view of a board shows what its rows have: at a terminal, in a pipe, in Markdown, as a DataFrame."""

from __future__ import annotations

import io
from typing import Any

import pytest
from helpers import record_factory as factory
from rich.console import Console

from fmcs_bench.cli import tables
from fmcs_bench.results.board import Column, Table
from fmcs_bench.results.evaluator_board import EVALUATOR_COLUMNS, EvaluatorBoard, evaluator_boards
from fmcs_bench.results.statistics import Estimate, Rank, estimate
from fmcs_bench.results.training_board import TRAINING_COLUMNS, TrainingBoard, training_boards
from fmcs_bench.training.methods import Method


def evaluator_board(*records: factory.EvaluatorRecord) -> EvaluatorBoard:
    (board,) = evaluator_boards(records)
    return board


def training_board(*records: factory.TrainingRecord) -> TrainingBoard:
    (board,) = training_boards(records)
    return board


def watched_board() -> TrainingBoard:
    plans = [(Method(), None, 0.0), *((Method(raf=raf), "set", 0.01) for raf in (0.9, 0.75, 0.5))]
    return training_board(*factory.watched_records(plans, num_epochs=6))


def printed(board: EvaluatorBoard | TrainingBoard, *, terminal_width: int | None) -> str:
    stream = io.StringIO()
    console = Console(
        file=stream, width=terminal_width or 40, force_terminal=terminal_width is not None, color_system=None
    )
    tables.print_board(board, console)
    return stream.getvalue()


@pytest.mark.parametrize("width", [80, 100, None])
def test_the_evaluator_table_shows_every_row_with_its_interval_and_marks_the_chosen(width: int | None) -> None:
    names = ("conv", "conv~permuted", "boosting", "invariants", "chance")
    board = evaluator_board(*(factory.evaluator_record(name, seed, mae=0.5 + i / 10 + seed / 50, control="~" in name)
                              for i, name in enumerate(names) for seed in range(5)))  # fmt: skip
    lines = printed(board, terminal_width=width).splitlines()
    for row in board.rows:
        (line,) = [line for line in lines if f" {row.evaluator} " in line]
        assert str(row.mae["test_run"]) in line
        assert line.split()[0] == str(row.rank)
        assert ("(chosen)" in line) == row.chosen
    assert max(map(len, lines)) <= (width or 140)


@pytest.mark.parametrize("width", [80, None])
def test_other_datasets_have_a_table_of_their_own(width: int | None) -> None:
    others = ("digits-resnet18-32px-base@0123456789ab", "mnist-smallcnn-32px-base@ba9876543210")
    board = evaluator_board(
        *(factory.evaluator_record("set", seed, mae=0.4, test_on={others[0]: 0.5 + seed / 10, others[1]: 0.7})
          for seed in range(3)),
        factory.evaluator_record("norm", 0, mae=0.9, test_on={others[0]: 0.8}),
        factory.evaluator_record("norm", 1, mae=0.9),
    )  # fmt: skip
    assert board.tested_on == sorted(others)
    lines = printed(board, terminal_width=width).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("The same fits"))
    (of_set,) = [line for line in lines[start:] if line.startswith("set ")]
    (of_norm,) = [line for line in lines[start:] if line.startswith("norm ")]
    assert str(board.rows[0].test_on[others[0]]) in of_set
    assert of_norm.split() == ["norm", "-", "-"]  # one seed of two is not enough
    assert board.frame()[f"mae_on_{others[0]}"].isna().tolist() == [False, True]


@pytest.mark.parametrize("width", [100, None])
def test_the_training_table_shows_every_row_with_its_difference(width: int | None) -> None:
    board = training_board(*factory.training_records())
    text = printed(board, terminal_width=width)
    assert "p is at least 0.0625" in " ".join(text.split())
    for row in board.rows:
        main = text.split("What choosing")[0].splitlines()
        (line,) = [line for line in main if line.startswith(f"{row.family} ")]
        assert ("(control)" in line) == row.control
        if row.difference is not None:
            mean, low, high = (100 * value for value in row.difference.estimate[:3])
            assert f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]" in line
    assert max(map(len, text.splitlines())) <= (width or 140)


@pytest.mark.parametrize("width", [100, None])
def test_choice_of_raf_and_score_have_tables_of_their_own(width: int | None) -> None:
    board = watched_board()
    text = printed(board, terminal_width=width)
    choice, score = text.split("What choosing")[1].split("Mean score")
    row: Any = next(row for row in board.rows if row.family == "ral-set")
    (line,) = [line for line in choice.splitlines() if line.startswith("ral-set ")]
    assert float(line.split()[2]) == pytest.approx(100 * row.choice.validation.points, abs=0.0051)
    assert float(line.split()[4]) == row.choice.picked_on_test.raf
    (line,) = [line for line in score.splitlines() if line.startswith("ral-set ")]
    assert f"{row.chosen.score.mean:.2f} [" in line
    assert f"{row.chosen.score_difference.estimate.mean:+.2f} [" in line


def test_the_sweep_shows_every_raf_and_the_seeds_every_seed() -> None:
    board = watched_board()
    sweep, seeds = board.table("sweep"), board.table("seeds")
    assert [(cells[0].mark, cells[1].text) for cells in sweep.cells if cells[0].text == "ral-set"].count(
        ("chosen", f"{board.table('choice').rows[0].point.raf:g}")
    ) == 1
    assert len(sweep.rows) == 4
    assert [column.label for column in seeds.columns[2:]] == [f"Seed, {seed}" for seed in range(5)]
    record = seeds.rows[0].point.records[3]
    assert seeds.cells[0][5].text == f"{100 * record.metrics.test_accuracy:.1f}"


def test_markdown_shows_what_the_page_shows_and_nothing_of_a_name_is_markup() -> None:
    table = evaluator_board(factory.evaluator_record("a_b"), factory.evaluator_record("a_b", 1)).table("page")
    head, _, row = (line.strip("| ").split(" | ") for line in table.markdown().splitlines())
    assert head == [column.label for column in table.columns]
    assert row[1] == r"a\_b (chosen)"
    assert row[2].replace("\\", "") == str(table.cells[0][2])


@pytest.mark.parametrize(
    ("board", "columns"),
    [
        (evaluator_board(*factory.evaluator_records()), EVALUATOR_COLUMNS),
        (watched_board(), [column for column in TRAINING_COLUMNS if column.name != "method_at_raf"]),
    ],
)
def test_the_frame_has_every_number_of_a_board_as_it_was_computed(board: Any, columns: list[Column[Any]]) -> None:
    frame, view = board.frame(), board.table("page")
    assert len(frame) == len(board.rows)
    for i, row in enumerate(view.rows):
        for column in columns:
            match column.value(row):
                case Estimate() as value:
                    found = frame[[column.name, f"{column.name}_low", f"{column.name}_high"]].iloc[i]
                    assert tuple(found) == value[:3]
                case Rank() as value:
                    assert tuple(frame[[f"{column.name}_best", f"{column.name}_worst"]].iloc[i]) == value
                case None:
                    assert frame[column.name].isna().iloc[i]
                case value:
                    assert frame[column.name].iloc[i] == value


def test_every_column_of_a_page_has_a_meaning_and_every_name_is_there_once() -> None:
    for columns in (EVALUATOR_COLUMNS, TRAINING_COLUMNS):
        assert all(column.meaning for column in columns)
        assert len({column.name for column in columns}) == len(columns)


def test_a_cell_leaves_the_interval_out_where_the_view_is_brief_and_shows_no_minus_zero() -> None:
    column: Column[Any] = Column("x", "X", lambda row: row, views="full", brief="short", optional=True)
    value = estimate([1.0, 2.0])
    assert str(column.cell(value, "full")) == str(value)
    assert column.cell(value, "short")[:2] == ("1.500", "")
    assert column.cell(-1e-15).text == "0.000"
    assert str(column.cell(None)) == "-"
    assert Table.of([column], [None], "full", "").columns == ()
    assert Table.of([column], [value], "other", "").columns == ()
