"""Figures about what evaluators answer and what that costs: a panel for each evaluator, or a point.

Flow: board, breakdowns of its rows -> panels in the order of the ranks, at most ``MAX_PANELS`` -> figure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter

from fmcs_bench.core.errors import RecordError
from fmcs_bench.core.figure_style import BLUE, INK, MUTED, ORANGE, house_style, short
from fmcs_bench.leaderboard.figures.parts import name_points, number_edges
from fmcs_bench.results.evaluator_board import EvaluatorBoard, EvaluatorRow
from fmcs_bench.results.metrics import Breakdown

MAX_PANELS = 24
_COLUMNS = 4
_DASHED = (0, (4, 3))
DARKEST = 0.65
"""Opacity of a full cell; ink on it stays readable, on a light and on a dark ground."""


@house_style()
def score_figure(board: EvaluatorBoard) -> Figure:
    """Mean predicted score along the checkpoints of the test run, beside the backbone's validation accuracy there.

    A line is the mean over seeds, its band goes from the smallest to the largest seed.

    Raises:
        RecordError: records of one board name different checkpoints.
    """
    steps = {record.trajectory.step for row in board.rows for record in row.records}
    if len(steps) != 1:
        raise RecordError(
            f"the records of {board.dataset_id} were scored at {len(steps)} different sets of checkpoints"
        )
    step_P = np.array(steps.pop())
    accuracy_P = 100 * np.array(board.rows[0].records[0].trajectory.validation_accuracy)
    rows = shown(board)
    figure, panels = _panels(rows, height=1.75)
    for i, (row, axes) in enumerate(zip(rows, panels, strict=True)):
        score_SP = np.array([record.trajectory.score for record in row.records])
        color = _color(row)
        axes.fill_between(step_P, score_SP.min(axis=0), score_SP.max(axis=0), color=color, alpha=0.2, linewidth=0)
        axes.plot(step_P, score_SP.mean(axis=0), color=color, linewidth=1.8, zorder=3)
        axes.set_ylim(0.8, board.num_stages + 0.2)
        axes.set_yticks(_stage_ticks(board.num_stages))
        axes.set_xscale("symlog", linthresh=1)
        axes.set_xlim(step_P[0], step_P[-1])
        axes.xaxis.set_major_formatter("{x:g}")
        right = axes.twinx()
        right.plot(step_P, accuracy_P, color=INK, linewidth=1, linestyle=_DASHED)
        right.set_ylim(0, 104)
        right.grid(visible=False)
        last_of_line = i % _COLUMNS == min(_COLUMNS, len(rows)) - 1
        right.set_yticks([0, 50, 100], ["0", "50", "100 %"] if last_of_line else [""] * 3, fontsize=7.5)
    legend = [
        Line2D([], [], color=BLUE, linewidth=2, label="mean predicted score (stages, left)"),
        Line2D([], [], color=INK, linewidth=1, linestyle=_DASHED, label="validation accuracy of the backbone (right)"),
    ]
    _finish(figure, board, rows, legend, "step of the test run (log scale)")
    return figure


@house_style()
def confusion_figure(board: EvaluatorBoard, breakdowns: Mapping[str, Breakdown]) -> Figure:
    """Which stage each evaluator takes which stage for, on the test run; mean over seeds.

    The number on the diagonal is the recall of the stage in per cent.

    Args:
        board: gives the order.
        breakdowns: by evaluator.
    """
    rows = shown(board)
    num = board.num_stages
    figure, panels = _panels(rows, height=1.95)
    for row, axes in zip(rows, panels, strict=True):
        confusion_KK = breakdowns[row.evaluator].confusion_KK
        cells = [(k, c) for k in range(num) for c in range(num) if confusion_KK[k, c] >= 0.005]
        axes.add_collection(
            PolyCollection(
                [_square(c + 1, k + 1) for k, c in cells],
                facecolors=[to_rgba(BLUE, DARKEST * confusion_KK[k, c]) for k, c in cells],
                linewidths=0,
                zorder=2,
            )
        )
        for k in range(num) if num <= 10 else ():
            axes.text(k + 1, k + 1, f"{100 * confusion_KK[k, k]:.0f}", ha="center", va="center", fontsize=6.5, zorder=3)
        axes.set_xlim(0.5, num + 0.5)
        axes.set_ylim(num + 0.5, 0.5)
        axes.set_aspect("equal")
        axes.set_xticks(_stage_ticks(num))
        axes.set_yticks(_stage_ticks(num))
        axes.grid(visible=False)
        for spine in axes.spines.values():
            spine.set_visible(True)
    legend = [
        Line2D([], [], color=to_rgba(BLUE, DARKEST * share), marker="s", markersize=9, linewidth=0, label=label)
        for share, label in ((1, "100 % of the maps of the true stage"), (0.5, "50 %"), (0.1, "10 %"))
    ]
    _finish(figure, board, rows, legend, "stage that was named", "true stage (FMCS)")
    return figure


@house_style()
def calibration_figure(board: EvaluatorBoard, breakdowns: Mapping[str, Breakdown]) -> Figure:
    """Calibration curves on the test run: how often the most probable stage is right, by its probability.

    The bins are those of the calibration error; a dot's area is the share of maps in it.

    Args:
        board: gives the order and the calibration errors.
        breakdowns: by evaluator.
    """
    rows = shown(board)
    figure, panels = _panels(rows, height=1.75)
    for row, axes in zip(rows, panels, strict=True):
        bins = breakdowns[row.evaluator].bins
        confidence, accuracy = [part.confidence for part in bins], [part.accuracy for part in bins]
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=_DASHED, zorder=1.5)
        axes.plot(confidence, accuracy, color=_color(row), linewidth=1.2, zorder=2)
        sizes = [4 + 90 * part.share for part in bins]
        axes.scatter(confidence, accuracy, s=sizes, color=_color(row), linewidths=0, zorder=3)
        error = np.mean([record.metrics["test_run"].ece for record in row.records])
        axes.text(0.04, 0.93, f"ECE {error:.2f}", fontsize=8, va="top")
        axes.set_xlim(0, 1.03)
        axes.set_ylim(0, 1.03)
        axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        axes.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
    legend = [
        Line2D([], [], color=BLUE, marker="o", linewidth=1.2, label="answers, all seeds together"),
        Line2D([], [], color=MUTED, linewidth=1, linestyle=_DASHED, label="perfectly calibrated"),
    ]
    _finish(figure, board, rows, legend, "probability of the most probable stage", "share that is right")
    return figure


@house_style()
def cost_figure(board: EvaluatorBoard) -> Figure | None:
    """MAE on the test run with its interval, against maps judged per second; the line is the Pareto front.

    Returns:
        None where no evaluator's speed was measured.
    """
    points = [(row, row.maps_per_second.mean) for row in board.rows if row.maps_per_second is not None]
    if not points:
        return None
    front = pareto_front([(speed, row.mae["test_run"].mean) for row, speed in points])
    figure = Figure(figsize=(8.6, max(3.8, 1.8 + 0.2 * len(points))), layout="constrained")
    axes = figure.subplots()
    line = sorted((points[i][1], points[i][0].mae["test_run"].mean) for i in front)
    axes.plot(*zip(*line, strict=True), color=ORANGE, linewidth=1.2, drawstyle="steps-pre", zorder=2)
    bars = [end for (w, a), (x, b) in pairwise(line) for end in (((w, a), (w, b)), ((w, b), (x, b)))]
    for i, (row, speed) in enumerate(points):
        mae, color = row.mae["test_run"], ORANGE if i in front else BLUE
        if mae.low is not None and mae.high is not None:
            axes.vlines(speed, mae.low, mae.high, color=color, linewidth=1.6, zorder=3)
            bars.append(((speed, mae.low), (speed, mae.high)))
        axes.plot(speed, mae.mean, "o", color=color, markersize=6, zorder=4)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.08, y=0.1)
    axes.set_ylim(bottom=0)
    left_out = len(board.rows) - len(points)
    axes.set_xlabel("maps per second (log scale; right is faster), on the machines that the records name")
    axes.set_ylabel("MAE on the test run (stages)")
    if left_out:
        axes.set_title(f"Without {left_out} whose speed was not measured", fontweight="normal", color=MUTED)
    legend = [
        Line2D([], [], color=ORANGE, marker="o", linewidth=1.2, label="no other is both faster and better"),
        Line2D([], [], color=BLUE, marker="o", linewidth=1.6, label="the others, 95 % interval"),
    ]
    figure.legend(handles=legend, loc="outside upper left", ncols=2)
    names = [(speed, row.mae["test_run"].mean, _name(row)) for row, speed in points]
    name_points(axes, names, bars, [INK if i in front else MUTED for i in range(len(points))])
    return figure


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Positions of the points (speed, error) that no other is at least as good as in both and better in one.

    Example:
        >>> pareto_front([(10, 0.5), (20, 0.4), (30, 0.9), (5, 0.4)])
        [1, 2]
    """
    return [
        i
        for i, (speed, error) in enumerate(points)
        if not any((s >= speed and e <= error) and (s, e) != (speed, error) for s, e in points)
    ]


