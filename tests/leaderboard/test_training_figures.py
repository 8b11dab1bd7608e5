"""Figures of the training track draw the board's numbers, and stay readable with many methods and far outliers."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pytest
from helpers import record_factory as factory
from helpers.colours import colours_of
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from fmcs_bench.core.figure_style import DARK
from fmcs_bench.leaderboard.figures import evaluators
from fmcs_bench.leaderboard.figures.curves import MAX_PANELS
from fmcs_bench.leaderboard.figures.parts import far_below
from fmcs_bench.results.training_board import TrainingBoard, TrainingRow, training_boards
from fmcs_bench.training.methods import Method

FIGURES = (
    evaluators.training_figure,
    evaluators.raf_figure,
    evaluators.accuracy_curve_figure,
    evaluators.score_curve_figure,
    evaluators.score_accuracy_figure,
)


def board_of(records: list[factory.TrainingRecord]) -> TrainingBoard:
    (board,) = training_boards(records)
    return board


@pytest.fixture(scope="module")
def board() -> TrainingBoard:
    """A baseline, two judges at three RAFs of which one is a control, RAF 0, and two heads without a judge."""
    plans: list[tuple[Method, str | None, float]] = [(Method(), None, 0.0), (Method(raf=0.0), "conv", 0.0)]
    plans += [(Method(raf=raf), judge, 0.01) for judge in ("set", "random") for raf in (0.9, 0.75, 0.5)]
    plans.append((Method.make(**factory.NETWORKS[0]), None, 0.005))
    return board_of(factory.watched_records(plans, num_epochs=8))


@pytest.fixture(scope="module")
def large() -> TrainingBoard:
    return board_of(factory.large_grid(2, rafs=(0.9, 0.0)))


def row_of(board: TrainingBoard, family: str) -> TrainingRow:
    return next(row for row in board.rows if row.family == family)


def at_chance(board: TrainingBoard) -> TrainingRow:
    return next(row for row in board.rows if row.chosen.raf == 0)


def texts(figure: Figure) -> list[str]:
    return [item.get_text() for item in figure.findobj(match=mpl.text.Text)]  # type: ignore[arg-type]


def points_of(figure: Figure, panel: int = 0) -> set[tuple[float, float]]:
    lines = figure.axes[panel].lines
    return {(round(float(x), 6), round(float(y), 6)) for line in lines for x, y in zip(*line.get_data(), strict=True)}


def segments_of(figure: Figure, panel: int = 0) -> set[tuple[float, ...]]:
    """Ends of the interval bars: x, y, x, y."""
    bars = [item for item in figure.axes[panel].collections if isinstance(item, LineCollection)]
    return {tuple(np.round(np.ravel(path), 6)) for bar in bars for path in bar.get_segments()}


def panel_of(figure: Figure, family: str) -> int:
    titles = [axes.get_title(loc="left").split("\n")[0].removesuffix("  (control)") for axes in figure.axes]
    return titles.index(family)


def test_the_forest_plot_marks_controls_and_puts_what_is_far_below_at_its_edge(board: TrainingBoard) -> None:
    figure = evaluators.training_figure(board)
    assert figure is not None
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert [label.endswith("(control)") for label in labels] == [row.control for row in board.rows[1:]]
    low, high = figure.axes[0].get_xlim()
    far = at_chance(board)
    assert far.difference is not None
    assert 100 * far.difference.estimate.mean < low - 50
    (arrow,) = [line for line in figure.axes[0].lines if line.get_marker() == "<"]
    assert low < float(arrow.get_xdata()[0]) < high
    assert arrow.get_ydata()[0] == board.rows[1:].index(far)
    assert any(f"{100 * far.difference.estimate.mean:.2f}".lstrip("-") in text for text in texts(figure))
    near = [row for row in board.rows[1:] if row is not far]
    drawn = {x for x, _ in points_of(figure)}
    for row in near:
        assert row.difference is not None
        ends = [round(100 * end, 6) for end in (row.difference.estimate.low, row.difference.estimate.high) if end]
        assert low < min(ends) < max(ends) < high
        assert {round(100 * value, 6) for value in row.chosen.test_differences.values()} <= drawn


def test_the_raf_figure_has_a_panel_for_each_family_and_a_place_apart_for_raf_0(board: TrainingBoard) -> None:
    figure = evaluators.raf_figure(board)
    assert figure is not None
    assert figure.axes[0].get_xticklabels() == []  # they stand below the lowest panel of the column
    ticks = [float(label.get_text()) for label in figure.axes[2].get_xticklabels()]
    assert ticks == [0.9, 0.75, 0.5, 0.0]
    places = dict(zip(ticks, figure.axes[2].get_xticks(), strict=True))
    assert np.diff(list(places.values())) == pytest.approx([1, 1, 1.6])
    low, high = figure.axes[0].get_ylim()
    for family in ("ral-set", "ral-random-set"):
        panel = panel_of(figure, family)
        points, bars = points_of(figure, panel), segments_of(figure, panel)
        for point in row_of(board, family).sweep:
            mean, bottom, top = (round(100 * value, 6) for value in point.test_accuracy[:3])
            assert (places[point.raf], mean) in points
            assert (places[point.raf], bottom, places[point.raf], top) in bars
            assert low < mean < high
    far = at_chance(board)
    note = f"{100 * far.chosen.test_accuracy.mean:.1f}"
    assert [note in texts_of_panel(figure, i) for i in range(3)].count(True) == 1
    assert 100 * far.chosen.test_accuracy.mean < low - 50


def texts_of_panel(figure: Figure, panel: int) -> list[str]:
    return [text.get_text() for text in figure.axes[panel].texts]


@pytest.mark.parametrize("make", [evaluators.accuracy_curve_figure, evaluators.score_curve_figure])
def test_curves_are_the_means_of_the_seeds_beside_those_of_the_baseline(board: TrainingBoard, make) -> None:  # type: ignore[no-untyped-def]
    figure = make(board)
    row, base = row_of(board, "ral-set"), row_of(board, "baseline")
    points = points_of(figure, panel_of(figure, "ral-set"))
    for shown in (row, base):
        curves = np.array(
            [
                [100 * e.validation if make is evaluators.accuracy_curve_figure else e.score for e in record.curve]
                for record in shown.chosen.records
            ]
        )
        assert {(i, round(mean, 6)) for i, mean in enumerate(curves.mean(axis=0), start=1)} <= points
    panels = [axes.get_title(loc="left").split("\n")[0] for axes in figure.axes if axes.get_title(loc="left")]
    with_judge = [row.family for row in board.rows if row.chosen.raf < 1]
    every = [row.family for row in board.rows[1:]]
    assert panels == (with_judge if make is evaluators.accuracy_curve_figure else every)


def test_the_axis_of_accuracy_is_stretched_and_its_ticks_are_percentages(board: TrainingBoard) -> None:
    figure = evaluators.accuracy_curve_figure(board)
    assert figure is not None
    axes = figure.axes[0]
    ends, ticks = axes.get_ylim(), axes.get_yticks()
    assert 0 <= ends[0] < ends[1] <= 100
    assert all(ends[0] <= tick <= ends[1] for tick in ticks)
    heights = axes.transData.transform([(1, tick) for tick in ticks])[:, 1]
    assert np.diff(heights).min() > 0.1 * (axes.bbox.height)
    heights = axes.transData.transform([(1, accuracy) for accuracy in (80, 90, 95)])[:, 1]
    assert heights[2] - heights[1] > 0.7 * (heights[1] - heights[0])  # and not half of it


def test_score_against_accuracy_has_both_differences_with_their_intervals(board: TrainingBoard) -> None:
    figure = evaluators.score_accuracy_figure(board)
    assert figure is not None
    points, bars, far = points_of(figure), segments_of(figure), at_chance(board)
    for i, row in enumerate(board.rows[1:], start=1):
        assert row.difference is not None
        assert row.chosen.score_difference is not None
        x, left, right = (round(100 * value, 6) for value in row.difference.estimate[:3])
        y, bottom, top = (round(value, 6) for value in row.chosen.score_difference.estimate[:3])
        assert str(i) in texts(figure)
        if row is far:
            assert f"{row.chosen.records[0].method}, far left at \N{MINUS SIGN}{abs(x):.1f}" in texts(figure)
            continue
        assert (x, y) in points
        assert {(left, y, right, y), (x, bottom, x, top)} <= bars
        assert row.chosen.records[0].method in texts(figure)


def test_many_methods_keep_their_panels_up_to_a_number_that_is_told(large: TrainingBoard) -> None:
    assert len(large.rows) >= 25
    figure = evaluators.score_curve_figure(large)
    assert figure is not None
    assert sum(bool(axes.get_title(loc="left")) for axes in figure.axes) == min(MAX_PANELS, len(large.rows) - 1)
    left_out = len(large.rows) - 1 - MAX_PANELS
    assert (f"epoch; {left_out} more methods are not shown" in texts(figure)) == (left_out > 0)


@pytest.mark.parametrize("make", FIGURES)
def test_nothing_lies_outside_the_figure_or_over_its_neighbour(large: TrainingBoard, make) -> None:  # type: ignore[no-untyped-def]
    figure = make(large)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # lays it out
    renderer = canvas.get_renderer()
    shown = [axes._left_title for axes in figure.axes]
    shown += [text for axes in figure.axes for text in axes.texts]
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        shown += [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
    boxes = [text.get_window_extent(renderer) for text in shown if text.get_text() and text.get_visible()]
    assert len(boxes) > 10
    frame = figure.bbox
    assert all(box.x0 >= -1 and box.x1 <= frame.x1 + 1 and box.y0 >= -1 and box.y1 <= frame.y1 + 1 for box in boxes)
    titles = [axes._left_title for axes in figure.axes if axes.get_title(loc="left")]
    spots = [title.get_window_extent(renderer) for title in titles]
    assert not [(a, b) for i, a in enumerate(spots) for b in spots[:i] if a.overlaps(b)]


def test_what_was_not_watched_or_has_one_epoch_has_no_curves() -> None:
    board = board_of(factory.training_records(2))
    assert evaluators.accuracy_curve_figure(board) is None
    assert evaluators.score_curve_figure(board) is None
    assert evaluators.score_accuracy_figure(board) is None


def test_one_seed_is_enough() -> None:
    plans = [(Method(), None, 0.0), (Method(raf=0.9), "set", 0.01)]
    board = board_of(factory.watched_records(plans, 1, num_epochs=3))
    for make in FIGURES:
        figure = make(board)
        assert figure is not None
        assert evaluators.encode(figure, "svg")


def test_without_a_baseline_there_are_curves_and_no_differences() -> None:
    board = board_of(factory.watched_records([(Method(raf=0.9), "set", 0.01)], 2, num_epochs=3))
    assert evaluators.training_figure(board) is evaluators.score_accuracy_figure(board) is None
    for make in (evaluators.raf_figure, evaluators.accuracy_curve_figure, evaluators.score_curve_figure):
        assert make(board) is not None
        assert not [text for text in texts(make(board)) if "baseline" in text and "nearest" not in text]


@pytest.mark.parametrize("make", FIGURES)
def test_every_colour_has_one_for_a_dark_ground(board: TrainingBoard, make) -> None:  # type: ignore[no-untyped-def]
    light, dark, outside = colours_of(evaluators.encode(make(board), "svg"))
    assert len(light) > 3
    assert dark == {DARK[color] for color in light}
    assert not outside


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([95, 94, 93, 10], 3),
        ([95, 94, 11, 10], 2),  # half of them may be at chance
        ([95, 90, 85, 80, 75], 5),  # a slope is no outlier
        ([95, 94, 86], 3),
        ([97, 96, 96, 95, 95, 94, 88, 80, 76, 52, 10], 7),  # one that ends at chance is
        ([95], 1),
    ],
)
def test_only_what_is_far_below_most_is_cut_off(values: list[float], shown: int) -> None:
    cut = far_below(values, at_least=10)
    assert [value >= cut for value in values] == [True] * shown + [False] * (len(values) - shown)
