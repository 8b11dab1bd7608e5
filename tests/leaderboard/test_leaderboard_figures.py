from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from helpers import record_factory as factory
from helpers.colours import colours_of
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from fmcs_bench.core.errors import ConfigError, RecordError
from fmcs_bench.core.figure_style import DARK
from fmcs_bench.leaderboard.figures import answers
from fmcs_bench.leaderboard.figures import evaluators as plots
from fmcs_bench.results.evaluator_board import EvaluatorBoard, evaluator_boards
from fmcs_bench.results.metrics import Breakdown, break_down
from fmcs_bench.results.training_board import TrainingBoard, training_boards


@pytest.fixture
def evaluators() -> EvaluatorBoard:
    return evaluator_boards(factory.evaluator_records())[0]


@pytest.fixture
def training() -> TrainingBoard:
    return training_boards(factory.training_records())[0]


def trajectory() -> Figure:
    steps = np.arange(1, 201)
    return plots.trajectory_figure(
        losses=2.3 * np.exp(-steps / 30) + 0.1,
        smoothed=2.3 * np.exp(-steps / 40) + 0.1,
        cqi=np.where(np.arange(199) == 150, 0.0, np.exp(-np.arange(199) / 25)),
        checkpoint_steps=np.array([1, 10, 50, 100, 200]),
        checkpoint_accuracy=np.array([0.1, 0.4, 0.7, 0.8, 0.9]),
        marker_steps=np.array([2, 4, 7, 50, 100]),
        threshold=0.05,
        convergence_step=95,
        steps_per_epoch=20,
    )


def line_points(figure: Figure) -> set[tuple[float, float]]:
    lines = [line for axes in figure.axes for line in axes.lines]
    return {(round(float(x), 9), round(float(y), 9)) for line in lines for x, y in zip(*line.get_data(), strict=True)}


def horizontal_spans(figure: Figure) -> set[tuple[float, float]]:
    """Ends of the interval bars."""
    bars = [item for item in figure.axes[0].collections if isinstance(item, LineCollection)]
    return {(round(path[0, 0], 9), round(path[1, 0], 9)) for bar in bars for path in bar.get_segments()}


def texts(figure: Figure) -> set[str]:
    return {item.get_text() for item in figure.findobj(match=mpl.text.Text)}  # type: ignore[arg-type]


def test_the_evaluator_figure_draws_the_boards_numbers(evaluators: EvaluatorBoard) -> None:
    figure = plots.evaluator_figure(evaluators)
    drawn = {x for x, _ in line_points(figure)}
    spans = horizontal_spans(figure)
    for row in evaluators.rows:
        for column in ("test_run", "same_run"):
            estimate = row.mae[column]
            assert estimate.low is not None
            assert estimate.high is not None
            assert round(estimate.mean, 9) in drawn
            assert (round(estimate.low, 9), round(estimate.high, 9)) in spans
            assert {round(record.metrics[column].mae, 9) for record in row.records} <= drawn
        assert str(row.mae["test_run"]) in texts(figure)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == [f"{row.evaluator}{'  (chosen)' if row.chosen else ''}" for row in evaluators.rows]
    assert figure.axes[0].get_ylim()[0] > figure.axes[0].get_ylim()[1]  # the best is on top
    assert figure.axes[0].get_xlabel() == "MAE (stages), smaller is better"


def test_the_dashed_line_is_the_mae_of_always_answering_the_middle_stage(evaluators: EvaluatorBoard) -> None:
    assert evaluators.num_stages == 7
    middle = round((3 + 2 + 1 + 0 + 1 + 2 + 3) / 7, 9)
    assert {(middle, 0.0), (middle, 1.0)} <= line_points(plots.evaluator_figure(evaluators))


