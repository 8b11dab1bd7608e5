"""Figures of an evaluator board: errors, answers along the test run, confusion and calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fmcs_bench.core.errors import RecordError
from fmcs_bench.core.figure_style import BLUE, INK, MUTED, ORANGE, house_style, short
from fmcs_bench.leaderboard.figures import (
    DASHED,
    MAX_PANELS,
    interval,
    numbers_beside,
    panels,
    rows_figure,
    seed_dots,
)
from fmcs_bench.results.evaluator_board import EvaluatorBoard, EvaluatorRow

_COLUMNS = 4


@house_style()
def error_figure(board: EvaluatorBoard) -> Figure:
    """MAE of every evaluator on the test run and on the training runs, with 95 % intervals and a dot for each seed.

    The dashed line is the MAE of always answering the middle stage.
    """
    figure, axes = rows_figure(len(board.rows), height=0.44)
    for i, row in enumerate(board.rows):
        for subset, y, color, marker in (("test_run", i - 0.21, BLUE, "o"), ("same_run", i + 0.13, ORANGE, "D")):
            seed_dots(axes, [record.metrics[subset].mae for record in row.records], y, color)  # type: ignore[index]
            interval(axes, row.mae[subset], y, color, marker)  # type: ignore[index]
    stages_K = np.arange(1, board.num_stages + 1)
    middle = float(np.abs(stages_K - np.median(stages_K)).mean())
    axes.axvline(middle, color=INK, linewidth=1, linestyle=DASHED, zorder=1.5)
    axes.set_yticks(range(len(board.rows)), [_name(row, 40) for row in board.rows])
    for label, row in zip(axes.get_yticklabels(), board.rows, strict=True):
        label.set_fontweight("bold" if row.chosen else "normal")
    numbers_beside(axes, "test run [95 % interval]", [str(row.mae["test_run"]) for row in board.rows])
    axes.autoscale_view()
    axes.set_xlim(left=0)
    axes.set_xlabel("MAE (stages), smaller is better")
    legend = [
        Line2D([], [], color=BLUE, marker="o", linewidth=2, label="test run, not seen in fitting"),
        Line2D([], [], color=ORANGE, marker="D", markersize=5, linewidth=2, label="same runs, other images"),
        Line2D([], [], color=INK, linewidth=1, linestyle=DASHED, label="always the middle stage"),
        Line2D([], [], color=MUTED, marker="o", markersize=3.2, alpha=0.7, linewidth=0, label="one seed"),
    ]
    figure.legend(handles=legend, loc="outside upper left", ncols=4, columnspacing=1.6, handlelength=1.9)
    return figure


@house_style()
def score_figure(board: EvaluatorBoard) -> Figure:
    """Mean predicted score along the checkpoints of the test run, beside the backbone's validation accuracy there.

    A line is the mean over seeds, its band goes from the smallest to the largest seed.

    Raises:
        RecordError: records of one board have different checkpoints.
    """
    steps = {record.trajectory.step for row in board.rows for record in row.records}
    if len(steps) != 1:
        raise RecordError(f"the records of {board.dataset_id} have {len(steps)} different lists of checkpoints")
    step_P = np.array(steps.pop())
    accuracy_P = 100 * np.array(board.rows[0].records[0].trajectory.validation_accuracy)
    rows = panel_rows(board)
    figure, grid = _panels(rows, height=1.75)
    for i, (row, axes) in enumerate(zip(rows, grid, strict=True)):
        score_SP = np.array([record.trajectory.score for record in row.records])
        axes.fill_between(step_P, score_SP.min(axis=0), score_SP.max(axis=0), color=_color(row), alpha=0.2, linewidth=0)
        axes.plot(step_P, score_SP.mean(axis=0), color=_color(row), linewidth=1.8, zorder=3)
        axes.set_ylim(0.8, board.num_stages + 0.2)
        axes.set_yticks(_stage_ticks(board.num_stages))
        axes.set_xscale("symlog", linthresh=1)
        axes.set_xlim(step_P[0], step_P[-1])
        axes.xaxis.set_major_formatter("{x:g}")
        right = axes.twinx()
        right.plot(step_P, accuracy_P, color=INK, linewidth=1, linestyle=DASHED)
        right.set_ylim(0, 104)
        right.grid(visible=False)
        last_of_line = i % _COLUMNS == min(_COLUMNS, len(rows)) - 1
        right.set_yticks([0, 50, 100], ["0", "50", "100 %"] if last_of_line else [""] * 3, fontsize=7.5)
    legend = [
        Line2D([], [], color=BLUE, linewidth=2, label="mean predicted score (stages, left)"),
        Line2D([], [], color=INK, linewidth=1, linestyle=DASHED, label="validation accuracy of the backbone (right)"),
    ]
    _finish(figure, board, rows, legend, "step of the test run (log scale)")
    return figure


@house_style()
def confusion_figure(board: EvaluatorBoard, confusions: Mapping[str, np.ndarray]) -> Figure:
    """Which stage each evaluator predicts for each true stage of the test run; mean over seeds.

    The number on the diagonal is the recall of the stage in per cent.
    """
    rows, num = panel_rows(board), board.num_stages
    figure, grid = _panels(rows, height=1.95)
    edges = np.arange(num + 1) + 0.5
    for row, axes in zip(rows, grid, strict=True):
        confusion_KK = confusions[row.evaluator]
        axes.pcolormesh(edges, edges, confusion_KK, cmap="Blues", vmin=0, vmax=1.3)
        for k in range(num) if num <= 10 else ():
            axes.text(k + 1, k + 1, f"{100 * confusion_KK[k, k]:.0f}", ha="center", va="center", fontsize=6.5, zorder=3)
        axes.set_xlim(0.5, num + 0.5)
        axes.set_ylim(num + 0.5, 0.5)
        axes.set_aspect("equal")
        axes.set_xticks(_stage_ticks(num))
        axes.set_yticks(_stage_ticks(num))
        axes.grid(visible=False)
    _finish(figure, board, rows, (), "predicted stage", "true stage (FMCS)")
    return figure


def panel_rows(board: EvaluatorBoard) -> list[EvaluatorRow]:
    """The rows that have a panel: all, or the first ``MAX_PANELS`` with the chosen one among them."""
    first = list(board.rows[:MAX_PANELS])
    if board.chosen is not None and not any(row.chosen for row in first):
        first[-1] = board.chosen
    return first


def _panels(rows: Sequence[EvaluatorRow], *, height: float) -> tuple[Figure, list[Axes]]:
    figure, grid = panels(len(rows), columns=_COLUMNS, height=height, width=2.06, same_y=False)
    for row, axes in zip(rows, grid, strict=True):
        axes.set_title(_name(row, 22), fontsize=9, fontweight="bold" if row.chosen else "normal")
    return figure, grid


def _finish(
    figure: Figure,
    board: EvaluatorBoard,
    rows: Sequence[EvaluatorRow],
    legend: Sequence[Line2D],
    x_label: str,
    y_label: str = "",
) -> None:
    if legend:
        figure.legend(handles=legend, loc="outside upper left", ncols=len(legend), columnspacing=1.6, handlelength=1.9)
    left_out = len(board.rows) - len(rows)
    figure.supxlabel(f"{x_label}; {left_out} more evaluators are not shown" if left_out else x_label, fontsize=9.5)
    figure.supylabel(y_label, fontsize=9.5)


def _stage_ticks(num_stages: int) -> list[int]:
    """1 and K, and what lies evenly between where there is room."""
    return list(range(1, num_stages + 1)) if num_stages <= 9 else [1, (num_stages + 1) // 2, num_stages]


def _color(row: EvaluatorRow) -> str:
    return ORANGE if row.chosen else BLUE


def _name(row: EvaluatorRow, length: int) -> str:
    return f"{short(row.evaluator, length)}{' (chosen)' if row.chosen else ''}"
