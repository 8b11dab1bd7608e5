from __future__ import annotations

import io

import numpy as np
import pytest
from helpers import record_factory as factory
from rich.console import Console
from scipy import stats

from fmcs_bench.cli import tables
from fmcs_bench.results import boards
from fmcs_bench.results.evaluator_table import EvaluatorBoard
from fmcs_bench.results.records import AnyRecord
from fmcs_bench.results.training_table import TrainingBoard, TrainingRow
from fmcs_bench.training.methods import Method


def evaluator_board(*records: factory.EvaluatorRecord) -> EvaluatorBoard:
    (board,) = boards.evaluator_boards(records)
    return board


def training_board(*records: factory.TrainingRecord) -> TrainingBoard:
    (board,) = boards.training_boards(records)
    return board


def row_of(board: TrainingBoard, family: str) -> TrainingRow:
    return next(row for row in board.rows if row.family == family)


def test_the_evaluator_is_chosen_on_the_validation_run_even_where_the_test_run_says_otherwise() -> None:
    board = evaluator_board(
        *(factory.evaluator_record("a", seed, mae=0.2, validation_run=0.6 + seed / 100) for seed in range(3)),
        *(factory.evaluator_record("b", seed, mae=0.9, validation_run=0.5 + seed / 100) for seed in range(3)),
    )
    assert board.rows[0].evaluator == "a"
    assert board.chosen is not None
    assert board.chosen.evaluator == "b"
    assert [row.chosen for row in board.rows] == [False, True]


def test_an_evaluator_without_a_gradient_is_never_chosen() -> None:
    record = factory.evaluator_record("forest", mae=0.1, differentiable=False)
    assert evaluator_board(record).chosen is None
    assert [row.evaluator for row in evaluator_board(record, factory.evaluator_record("conv")).rows if row.chosen] == [
        "conv"
    ]


def test_a_control_is_never_chosen() -> None:
    record = factory.evaluator_record("conv~permuted", mae=0.1, control=True)
    assert evaluator_board(record).chosen is None
    board = evaluator_board(record, factory.evaluator_record("conv"))
    assert [(row.evaluator, row.chosen) for row in board.rows] == [("conv~permuted", False), ("conv", True)]


def test_evaluator_rows_are_ordered_by_test_mae_and_tie_where_welch_cannot_tell() -> None:
    board = evaluator_board(
        *(factory.evaluator_record("far", seed, mae=1.5 + seed / 100) for seed in range(4)),
        *(factory.evaluator_record("near", seed, mae=0.50 + seed / 10) for seed in range(4)),
        *(factory.evaluator_record("next", seed, mae=0.55 + seed / 10) for seed in range(4)),
    )
    assert [(row.evaluator, row.rank) for row in board.rows] == [("near", 1), ("next", 1), ("far", 3)]


def test_an_evaluator_row_summarises_its_seeds() -> None:
    records = [
        factory.evaluator_record("a", seed, mae=0.4 + 0.1 * seed, spearman=0.9 - 0.1 * seed) for seed in (2, 0, 1)
    ]
    (row,) = evaluator_board(*records).rows
    assert [record.seed for record in row.records] == [0, 1, 2]
    maes = [0.4, 0.5, 0.6]
    low, high = stats.t.interval(0.95, 2, loc=np.mean(maes), scale=stats.sem(maes))
    assert row.mae["test_run"][:3] == pytest.approx((0.5, low, high))
    assert row.spearman is not None
    assert row.spearman.mean == pytest.approx(0.8)
    assert row.fit_seconds == pytest.approx(np.mean([4.0, 6.0, 8.0]))


def test_a_correlation_that_one_seed_lacks_is_not_shown() -> None:
    (row,) = evaluator_board(factory.evaluator_record(seed=0), factory.evaluator_record(seed=1, spearman=None)).rows
    assert row.spearman is None


def test_each_dataset_has_its_own_board() -> None:
    records = [factory.evaluator_record(dataset="b"), factory.evaluator_record(dataset="a")]
    assert [board.dataset_id.split("@")[0] for board in boards.evaluator_boards(records)] == ["a", "b"]
    assert boards.evaluator_boards([]) == []


def with_epochs(record: AnyRecord, epochs: int) -> AnyRecord:
    return record.model_copy(update={"unit": record.unit.model_copy(update={"epochs": epochs})})


def test_records_of_other_settings_are_never_on_one_board() -> None:
    evaluators, trainings = factory.evaluator_records(2), factory.training_records(2)
    for make, records in ((boards.evaluator_boards, evaluators), (boards.training_boards, trainings)):
        longer = [with_epochs(record, 77) for record in records]
        first, second = make([*longer, *records])
        assert first.dataset_id == second.dataset_id
        assert {first.settings, second.settings} == {records[0].settings, longer[0].settings}
        assert make(records) == [board for board in (first, second) if board.settings == records[0].settings]
        assert make(longer) == [board for board in (first, second) if board.settings == longer[0].settings]