def test_the_score_figure_draws_the_mean_over_seeds(evaluators: EvaluatorBoard) -> None:
    figure = plots.score_figure(evaluators)
    points = line_points(figure)
    for row in evaluators.rows:
        mean = np.mean([record.trajectory.score for record in row.records], axis=0)
        assert {(float(x), round(y, 9)) for x, y in zip(factory.STEPS, mean, strict=True)} <= points
    accuracy = evaluators.rows[0].records[0].trajectory.validation_accuracy
    assert {(float(x), round(100 * y, 9)) for x, y in zip(factory.STEPS, accuracy, strict=True)} <= points
    titles = [axes.get_title(loc="left") for axes in figure.axes if axes.get_title(loc="left")]
    assert titles == [f"{row.evaluator}{' (chosen)' if row.chosen else ''}" for row in evaluators.rows]


def breakdowns(board: EvaluatorBoard) -> dict[str, Breakdown]:
    rng = np.random.default_rng(0)
    num = board.num_stages
    return {
        row.evaluator: break_down([{"test_run/probs": rng.dirichlet(np.full(num, 0.3), (num, 20))} for _ in range(3)])
        for row in board.rows
    }


def test_the_confusion_figure_shows_every_share_and_the_recall(evaluators: EvaluatorBoard) -> None:
    found = breakdowns(evaluators)
    figure = plots.confusion_figure(evaluators, found)
    for row, axes in zip(evaluators.rows, figure.axes, strict=False):
        confusion = found[row.evaluator].confusion_KK
        (cells,) = axes.collections
        drawn = {tuple(np.mean(path.vertices[:4], axis=0)): color[3] for path, color in
                 zip(cells.get_paths(), cells.get_facecolors(), strict=True)}  # fmt: skip
        for (x, y), opacity in drawn.items():
            assert opacity == pytest.approx(answers.DARKEST * confusion[int(y) - 1, int(x) - 1])
        assert len(drawn) == (confusion >= 0.005).sum()
        assert [text.get_text() for text in axes.texts] == [f"{100 * r.mean:.0f}" for r in found[row.evaluator].recall]
        assert axes.get_ylim()[0] > axes.get_ylim()[1]  # stage 1 on top


def test_the_calibration_figure_draws_the_bins(evaluators: EvaluatorBoard) -> None:
    found = breakdowns(evaluators)
    points = line_points(plots.calibration_figure(evaluators, found))
    for breakdown in found.values():
        assert {(round(part.confidence, 9), round(part.accuracy, 9)) for part in breakdown.bins} <= points


def test_the_cost_figure_draws_quality_against_speed_and_the_front() -> None:
    speeds = {"slow": (0.4, 10.0), "fast": (0.9, 1000.0), "worse": (0.95, 100.0), "unknown": (0.5, None)}
    records = [
        factory.evaluator_record(name, seed, mae=mae + seed / 100, maps_per_second=speed)
        for name, (mae, speed) in speeds.items()
        for seed in range(3)
    ]
    figure = plots.cost_figure(evaluator_boards(records)[0])
    assert figure is not None
    points = line_points(figure)
    assert {(10.1, 0.41), (1010, 0.91), (101, 0.96)} <= {(round(x, 6), round(y, 6)) for x, y in points}
    front = figure.axes[0].lines[0]
    assert [round(x) for x in front.get_xdata()] == [10, 1010]
    assert {"slow (chosen)", "fast", "worse", "Without 1 whose speed was not measured"} <= texts(figure)
    assert plots.cost_figure(evaluator_boards([factory.evaluator_record(maps_per_second=None)])[0]) is None