def shown(board: EvaluatorBoard) -> list[EvaluatorRow]:
    """The rows that have a panel: all, or the first ``MAX_PANELS`` with the chosen one among them."""
    first = list(board.rows[:MAX_PANELS])
    if board.chosen is not None and not any(row.chosen for row in first):
        first[-1] = board.chosen
    return first


def _panels(rows: Sequence[EvaluatorRow], *, height: float) -> tuple[Figure, list[Axes]]:
    """A grid with a titled panel for each row; every panel has the same size."""
    num_columns = min(_COLUMNS, len(rows))
    num_lines = -(-len(rows) // num_columns)
    size = max(5.8, 0.36 + 2.06 * num_columns), 0.75 + height * num_lines  # the legend needs the first
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(num_lines, num_columns, squeeze=False)
    panels: list[Axes] = list(grid.flat)
    for axes in panels[len(rows) :]:
        axes.set_axis_off()
    for row, axes in zip(rows, panels, strict=False):
        axes.set_title(_name(row, 22), fontsize=9, fontweight="bold" if row.chosen else "normal")
        axes.tick_params(labelsize=7.5)
    return figure, panels[: len(rows)]


def _finish(
    figure: Figure,
    board: EvaluatorBoard,
    rows: Sequence[EvaluatorRow],
    legend: Sequence[Line2D],
    x_label: str,
    y_label: str = "",
) -> None:
    figure.legend(handles=legend, loc="outside upper left", ncols=len(legend), columnspacing=1.6, handlelength=1.9)
    number_edges(figure.axes[: len(rows)], columns=_COLUMNS)
    left_out = len(board.rows) - len(rows)
    figure.supxlabel(f"{x_label}; {left_out} more evaluators are not shown" if left_out else x_label, fontsize=9.5)
    if y_label:
        figure.supylabel(y_label, fontsize=9.5)


def _square(x: float, y: float) -> list[tuple[float, float]]:
    return [(x - 0.5, y - 0.5), (x + 0.5, y - 0.5), (x + 0.5, y + 0.5), (x - 0.5, y + 0.5)]


def _stage_ticks(num_stages: int) -> list[int]:
    """1 and K, and what lies evenly between where there is room."""
    return list(range(1, num_stages + 1)) if num_stages <= 9 else [1, (num_stages + 1) // 2, num_stages]


def _color(row: EvaluatorRow) -> str:
    return ORANGE if row.chosen else BLUE


def _name(row: EvaluatorRow, length: int = 26) -> str:
    name = short(row.evaluator, length)
    return f"{name} (chosen)" if row.chosen else name