def test_an_evaluator_that_is_half_done_is_not_chosen() -> None:
    half = [factory.evaluator_record("half", seed, mae=0.1) for seed in range(2)]
    whole = [factory.evaluator_record("whole", seed, mae=0.9) for seed in range(3)]
    board = evaluator_board(*half, *whole)
    assert board.rows[0].evaluator == "half"  # shown all the same
    assert board.chosen is not None
    assert board.chosen.evaluator == "whole"
    done = evaluator_board(*half, *whole, factory.evaluator_record("half", 2, mae=0.1))
    assert done.chosen is not None
    assert done.chosen.evaluator == "half"


def test_a_raf_that_is_half_done_is_not_chosen() -> None:
    half = [factory.training_record(0.5, seed, validation=0.99) for seed in range(2)]
    whole = [factory.training_record(0.9, seed, validation=0.80) for seed in range(3)]
    row = row_of(training_board(*half, *whole), "ral-set")
    assert row.chosen.raf == 0.9
    assert [(point.raf, len(point.records)) for point in row.sweep] == [(0.9, 3), (0.5, 2)]
    done = training_board(*half, *whole, factory.training_record(0.5, 2, validation=0.99))
    assert row_of(done, "ral-set").chosen.raf == 0.5


def test_raf_is_chosen_on_validation_even_where_the_test_images_say_otherwise() -> None:
    board = training_board(
        *(factory.training_record(0.9, seed, validation=0.80, test=0.99) for seed in range(2)),
        *(factory.training_record(0.5, seed, validation=0.81, test=0.10) for seed in range(2)),
    )
    assert row_of(board, "ral-set").chosen.raf == 0.5
    assert [point.raf for point in row_of(board, "ral-set").sweep] == [0.9, 0.5]


def test_of_equal_rafs_the_largest_is_chosen() -> None:
    # The same accuracies in another order: on paper equal, as sums of floating-point numbers not.
    accuracies = {0.5: (0.1, 0.2, 0.3), 0.75: (0.3, 0.1, 0.2), 0.9: (0.3, 0.2, 0.1), 0.25: (0.2, 0.1, 0.2)}
    assert np.mean(accuracies[0.5]) > np.mean(accuracies[0.9])
    board = training_board(
        *(
            factory.training_record(raf, seed, validation=value)
            for raf, values in accuracies.items()
            for seed, value in enumerate(values)
        )
    )
    assert row_of(board, "ral-set").chosen.raf == 0.9


def test_methods_are_paired_by_seed_with_the_baseline() -> None:
    base = {1: 0.50, 2: 0.60, 4: 0.90, 7: 0.10}
    own = {4: 0.93, 2: 0.61, 1: 0.52, 0: 0.99}
    board = training_board(
        *(factory.training_record(1.0, seed, test=value) for seed, value in base.items()),
        *(factory.training_record(0.9, seed, test=value) for seed, value in own.items()),
    )
    difference = row_of(board, "ral-set").difference
    assert difference is not None
    expected = stats.ttest_rel([0.52, 0.61, 0.93], [0.50, 0.60, 0.90]).confidence_interval()
    assert difference.estimate[:3] == pytest.approx((0.02, expected.low, expected.high))
    assert difference.estimate.num == 3
    assert difference.p_value == 0.25


@pytest.mark.parametrize("baseline_seeds", [(), (5, 6)])
def test_without_a_baseline_at_the_same_seeds_there_is_no_difference(baseline_seeds: tuple[int, ...]) -> None:
    board = training_board(
        *(factory.training_record(1.0, seed) for seed in baseline_seeds),
        *(factory.training_record(0.9, seed) for seed in (0, 1)),
    )
    row = row_of(board, "ral-set")
    assert (row.difference, row.holm_p) == (None, None)


def test_holm_covers_the_rows_of_the_board_and_not_the_baseline() -> None:
    board = training_board(*factory.training_records())
    tested = {row.family: row.difference.p_value for row in board.rows if row.difference is not None}
    assert row_of(board, "baseline").holm_p is None
    assert len(tested) == 4
    smallest = min(tested, key=lambda family: tested[family])
    assert row_of(board, smallest).holm_p == pytest.approx(4 * tested[smallest])


def test_the_baseline_comes_first_then_the_largest_difference() -> None:
    gains = {"none": -0.02, "align": 0.03, "diversify": 0.01}
    board = training_board(
        *(factory.training_record(1.0, seed, test=0.5) for seed in range(2)),
        *(
            factory.training_record(
                seed=seed, test=0.5 + gain, method=Method(network="dueheadnet", fusion="add", constraint=constraint)
            )
            for constraint, gain in gains.items()
            for seed in range(2)
        ),
    )
    assert [row.family for row in board.rows] == [
        "baseline",
        "dueheadnet-add-align",
        "dueheadnet-add-diversify",
        "dueheadnet-add-none",
    ]