def test_names_in_the_cost_figure_cover_neither_each_other_nor_points_nor_bars() -> None:
    rng = np.random.default_rng(1)
    records = [
        factory.evaluator_record(f"evaluator-{i}", seed, mae=mae + 0.01 * seed * (1 + i % 3), maps_per_second=speed)
        for i, (mae, speed) in enumerate(zip(rng.uniform(0.7, 2.2, 15), 10 ** rng.uniform(4, 6, 15), strict=True))
        for seed in range(3)
    ]
    figure = plots.cost_figure(evaluator_boards(records)[0])
    assert figure is not None
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    (axes,) = figure.axes
    # The whole annotation would have its line in it.
    boxes = [mpl.text.Text.get_window_extent(text, canvas.get_renderer()) for text in axes.texts]
    dots = axes.transData.transform([(line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines[1:]])
    bars = [axes.transData.transform(path) for item in axes.collections for path in item.get_segments()]  # type: ignore[attr-defined]
    assert len(boxes) == len(dots) == len(bars) == 15
    covered = [
        *((a, b) for i, a in enumerate(boxes) for b in boxes[:i] if a.padded(-1.5).overlaps(b.padded(-1.5))),
        *((box, dot) for box in boxes for dot in dots if box.contains(*dot)),
        *((box, bar) for box in boxes for bar in bars if box.x0 < bar[0, 0] < box.x1
          and min(box.y1, bar[:, 1].max()) > max(box.y0, bar[:, 1].min())),
    ]  # fmt: skip
    assert covered == []
    assert all(axes.get_window_extent().padded(2).contains(*corner) for box in boxes for corner in box.corners())


def test_many_evaluators_have_panels_of_their_own_up_to_a_number_that_is_told() -> None:
    records = [factory.evaluator_record(f"e{i}", mae=0.5 + i / 100, validation_run=2 - i / 100) for i in range(30)]
    (board,) = evaluator_boards(records)
    rows = answers.shown(board)
    assert len(rows) == answers.MAX_PANELS
    assert rows[-1].chosen  # the last by rank, and there all the same
    figure = plots.confusion_figure(board, breakdowns(board))
    assert "stage that was named; 6 more evaluators are not shown" in texts(figure)


def test_scores_at_other_checkpoints_are_not_drawn_together() -> None:
    records = [factory.evaluator_record(), factory.evaluator_record("set", step=(1, 2, 3))]
    with pytest.raises(RecordError, match="2 different sets of checkpoints"):
        plots.score_figure(evaluator_boards(records)[0])


def test_the_training_figure_draws_differences_in_percentage_points(training: TrainingBoard) -> None:
    figure = plots.training_figure(training)
    assert figure is not None
    drawn, spans = {x for x, _ in line_points(figure)}, horizontal_spans(figure)
    base = {record.seed: record.metrics.test_accuracy for record in training.rows[0].chosen.records}
    for row in training.rows[1:]:
        assert row.difference is not None
        mean, low, high = (100 * value for value in row.difference.estimate[:3])
        assert round(mean, 9) in drawn
        assert (round(low, 9), round(high, 9)) in spans
        own = {record.seed: record.metrics.test_accuracy for record in row.chosen.records}
        assert {round(100 * (own[seed] - base[seed]), 9) for seed in base} <= drawn
    assert len(figure.axes[0].get_yticklabels()) == len(training.rows) - 1


def test_the_raf_figure_draws_the_whole_sweep_and_fills_the_chosen(training: TrainingBoard) -> None:
    figure = plots.raf_figure(training)
    assert figure is not None
    heights = {y for _, y in line_points(figure)}
    families = [row for row in training.rows if len(row.sweep) > 1]
    for row in families:
        assert {round(100 * point.test_accuracy.mean, 9) for point in row.sweep} <= heights
    dots = [line for axes in figure.axes for line in axes.lines if line.get_marker() in ("o", "D")]
    filled = {round(float(dot.get_ydata()[0]), 9) for dot in dots if dot.get_markerfacecolor() == dot.get_color()}
    assert filled == {round(100 * row.chosen.test_accuracy.mean, 9) for row in families}
    assert round(100 * training.rows[0].chosen.test_accuracy.mean, 9) in heights  # the baseline


def test_there_is_no_training_figure_without_anything_to_compare() -> None:
    alone = training_boards([factory.training_record()])[0]
    assert plots.training_figure(alone) is None
    assert plots.raf_figure(alone) is None


def test_the_trajectory_figure_puts_steps_where_their_epochs_are() -> None:
    figure = trajectory()
    upper, middle, lower = figure.axes
    raw, smoothed, stages = upper.lines[1:]
    assert raw.get_xdata()[[0, -1]].tolist() == [1 / 20, 10]
    assert stages.get_xdata().tolist() == [0.1, 0.2, 0.35, 2.5, 5.0]
    assert np.isin(stages.get_ydata(), smoothed.get_ydata()).all()
    cqi = middle.lines[1]
    assert cqi.get_xdata()[0] == 2 / 20
    assert np.isnan(cqi.get_ydata()[150])  # 0 cannot stand on a log scale
    assert (4.75, 0.05) in line_points(figure)
    assert lower.lines[-1].get_ydata() == pytest.approx([10, 40, 70, 80, 90])
    assert {"1", "2", "3", "4", "5"} <= texts(figure)


def test_stage_numbers_do_not_lie_over_one_another() -> None:
    figure = trajectory()
    labels = [item for item in figure.axes[0].texts if isinstance(item, mpl.text.Annotation)]
    places = [label.xyann[0] for label in labels]
    assert [label.get_text() for label in labels] == ["1", "2", "3", "4", "5"]
    assert np.diff(places).min() > 0.02
    assert max(places) <= 1


def test_one_seed_and_one_evaluator_are_enough() -> None:
    board = evaluator_boards([factory.evaluator_record()])[0]
    assert horizontal_spans(plots.evaluator_figure(board)) == set()
    training = training_boards([factory.training_record(), factory.training_record(0.5)])[0]
    for figure in (plots.evaluator_figure(board), plots.score_figure(board), plots.training_figure(training)):
        assert figure is not None
        assert plots.encode(figure, "svg")


@pytest.mark.parametrize("name", ["$x_1$ ^\\frac", "名前", "x" * 200])
def test_any_name_can_be_drawn(name: str) -> None:
    record = factory.evaluator_record().model_copy(
        update={"trial": factory.evaluator_record().trial.model_copy(update={"evaluator": name})}
    )
    board = evaluator_boards([record])[0]
    assert plots.encode(plots.evaluator_figure(board), "png")
    assert plots.encode(plots.score_figure(board), "png")


@pytest.mark.parametrize("suffix", [".svg", ".png", ".pdf"])
def test_saving_twice_gives_the_same_bytes(evaluators: EvaluatorBoard, tmp_path: Path, suffix: str) -> None:
    for name in ("a", "b"):
        plots.save(plots.evaluator_figure(evaluators), tmp_path / f"{name}{suffix}")
    first = (tmp_path / f"a{suffix}").read_bytes()
    assert first == (tmp_path / f"b{suffix}").read_bytes()
    assert first.startswith({".svg": b"<?xml", ".png": b"\x89PNG", ".pdf": b"%PDF"}[suffix])
    assert b"Date" not in first


def test_other_kinds_of_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"figure\.jpg"):
        plots.save(trajectory(), tmp_path / "figure.jpg")
    assert list(tmp_path.iterdir()) == []


