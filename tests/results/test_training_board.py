"""What the training board shows: difference, controls, choice of RAF, score, epoch, smallest p."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from helpers import record_factory as factory
from scipy import stats

from fmcs_bench.core.errors import RecordError
from fmcs_bench.results.statistics import choice_optimism
from fmcs_bench.results.training_board import TrainingBoard, TrainingRow, training_boards
from fmcs_bench.training.methods import Method


def board_of(records: Iterable[factory.TrainingRecord]) -> TrainingBoard:
    (board,) = training_boards(records)
    return board


def records_of(values: dict[float, dict[int, float]], **options: Any) -> list[factory.TrainingRecord]:
    """Records whose accuracy on validation and test images is given by RAF and seed."""
    return [
        factory.training_record(raf, seed, **({"validation": value, "test": value} | options))
        for raf, points in values.items()
        for seed, value in points.items()
    ]


def row_of(board: TrainingBoard, family: str) -> TrainingRow:
    return next(row for row in board.rows if row.family == family)


@pytest.fixture(scope="module")
def board() -> TrainingBoard:
    plans = [(Method(), None, 0.0), *((Method(raf=raf), "set", 0.01) for raf in (0.9, 0.75, 0.5))]
    return board_of(factory.watched_records([*plans, (Method(raf=0.9), "random", 0.02)], num_epochs=6))


def test_rows_are_ordered_by_test_accuracy_with_baseline_and_controls_among_them() -> None:
    rows = board_of(
        [
            factory.training_record(seed=0, test=0.5),
            factory.training_record(0.9, 0, test=0.52, evaluator="conv"),
            factory.training_record(0.9, 0, test=0.49, evaluator="set"),
            factory.training_record(seed=0, test=0.51, method=Method(label_smoothing=0.1)),
        ]
    ).rows
    assert [row.family for row in rows] == ["ral-conv", "label-smoothing", "baseline", "ral-set"]
    assert [row.control for row in rows] == [False, True, False, False]


def test_the_optimism_of_a_choice_is_that_of_the_records(board: TrainingBoard) -> None:
    row = row_of(board, "ral-set")
    validation, test = (
        np.array([[getattr(record.metrics, name) for record in point.records] for point in row.sweep]).T
        for name in ("validation_accuracy", "test_accuracy")
    )
    assert row.choice is not None
    assert row.choice.validation == choice_optimism(validation)
    assert row.choice.test == choice_optimism(test)
    assert row.choice.headline == choice_optimism(validation, test)
    assert row.choice.headline.apparent == pytest.approx(row.chosen.test_accuracy.mean)
    best = max(row.sweep, key=lambda point: point.test_accuracy.mean)
    assert row.choice.picked_on_test is best
    assert row.choice.added_by_test == best.test_accuracy.mean - row.chosen.test_accuracy.mean >= 0


def test_a_raf_that_is_half_done_is_no_candidate_and_only_shared_seeds_are_compared() -> None:
    values = {0.9: {0: 0.8, 1: 0.9, 2: 0.7}, 0.75: {1: 0.85, 2: 0.95, 3: 0.6}, 0.5: {1: 0.99}}
    choice = row_of(board_of(records_of(values)), "ral-set").choice
    assert choice is not None
    assert choice.validation == choice_optimism([[0.9, 0.85], [0.7, 0.95]])


@pytest.mark.parametrize("rafs", [(0.9,), (0.9, 0.5)])
def test_without_a_choice_or_with_one_seed_there_is_no_optimism(rafs: tuple[float, ...]) -> None:
    seeds = dict.fromkeys(range(3 if len(rafs) == 1 else 1), 0.5)
    assert row_of(board_of(records_of(dict.fromkeys(rafs, seeds))), "ral-set").choice is None


def test_score_and_epoch_are_those_of_the_weights_that_were_tested(board: TrainingBoard) -> None:
    base = {r.seed: r.curve[(r.metrics.epoch or 0) - 1].score for r in row_of(board, "baseline").chosen.records}
    for row in board.rows:
        for point in row.sweep:
            scores = {r.seed: r.curve[(r.metrics.epoch or 0) - 1].score for r in point.records}
            assert point.score is not None
            assert point.epoch is not None
            assert point.score.mean == pytest.approx(np.mean(list(scores.values())))
            assert point.epoch.mean == np.mean([r.metrics.epoch for r in point.records])
            assert point.best_test_accuracy is not None
            assert point.best_test_accuracy.mean >= point.test_accuracy.mean
            if row.family == "baseline":
                assert (point.difference, point.score_difference) == (None, None)
                continue
            expected = stats.ttest_rel(list(scores.values()), list(base.values())).confidence_interval()
            assert point.score_difference is not None
            assert point.score_difference.estimate[1:3] == pytest.approx((expected.low, expected.high))


def test_what_one_seed_lacks_is_not_shown() -> None:
    watched = factory.training_record(seed=0, curve=[(0.5, 2.0)], epoch=1, best_test=0.9)
    point = board_of([watched, factory.training_record(seed=1)]).rows[0].chosen
    assert (point.score, point.epoch, point.best_test_accuracy) == (None, None, None)


def test_an_epoch_that_the_curve_lacks_is_an_error_that_names_it() -> None:
    with pytest.raises(RecordError, match=r"baseline/seed-3 was tested after epoch 4"):
        board_of([factory.training_record(seed=3, epoch=4)])


def test_the_accuracy_curve_has_the_interval_of_every_epoch(board: TrainingBoard) -> None:
    point = row_of(board, "ral-set").chosen
    values_SE = np.array([[epoch.validation for epoch in record.curve] for record in point.records])
    low, high = stats.t.interval(0.95, 4, loc=values_SE.mean(axis=0), scale=stats.sem(values_SE))
    for name, expected in (("mean", values_SE.mean(axis=0)), ("low", low.clip(0)), ("high", high.clip(max=1))):
        assert [getattr(estimate, name) for estimate in point.accuracy_curve] == pytest.approx(expected)


def test_curves_of_unequal_length_are_refused() -> None:
    records = [factory.training_record(seed=seed, curve=[(0.5, None)] * (seed + 1)) for seed in range(2)]
    with pytest.raises(RecordError, match=r"baseline.*\[1, 2\] epochs"):
        _ = board_of(records).rows[0].chosen.accuracy_curve


@pytest.mark.parametrize("num_seeds", [2, 5])
def test_the_smallest_p_follows_from_the_seeds_and_after_holm_from_the_rows(num_seeds: int) -> None:
    records = [factory.training_record(seed=seed, test=0.5) for seed in range(num_seeds)]
    for name, gain in {"set": 0.02, "conv": 0.01, "linear": -0.3}.items():
        records += [
            factory.training_record(0.9, seed, test=0.5 + gain + seed / 1000, evaluator=name)
            for seed in range(num_seeds)
        ]
    board = board_of(records)
    assert board.num_tested == 3
    assert board.smallest_p == 2 / 2**num_seeds
    assert board.smallest_holm_p == min(1, 3 * 2 / 2**num_seeds)
    # All three differences are of one sign at all seeds, so no p-value could be smaller.
    assert {row.difference.p_value for row in board.rows if row.difference} == {board.smallest_p}
    assert min(row.holm_p for row in board.rows if row.holm_p) == board.smallest_holm_p


def test_scores_by_another_evaluator_than_the_baselines_are_not_compared() -> None:
    records = factory.watched_records([(Method(), None, 0.0), (Method(raf=0.9), "set", 0.01)], num_epochs=3)
    assert row_of(board_of(records), "ral-set").chosen.score_difference is not None
    for i, record in enumerate(records):
        if record.trial.method.raf < 1:
            trial = record.trial.model_copy(update={"watcher": "conv", "watcher_digest": "0" * 64})
            records[i] = record.model_copy(update={"trial": trial})
    row = row_of(board_of(records), "ral-set")
    assert (row.chosen.score, row.chosen.score_difference) == (None, None)
    assert row.difference is not None


def test_a_raf_that_is_half_done_is_not_chosen() -> None:
    records = records_of({0.5: dict.fromkeys(range(2), 0.99), 0.9: dict.fromkeys(range(3), 0.8)})
    row = row_of(board_of(records), "ral-set")
    assert row.chosen.raf == 0.9
    assert [(point.raf, len(point.records)) for point in row.sweep] == [(0.9, 3), (0.5, 2)]
    assert row_of(board_of([*records, *records_of({0.5: {2: 0.99}})]), "ral-set").chosen.raf == 0.5


def test_raf_is_chosen_on_validation_even_where_the_test_images_say_otherwise() -> None:
    seeds = dict.fromkeys(range(2), 0.8)
    board = board_of([*records_of({0.9: seeds}, test=0.99), *records_of({0.5: seeds}, validation=0.81, test=0.10)])
    assert row_of(board, "ral-set").chosen.raf == 0.5


def test_of_equal_rafs_the_largest_is_chosen() -> None:
    # The same accuracies in another order: on paper equal, as sums of floating-point numbers not.
    accuracies = {0.5: (0.1, 0.2, 0.3), 0.75: (0.3, 0.1, 0.2), 0.9: (0.3, 0.2, 0.1), 0.25: (0.2, 0.1, 0.2)}
    assert np.mean(accuracies[0.5]) > np.mean(accuracies[0.9])
    records = records_of({raf: dict(enumerate(values)) for raf, values in accuracies.items()})
    assert row_of(board_of(records), "ral-set").chosen.raf == 0.9


def test_methods_are_paired_by_seed_with_the_baseline() -> None:
    base = {1: 0.50, 2: 0.60, 4: 0.90, 7: 0.10}
    own = {4: 0.93, 2: 0.61, 1: 0.52, 0: 0.99}
    difference = row_of(board_of(records_of({1.0: base, 0.9: own})), "ral-set").difference
    assert difference is not None
    expected = stats.ttest_rel([0.52, 0.61, 0.93], [0.50, 0.60, 0.90]).confidence_interval()
    assert difference.estimate[:3] == pytest.approx((0.02, expected.low, expected.high))
    assert difference.estimate.num == 3
    assert difference.p_value == 0.25


@pytest.mark.parametrize("baseline_seeds", [(), (5, 6)])
def test_without_a_baseline_at_the_same_seeds_there_is_no_difference(baseline_seeds: tuple[int, ...]) -> None:
    records = records_of({1.0: dict.fromkeys(baseline_seeds, 0.5), 0.9: dict.fromkeys((0, 1), 0.5)})
    row = row_of(board_of(records), "ral-set")
    assert (row.difference, row.holm_p) == (None, None)


def test_holm_covers_the_rows_of_the_board_and_not_the_baseline() -> None:
    board = board_of(factory.training_records())
    tested = {row.family: row.difference.p_value for row in board.rows if row.difference is not None}
    assert row_of(board, "baseline").holm_p is None
    assert len(tested) == 4
    smallest = min(tested, key=lambda family: tested[family])
    assert row_of(board, smallest).holm_p == pytest.approx(4 * tested[smallest])
