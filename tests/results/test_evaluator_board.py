from __future__ import annotations

import numpy as np
import pytest
from helpers import record_factory as factory
from scipy import stats

from fmcs_bench.results.evaluator_board import EvaluatorBoard, evaluator_boards
from fmcs_bench.results.training_board import training_boards


def evaluator_board(*records: factory.EvaluatorRecord) -> EvaluatorBoard:
    (board,) = evaluator_boards(records)
    return board


def chosen(*records: factory.EvaluatorRecord) -> str | None:
    board = evaluator_board(*records)
    assert [row for row in board.rows if row.chosen] == [board.chosen] * (board.chosen is not None)
    return board.chosen and board.chosen.evaluator


def test_the_evaluator_is_chosen_on_the_validation_run_even_where_the_test_run_says_otherwise() -> None:
    records = [
        factory.evaluator_record(name, seed, mae=mae, validation_run=validation + seed / 100)
        for name, mae, validation in (("a", 0.2, 0.6), ("b", 0.9, 0.5))
        for seed in range(3)
    ]
    assert evaluator_board(*records).rows[0].evaluator == "a"
    assert chosen(*records) == "b"


@pytest.mark.parametrize(
    ("name", "options"), [("forest", {"differentiable": False}), ("conv~permuted", {"control": True})]
)
def test_a_control_or_an_evaluator_without_a_gradient_is_never_chosen(name: str, options: dict[str, bool]) -> None:
    record = factory.evaluator_record(name, mae=0.1, **options)
    assert chosen(record) is None
    assert chosen(record, factory.evaluator_record("conv")) == "conv"


def test_an_evaluator_row_summarises_its_seeds() -> None:
    (row,) = evaluator_board(
        *(factory.evaluator_record("a", seed, mae=0.4 + 0.1 * seed, spearman=0.9 - 0.1 * seed) for seed in (2, 0, 1))
    ).rows
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
    assert [board.dataset_id.split("@")[0] for board in evaluator_boards(records)] == ["a", "b"]
    assert evaluator_boards([]) == []


def test_records_of_other_settings_are_never_on_one_board() -> None:
    evaluators, trainings = factory.evaluator_records(2), factory.training_records(2)
    for make, records in ((evaluator_boards, evaluators), (training_boards, trainings)):
        trials = [record.trial.model_copy(update={"epochs": 77}) for record in records]
        longer = [record.model_copy(update={"trial": trial}) for record, trial in zip(records, trials, strict=True)]
        boards = sorted([*make(records), *make(longer)], key=lambda board: board.settings)
        assert make([*longer, *records]) == boards
        assert boards[0].settings != boards[1].settings


def test_an_evaluator_that_is_half_done_is_not_chosen() -> None:
    half = [factory.evaluator_record("half", seed, mae=0.1) for seed in range(2)]
    whole = [factory.evaluator_record("whole", seed, mae=0.9) for seed in range(3)]
    assert evaluator_board(*half, *whole).rows[0].evaluator == "half"  # shown all the same
    assert chosen(*half, *whole) == "whole"
    assert chosen(*half, *whole, factory.evaluator_record("half", 2, mae=0.1)) == "half"


def test_a_sixth_seed_of_one_evaluator_shuts_out_no_other() -> None:
    records = [factory.evaluator_record("set", seed, mae=0.4) for seed in range(5)]
    records += [factory.evaluator_record("norm", seed, mae=0.9) for seed in range(6)]
    records += [factory.evaluator_record("forest", seed, mae=0.1, differentiable=False) for seed in range(7)]
    assert chosen(*records) == "set"


def test_rows_are_ordered_by_mean_mae_and_a_wide_interval_widens_the_rank_and_lifts_no_row() -> None:
    board = evaluator_board(
        *(factory.evaluator_record("far", seed, mae=1.5 + seed / 100) for seed in range(4)),
        *(factory.evaluator_record("near", seed, mae=0.50 + seed / 100) for seed in range(4)),
        *(factory.evaluator_record("next", seed, mae=0.51 + seed / 100) for seed in range(4)),
        *(factory.evaluator_record("wide~permuted", seed, mae=1 + seed, control=True) for seed in range(4)),
    )
    assert [(row.evaluator, tuple(row.rank)) for row in board.rows] == [
        ("near", (1, 3)), ("next", (1, 3)), ("far", (3, 4)), ("wide~permuted", (1, 4)),
    ]  # fmt: skip
    assert board.rows[3].control


def test_no_interval_leaves_the_range_of_its_metric() -> None:
    board = evaluator_board(*(factory.evaluator_record("a", seed, mae=mae) for seed, mae in enumerate((0.0, 0.0, 0.9))))
    frame = board.frame().iloc[0]
    assert frame["mae_test_run_low"] == 0
    assert frame["accuracy_test_run_high"] == frame["kappa_test_run_high"] == 1