def test_every_colour_of_a_figure_has_one_for_a_dark_ground(
    evaluators: EvaluatorBoard, training: TrainingBoard
) -> None:
    figures = (
        plots.evaluator_figure(evaluators),
        plots.score_figure(evaluators),
        plots.confusion_figure(evaluators, breakdowns(evaluators)),
        plots.calibration_figure(evaluators, breakdowns(evaluators)),
        plots.cost_figure(evaluators),
        plots.training_figure(training),
        plots.raf_figure(training),
        trajectory(),
    )
    for figure in figures:
        assert figure is not None
        light, dark, outside = colours_of(plots.encode(figure, "svg"))
        assert len(light) > 3
        assert dark == {DARK[color] for color in light}
        assert not outside


def test_settings_of_the_user_neither_change_a_figure_nor_are_changed(evaluators: EvaluatorBoard) -> None:
    expected = plots.encode(plots.evaluator_figure(evaluators), "svg")
    with mpl.rc_context({"font.size": 30, "axes.facecolor": "red", "svg.fonttype": "none", "lines.linewidth": 9}):
        before = dict(mpl.rcParams)
        assert plots.encode(plots.evaluator_figure(evaluators), "svg") == expected
        assert dict(mpl.rcParams) == before


def test_importing_plots_loads_neither_pyplot_nor_torch() -> None:
    code = (
        "import sys, fmcs_bench.leaderboard.figures.evaluators\n"
        "print([m for m in ('matplotlib.pyplot', 'torch') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
