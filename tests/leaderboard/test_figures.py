"""Figures draw the numbers of their boards."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from helpers import record_factory as factory
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from fmcs_bench.core.errors import ConfigError, RecordError
from fmcs_bench.core.figure_style import encode, save
from fmcs_bench.leaderboard.figures import MAX_PANELS, evaluators, training
from fmcs_bench.results.evaluator_board import EvaluatorBoard, evaluator_boards
from fmcs_bench.results.training_board import TrainingBoard, training_boards
from fmcs_bench.training.methods import Method


@pytest.fixture(scope="module")
def board() -> EvaluatorBoard:
    return evaluator_boards(factory.evaluator_records())[0]


@pytest.fixture(scope="module")
def trainings() -> TrainingBoard:
    """A baseline, RAL with two evaluators at three RAFs, of which one is a control, RAF 0, and two heads."""
    plans: list[tuple[Method, str | None, float]] = [(Method(), None, 0.0), (Method(raf=0.0), "conv", 0.0)]
    plans += [(Method(raf=raf), name, 0.01) for name in ("set", "random") for raf in (0.9, 0.75, 0.5)]
    plans.append((Method.make(**factory.NETWORKS[0]), None, 0.005))
    return training_boards(factory.watched_records(plans, num_epochs=8))[0]


def points(figure: Figure) -> set[tuple[float, float]]:
    lines = [line for axes in figure.axes for line in axes.lines]
    return {(round(float(x), 6), round(float(y), 6)) for line in lines for x, y in zip(*line.get_data(), strict=True)}


def bars(figure: Figure) -> set[tuple[float, ...]]:
    """Ends of the interval bars: x, y, x, y."""
    found = [item for axes in figure.axes for item in axes.collections if isinstance(item, LineCollection)]
    return {tuple(np.round(np.ravel(path), 6)) for bar in found for path in bar.get_segments()}


def texts(figure: Figure) -> set[str]:
    return {item.get_text() for item in figure.findobj(match=mpl.text.Text)}  # type: ignore[arg-type]


def test_the_error_figure_draws_the_numbers_of_the_board(board: EvaluatorBoard) -> None:
    figure = evaluators.error_figure(board)
    drawn, spans = {x for x, _ in points(figure)}, {(bar[0], bar[2]) for bar in bars(figure)}
    for row in board.rows:
        for subset in ("test_run", "same_run"):
            mean, low, high = row.mae[subset][:3]
            assert round(mean, 6) in drawn
            assert (round(low, 6), round(high, 6)) in spans
            assert {round(record.metrics[subset].mae, 6) for record in row.records} <= drawn
        assert str(row.mae["test_run"]) in texts(figure)
    middle = round((3 + 2 + 1 + 0 + 1 + 2 + 3) / 7, 6)  # always the middle one of 7 stages
    assert {(middle, 0.0), (middle, 1.0)} <= points(figure)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert [label.split()[0] for label in labels] == [row.evaluator for row in board.rows]
    assert [label.endswith("(chosen)") for label in labels] == [row.chosen for row in board.rows]
    assert figure.axes[0].get_xlim()[0] == 0


def test_the_score_figure_draws_the_mean_over_seeds(board: EvaluatorBoard) -> None:
    drawn = points(evaluators.score_figure(board))
    for row in board.rows:
        mean = np.mean([record.trajectory.score for record in row.records], axis=0)
        assert {(float(x), round(y, 6)) for x, y in zip(factory.STEPS, mean, strict=True)} <= drawn
    accuracy = board.rows[0].records[0].trajectory.validation_accuracy
    assert {(float(x), round(100 * y, 6)) for x, y in zip(factory.STEPS, accuracy, strict=True)} <= drawn


def test_scores_at_different_checkpoints_are_not_drawn_together() -> None:
    records = [factory.evaluator_record("conv"), factory.evaluator_record("set", step=(1, 2, 3))]
    with pytest.raises(RecordError, match="checkpoints"):
        evaluators.score_figure(evaluator_boards(records)[0])


def test_the_confusion_figure_shows_every_share_and_the_recall(board: EvaluatorBoard) -> None:
    rng, num = np.random.default_rng(0), board.num_stages
    found = {row.evaluator: rng.dirichlet(np.full(num, 0.3), num) for row in board.rows}
    figure = evaluators.confusion_figure(board, found)
    for row, axes in zip(board.rows, figure.axes, strict=False):
        assert np.allclose(axes.collections[0].get_array(), found[row.evaluator])
        assert [text.get_text() for text in axes.texts] == [
            f"{100 * share:.0f}" for share in np.diag(found[row.evaluator])
        ]
        assert axes.get_ylim()[0] > axes.get_ylim()[1]  # stage 1 on top


def test_many_evaluators_have_panels_up_to_a_number_and_the_chosen_one_is_among_them() -> None:
    names = [f"e{i}" for i in range(MAX_PANELS + 2)]
    records = [factory.evaluator_record(name, mae=0.5 + i / 100) for i, name in enumerate(names)]
    last = factory.evaluator_record("last", mae=1.9, validation_run=0.1)
    (many,) = evaluator_boards([*records, last])
    assert many.chosen is not None
    assert many.chosen.evaluator == "last"
    shown = [row.evaluator for row in evaluators.panel_rows(many)]
    assert (len(shown), shown[0], shown[-1]) == (MAX_PANELS, "e0", "last")
    assert any("3 more evaluators are not shown" in text for text in texts(evaluators.score_figure(many)))


def test_the_difference_figure_draws_points_and_puts_what_is_far_below_at_its_edge(trainings: TrainingBoard) -> None:
    figure = training.difference_figure(trainings)
    low, high = figure.axes[0].get_xlim()
    drawn, spans = {x for x, _ in points(figure)}, {(bar[0], bar[2]) for bar in bars(figure)}
    rows = [row for row in trainings.rows if row.difference is not None]
    assert [label.get_text().endswith("(control)") for label in figure.axes[0].get_yticklabels()] == [
        row.control for row in rows
    ]
    for i, row in enumerate(rows):
        assert row.difference is not None
        mean, bottom, top = (round(100 * value, 6) for value in row.difference.estimate[:3])  # type: ignore[operator]
        if row.chosen.raf == 0:
            arrows = [line for line in figure.axes[0].lines if line.get_marker() == "<"]
            assert [float(line.get_ydata()[0]) for line in arrows] == [i]
            assert mean < low - 50
        else:
            assert mean in drawn
            assert (bottom, top) in spans
            assert low < bottom < top < high
            assert {round(100 * value, 6) for value in row.chosen.test_differences.values()} <= drawn


def test_the_raf_figure_draws_every_raf_and_fills_the_chosen_one(trainings: TrainingBoard) -> None:
    figure = training.raf_figure(trainings)
    heights = {y for _, y in points(figure)}
    families = [row for row in trainings.rows if len(row.sweep) > 1]
    for row in families:
        assert {round(100 * point.test_accuracy.mean, 6) for point in row.sweep} <= heights
    dots = [line for axes in figure.axes for line in axes.lines if line.get_marker() in ("o", "D")]
    filled = {round(float(dot.get_ydata()[0]), 6) for dot in dots if dot.get_markerfacecolor() == dot.get_color()}
    assert filled == {round(100 * row.chosen.test_accuracy.mean, 6) for row in families}
    far = next(row for row in trainings.rows if row.chosen.raf == 0)
    assert f"{100 * far.chosen.test_accuracy.mean:.1f}" in texts(figure)
    assert 100 * far.chosen.test_accuracy.mean < figure.axes[0].get_ylim()[0] - 50


def test_the_curve_figure_draws_every_epoch_of_the_chosen_raf_and_of_the_baseline(trainings: TrainingBoard) -> None:
    figure = training.curve_figure(trainings)
    rows = [row for row in trainings.rows if row.chosen.raf < 1]
    assert [axes.get_title(loc="left").split("\n")[0] for axes in figure.axes[: len(rows)]] == [r.family for r in rows]
    for row, axes in zip(rows, figure.axes, strict=False):
        assert trainings.baseline is not None
        for shown, line in zip((trainings.baseline, row), axes.lines, strict=True):
            mean = np.mean([[100 * e.validation for e in record.curve] for record in shown.chosen.records], axis=0)
            assert np.allclose(line.get_ydata(), mean)
            assert list(line.get_xdata()) == list(range(1, 9))
        low, high = axes.get_ylim()
        assert 0 <= low < min(axes.lines[1].get_ydata()) <= max(axes.lines[1].get_ydata()) < high <= 100


def test_score_against_accuracy_has_both_differences_with_their_intervals(trainings: TrainingBoard) -> None:
    figure = training.score_figure(trainings)
    for row in trainings.rows:
        if row.difference is None or row.chosen.score_difference is None or row.chosen.raf == 0:
            continue
        x, left, right = (round(100 * value, 6) for value in row.difference.estimate[:3])  # type: ignore[operator]
        y, low, high = (round(value, 6) for value in row.chosen.score_difference.estimate[:3])  # type: ignore[arg-type]
        assert (x, y) in points(figure)
        assert {(left, y, right, y), (x, low, x, high)} <= bars(figure)


def test_a_board_has_only_the_figures_that_it_has_something_for(trainings: TrainingBoard) -> None:
    def of(records: list[factory.TrainingRecord]) -> set[str]:
        return set(training.drawable(training_boards(records)[0]))

    assert of([factory.training_record()]) == set()
    assert of([factory.training_record(0.5)]) == {"raf"}
    assert of([factory.training_record(), factory.training_record(0.5)]) == {"raf", "differences"}
    assert set(training.drawable(trainings)) == {"raf", "differences", "scores", "curves"}
    for figure in training.drawable(training_boards(factory.training_records(1))[0]).values():  # one seed is enough
        assert encode(figure(training_boards(factory.training_records(1))[0]), "svg")


@pytest.mark.parametrize("name", ["$x_1$ ^\\frac", "名前", "x" * 200])
def test_any_name_can_be_drawn(name: str) -> None:
    record = factory.evaluator_record()
    record = record.model_copy(update={"trial": record.trial.model_copy(update={"evaluator": name})})
    (board,) = evaluator_boards([record])
    assert encode(evaluators.error_figure(board), "png")
    assert encode(evaluators.score_figure(board), "png")


@pytest.mark.parametrize("suffix", [".svg", ".png", ".pdf"])
def test_saving_twice_gives_the_same_bytes(board: EvaluatorBoard, tmp_path: Path, suffix: str) -> None:
    for name in ("a", "b"):
        save(evaluators.error_figure(board), tmp_path / f"{name}{suffix}")
    first = (tmp_path / f"a{suffix}").read_bytes()
    assert first == (tmp_path / f"b{suffix}").read_bytes()
    assert first.startswith({".svg": b"<?xml", ".png": b"\x89PNG", ".pdf": b"%PDF"}[suffix])
    assert b"Date" not in first


def test_other_kinds_of_file_are_refused(board: EvaluatorBoard, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"figure\.jpg"):
        save(evaluators.error_figure(board), tmp_path / "figure.jpg")
    assert list(tmp_path.iterdir()) == []


def test_settings_of_the_user_neither_change_a_figure_nor_are_changed(board: EvaluatorBoard) -> None:
    expected = encode(evaluators.error_figure(board), "svg")
    with mpl.rc_context({"font.size": 30, "axes.facecolor": "red", "svg.fonttype": "none", "lines.linewidth": 9}):
        before = dict(mpl.rcParams)
        assert encode(evaluators.error_figure(board), "svg") == expected
        assert dict(mpl.rcParams) == before
