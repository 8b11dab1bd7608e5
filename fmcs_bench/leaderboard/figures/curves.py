"""Figures about the way of training: accuracy and score after every epoch, and which of the two a method raises.

Flow: board -> curve of the baseline and of every row's chosen point -> a panel for each row, at most ``MAX_PANELS``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from fmcs_bench.core.figure_style import BLUE, INK, MUTED, ORANGE, PAPER, house_style, short
from fmcs_bench.leaderboard.figures.parts import DASHED, far_below, number_edges, panels
from fmcs_bench.leaderboard.figures.training import POINTS_APART, color_of, in_points, marker_of
from fmcs_bench.results.statistics import Estimate
from fmcs_bench.results.training_board import SweepPoint, TrainingBoard, TrainingRow

MAX_PANELS = 24
_COLUMNS = 3
_ACCURACY_TICKS = (0, 20, 40, 60, 80, 90, 95, 98, 99, 100)
_ROOM = 0.11
"""Share of the height that a tick needs."""

_Curve = Sequence[Estimate]


@house_style()
def accuracy_curve_figure(board: TrainingBoard) -> Figure | None:
    """Validation accuracy after every epoch: the chosen RAF of every family with a judge, beside the baseline.

    A line is the mean over seeds, its band the 95 % interval. The axis is stretched towards 100 %.

    Returns:
        None where no family has a judge, or none was trained for more than one epoch.

    Raises:
        RecordError: seeds of one method were not trained for the same epochs.
    """
    rows = [row for row in board.rows if row.chosen.raf < 1]
    figure = _curve_figure(board, rows, _accuracy, "validation accuracy (%)")
    if figure is not None:
        axes = figure.axes[0]
        drawn = [row.chosen for row in (board.baseline, *rows) if row is not None]
        ends = [end for point in drawn for e in _accuracy(point) for end in (e.mean, e.low, e.high) if end is not None]
        low, high = max(0.0, min(ends)), min(100.0, max(ends))
        axes.set_yscale("function", functions=(_stretch, _unstretch))
        axes.set_yticks(_ticks_between(low, high))
        axes.set_yticks([], minor=True)
        axes.set_ylim(low, high)
    return figure


@house_style()
def score_curve_figure(board: TrainingBoard) -> Figure | None:
    """Mean FMCS of the validation images after every epoch, of every method beside the baseline; as above.

    Returns:
        None where no method was watched, or none was trained for more than one epoch.

    Raises:
        RecordError: seeds of one method were not trained for the same epochs.
    """
    rows = [row for row in board.rows if row is not board.baseline and row.chosen.score_curve is not None]
    figure = _curve_figure(board, rows, lambda point: point.score_curve, "mean score (FMCS, stages)")
    if figure is not None:
        figure.axes[0].yaxis.set_major_locator(MaxNLocator(integer=True))
        figure.axes[0].set_ylim(bottom=0.8)
    return figure


@house_style()
def score_accuracy_figure(board: TrainingBoard) -> Figure | None:
    """What training changed: score and test accuracy, each minus the baseline's at equal seeds, with 95 % intervals.

    Top right are methods that raise both, top left those that please the judge and lose accuracy.

    Returns:
        None where no method and the baseline were watched at the same seed.
    """
    compared = [
        (row, in_points(row.difference.estimate), row.chosen.score_difference.estimate)
        for row in board.rows
        if row.difference is not None and row.chosen.score_difference is not None
    ]
    if not compared:
        return None
    figure = Figure(figsize=(9.2, max(4.4, 1.3 + 0.22 * len(compared))), layout="constrained")
    axes = figure.subplots()
    axes.axhline(0, color=INK, linewidth=1, zorder=1.5)
    axes.axvline(0, color=INK, linewidth=1, zorder=1.5)
    cut = far_below([0.0, *(accuracy.mean for _, accuracy, _ in compared)], at_least=POINTS_APART)
    for row, accuracy, score in compared:
        if accuracy.mean >= cut:
            _cross(axes, accuracy, score, color_of(row))
    axes.update_datalim(
        [(0, 0), *((accuracy.mean if accuracy.mean >= cut else 0, score.mean) for _, accuracy, score in compared)]
    )
    axes.margins(0.08)
    axes.autoscale_view()
    left, right = axes.get_xlim()
    axes.set_xlim(left, right)
    for i, (row, accuracy, score) in enumerate(compared):
        name, x, marker = short(row.chosen.records[0].method), accuracy.mean, marker_of(row)
        if x < cut:
            name += ", far left at " + f"{x:+.1f}".replace("-", "\N{MINUS SIGN}")
            x, marker = left + 0.03 * (right - left), "s"
        axes.plot(x, score.mean, marker, color=color_of(row), markersize=11, clip_on=False, zorder=3 + i)
        number = axes.text(x, score.mean, str(i + 1), color=PAPER, fontsize=6, fontweight="bold", zorder=3 + i)
        number.set(ha="center", va="center_baseline")
        place = 1 - (i + 0.5) / max(len(compared), 12)
        color = MUTED if row.control else INK
        axes.text(1.06, place, str(i + 1), transform=axes.transAxes, color=color, fontsize=8, ha="right", va="center")
        axes.text(1.08, place, name, transform=axes.transAxes, color=color, fontsize=8, va="center")
    axes.set_xlabel("test accuracy minus the baseline's (percentage points)")
    axes.set_ylabel("mean score minus the baseline's (stages)")
    legend = [Line2D([], [], color=BLUE, marker="o", linewidth=1.4, label="method, 95 % intervals")]
    if any(row.control for row, _, _ in compared):
        legend.append(Line2D([], [], color=ORANGE, marker="D", linewidth=1.4, label="control"))
    legend.append(Line2D([], [], color=INK, linewidth=1, label="as the baseline"))
    figure.legend(handles=legend, loc="outside upper left", ncols=3, columnspacing=1.6, handlelength=1.9)
    return figure


def _cross(axes: Axes, accuracy: Estimate, score: Estimate, color: str) -> None:
    if accuracy.low is not None and accuracy.high is not None:
        axes.hlines(score.mean, accuracy.low, accuracy.high, color=color, linewidth=1.2, alpha=0.5, zorder=2)
    if score.low is not None and score.high is not None:
        axes.vlines(accuracy.mean, score.low, score.high, color=color, linewidth=1.2, alpha=0.5, zorder=2)


def _accuracy(point: SweepPoint) -> list[Estimate]:
    return [in_points(estimate) for estimate in point.accuracy_curve]


def _curve_figure(
    board: TrainingBoard, rows: Sequence[TrainingRow], curve_of: Callable[[SweepPoint], _Curve | None], y_label: str
) -> Figure | None:
    """A panel for each row with its curve and the baseline's; None where there is nothing but one epoch."""
    curves = [(row, curve) for row in rows if (curve := curve_of(row.chosen)) is not None and len(curve) > 1]
    if not curves:
        return None
    baseline = None if board.baseline is None else curve_of(board.baseline.chosen)
    figure, grid = panels(min(len(curves), MAX_PANELS), columns=_COLUMNS, height=1.75, width=2.8)
    for axes, (row, curve) in zip(grid, curves, strict=False):
        if baseline is not None:
            _line(axes, baseline, INK, dashed=True)
        _line(axes, curve, color_of(row), dashed=False)
        axes.set_xlim(1, len(curve))
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True, min_n_ticks=2))
        axes.tick_params(labelsize=7.5)
        axes.set_title(f"{short(row.family, 40)}\n{_below_the_name(row)}", fontsize=8, fontweight="normal")
    if len({len(curve) for _, curve in curves}) == 1:  # else each panel has an axis of its own
        number_edges(grid, columns=_COLUMNS)
    left_out = len(curves) - len(grid)
    figure.supxlabel(f"epoch; {left_out} more methods are not shown" if left_out else "epoch", fontsize=9.5)
    figure.supylabel(y_label, fontsize=9.5)
    legend = [Line2D([], [], color=BLUE, linewidth=2, label="method at its chosen RAF")]
    if any(row.control for row, _ in curves):
        legend.append(Line2D([], [], color=ORANGE, linewidth=2, label="control"))
    if baseline is not None:
        legend.append(Line2D([], [], color=INK, linewidth=1, linestyle=DASHED, label="baseline"))
    legend.append(Line2D([], [], color=MUTED, linewidth=7, alpha=0.3, label="95 % interval over seeds"))
    figure.legend(handles=legend, loc="outside upper left", ncols=4, columnspacing=1.6, handlelength=1.9)
    return figure