def test_many_seeds_are_not_too_many() -> None:
    board = training_board(*factory.training_records(20))
    assert row_of(board, "ral-set").holm_p is not None


def printed(board: EvaluatorBoard | TrainingBoard, *, terminal_width: int | None) -> str:
    stream = io.StringIO()
    console = Console(
        file=stream, width=terminal_width or 40, force_terminal=terminal_width is not None, color_system=None
    )
    tables.print_board(console, board)
    return stream.getvalue()


@pytest.mark.parametrize("width", [100, None])
def test_the_evaluator_table_shows_every_row_with_its_interval_and_marks_the_chosen(width: int | None) -> None:
    board = evaluator_board(*factory.evaluator_records())
    text = printed(board, terminal_width=width)
    for row in board.rows:
        (line,) = [line for line in text.splitlines() if f" {row.evaluator} " in line]
        assert str(row.mae["test_run"]) in line
        assert str(row.mae["same_run"]) in line
        assert (f"{row.evaluator} *" in line) == row.chosen
    assert max(map(len, text.splitlines())) <= 100


def test_fourteen_evaluators_fit_into_eighty_columns() -> None:
    names = ("chance", "norm", "moments", "conv~permuted", "linear", "mlp", "conv", "resnet", "attention", "set",
             "spectrum", "invariants", "logistic", "boosting")  # fmt: skip
    board = evaluator_board(
        *(factory.evaluator_record(name, seed, mae=0.3 + 0.1 * i + seed / 50)
          for i, name in enumerate(names) for seed in range(5))
    )  # fmt: skip
    lines = printed(board, terminal_width=80).splitlines()
    assert max(map(len, lines)) <= 80
    for row in board.rows:
        (line,) = [line for line in lines if f" {row.evaluator} " in line]
        assert str(row.mae["test_run"]) in line
        assert f"{row.num_parameters:,}" in line
        assert f" {row.mae['same_run'].mean:.3f} " in line
        assert line.split()[0] == str(row.rank)


@pytest.mark.parametrize("width", [80, 100, None])
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
    assert max(map(len, lines)) <= (width or 140)


@pytest.mark.parametrize("width", [100, None])
def test_the_training_table_shows_every_row_with_its_difference(width: int | None) -> None:
    board = training_board(*factory.training_records())
    text = printed(board, terminal_width=width)
    assert "p is at least 0.0625, corrected for 4 rows at least 0.25" in " ".join(text.split())
    for row in board.rows:
        main = text.split("What choosing")[0].splitlines()
        (line,) = [line for line in main if line.startswith(f"{row.family} ")]
        assert ("(control)" in line) == row.control
        if row.difference is not None:
            mean, low, high = (100 * value for value in row.difference.estimate[:3])
            assert f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]" in line
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize("width", [100, None])
def test_choice_of_raf_and_score_have_tables_of_their_own(width: int | None) -> None:
    plans = [(Method(), None, 0.0), *((Method(raf=raf), "set", 0.01) for raf in (0.9, 0.75, 0.5))]
    board = training_board(*factory.watched_records(plans, num_epochs=6))
    text = printed(board, terminal_width=width)
    assert max(map(len, text.splitlines())) <= 110
    choice, score = text.split("What choosing")[1].split("Mean score")
    row = row_of(board, "ral-set")
    assert row.choice is not None
    (line,) = [line for line in choice.splitlines() if line.startswith("ral-set ")]
    found = (row.choice.validation.points, row.choice.headline.points, row.choice.added_by_test, row.choice.test.points)
    assert [float(part) for part in line.split()[1:]] == pytest.approx(
        [row.chosen.raf, 100 * found[0], 100 * found[1], row.choice.picked_on_test.raf, 100 * found[2], 100 * found[3]],
        abs=0.0051,
    )
    (line,) = [line for line in score.splitlines() if line.startswith("ral-set ")]
    assert str(row.chosen.score) in line
    assert row.chosen.score_difference is not None
    assert f"{row.chosen.score_difference.estimate.mean:+.2f} [" in line
    assert len([line for line in score.splitlines() if line.startswith("baseline ")]) == 1


def test_a_pipe_gets_whole_rows_in_plain_text() -> None:
    name = "an-evaluator-with-a-name-that-is-far-too-long-for-any-terminal-there-is"
    text = printed(evaluator_board(factory.evaluator_record(name)), terminal_width=None)
    (line,) = [line for line in text.splitlines() if name in line]
    assert line.split()[-1] == "1"
    assert text.isascii()


def test_a_sixth_seed_of_one_evaluator_shuts_out_no_other() -> None:
    records = [factory.evaluator_record("set", seed, mae=0.4) for seed in range(5)]
    records += [factory.evaluator_record("norm", seed, mae=0.9) for seed in range(6)]
    records += [factory.evaluator_record("forest", seed, mae=0.1, differentiable=False) for seed in range(7)]
    (board,) = boards.evaluator_boards(records)
    assert board.chosen is not None
    assert board.chosen.evaluator == "set"