def _line(axes: Axes, curve: _Curve, color: str, *, dashed: bool) -> None:
    epochs = np.arange(1, len(curve) + 1)
    low = [estimate.mean if estimate.low is None else estimate.low for estimate in curve]
    high = [estimate.mean if estimate.high is None else estimate.high for estimate in curve]
    axes.fill_between(epochs, low, high, color=MUTED if dashed else color, alpha=0.22, linewidth=0)
    mean = [estimate.mean for estimate in curve]
    axes.plot(epochs, mean, color=color, linewidth=1 if dashed else 1.7, linestyle=DASHED if dashed else "-", zorder=3)


def _below_the_name(row: TrainingRow) -> str:
    parts = [f"RAF {row.chosen.raf:g}"] if row.chosen.raf < 1 else []
    return ", ".join([*parts, *(["control"] if row.control else [])])


def _stretch(accuracy: np.ndarray) -> np.ndarray:
    """Percentages on an axis on which 98 and 99 lie as far apart as 95 and 97, and 100 has a place."""
    height: np.ndarray = -np.log(101 - np.clip(accuracy, -50, 100.5))
    return height


def _unstretch(height: np.ndarray) -> np.ndarray:
    accuracy: np.ndarray = 101 - np.exp(-np.asarray(height))
    return accuracy


def _ticks_between(low: float, high: float) -> list[int]:
    """Percentages that leave room between them, from above."""
    length = _stretch(np.array(high)) - _stretch(np.array(low))
    found: list[int] = []
    for tick in reversed([tick for tick in _ACCURACY_TICKS if low <= tick <= high]):
        if not found or _stretch(np.array(found[-1])) - _stretch(np.array(tick)) >= _ROOM * length:
            found.append(tick)
    return found[::-1]
