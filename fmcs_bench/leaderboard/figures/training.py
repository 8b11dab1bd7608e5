"""Figures of a training board: differences to the baseline, accuracy by RAF and by epoch, score against accuracy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from fmcs_bench.core.figure_style import BLUE, INK, MUTED, ORANGE, PAPER, house_style, short
from fmcs_bench.leaderboard.figures import (
    DASHED,
    MAX_PANELS,
    far_below,
    interval,
    numbers_beside,
    panels,
    rows_figure,
    seed_dots,
)
from fmcs_bench.results.statistics import Estimate
from fmcs_bench.results.training_board import SweepPoint, TrainingBoard, TrainingRow

_POINTS_APART = 10.0
"""Percentage points below the median from which a value may stand at the edge."""
_ACCURACY_TICKS = (0, 50, 80, 90, 95, 98, 99, 100)


def drawable(board: TrainingBoard) -> dict[str, Callable[[TrainingBoard], Figure]]:
    """The figures that a board has something for, by name."""
    rows = board.rows
    compared = [row for row in rows if row.difference is not None]
    found: dict[str, tuple[bool, Callable[[TrainingBoard], Figure]]] = {
        "differences": (bool(compared), difference_figure),
        "scores": (any(row.chosen.score_difference is not None for row in compared), score_figure),
        "raf": (any(row.chosen.raf < 1 for row in rows), raf_figure),
        "curves": (bool(_with_curves(board)), curve_figure),
    }
    return {name: figure for name, (has_data, figure) in found.items() if has_data}


@house_style()
def difference_figure(board: TrainingBoard) -> Figure:
    """Forest plot: test accuracy minus the baseline's at equal seeds, in points, with a dot for each seed."""
    compared = [(row, in_points(row.difference.estimate)) for row in board.rows if row.difference is not None]
    figure, axes = rows_figure(len(compared), height=0.34)
    cut = far_below([0.0, *(estimate.mean for _, estimate in compared)], at_least=_POINTS_APART)
    axes.axvline(0, color=INK, linewidth=1, zorder=1.5)
    for i, (row, estimate) in enumerate(compared):
        if estimate.mean >= cut:
            seed_dots(axes, [100 * value for value in row.chosen.test_differences.values()], i, _color(row))
            interval(axes, estimate, i, _color(row), _marker(row))
    axes.margins(x=0.06)
    axes.autoscale_view()
    left, right = axes.get_xlim()
    axes.set_xlim(left, right)
    for i, (row, estimate) in enumerate(compared):
        if estimate.mean < cut:
            axes.plot(left + 0.02 * (right - left), i, "<", color=_color(row), markersize=7, zorder=4)
    axes.set_yticks(range(len(compared)), [_title(row) for row, _ in compared], fontsize=8)
    numbers = [" ".join(estimate.parts("+.2f")) for _, estimate in compared]
    numbers_beside(axes, "difference [95 % interval]", numbers)
    axes.set_xlabel("test accuracy minus the baseline's, in percentage points (right is better)")
    legend = [
        Line2D([], [], color=BLUE, marker="o", linewidth=2, label="mean, 95 % interval"),
        Line2D([], [], color=ORANGE, marker="D", markersize=5, linewidth=2, label="control"),
        Line2D([], [], color=BLUE, marker="o", markersize=3.2, alpha=0.55, linewidth=0, label="one seed"),
        Line2D([], [], color=INK, linewidth=1, label="the baseline"),
        Line2D([], [], color=MUTED, marker="<", markersize=7, linewidth=0, label="far left of here"),
    ]
    figure.legend(handles=legend, loc="outside upper left", ncols=5, columnspacing=1.6, handlelength=1.9)
    return figure


@house_style()
def raf_figure(board: TrainingBoard) -> Figure:
    """Test accuracy at each RAF with 95 % intervals, one panel for each family; the chosen RAF is filled.

    RAF values stand in order at equal distances. The baseline's interval is the grey band. A value far below most
    stands at the bottom, with its number, so that the others can be told apart.
    """
    series: dict[str, list[TrainingRow]] = {}
    for row in board.rows:
        if row.chosen.raf < 1:
            # At RAF 0 no classification loss is left: a family of its own, shown beside the RAL of its evaluator.
            series.setdefault(row.chosen.records[0].trial.ral_family, []).append(row)
    points = [(row, point) for rows in series.values() for row in rows for point in row.sweep]
    rafs = sorted({point.raf for _, point in points}, reverse=True)
    baseline = None if board.baseline is None else in_points(board.baseline.chosen.test_accuracy)
    means = [100 * point.test_accuracy.mean for _, point in points]
    cut = far_below([*means, *([] if baseline is None else [baseline.mean])], at_least=_POINTS_APART)
    figure, grid = panels(len(series), columns=2, height=1.85, width=4.4)
    for axes, (name, rows) in zip(grid, series.items(), strict=True):
        if baseline is not None:
            if baseline.low is not None and baseline.high is not None:
                axes.axhspan(baseline.low, baseline.high, color=MUTED, alpha=0.14, linewidth=0, zorder=0)
            axes.axhline(baseline.mean, color=INK, linewidth=1, linestyle=DASHED, zorder=1.5)
        for row in rows:
            _draw_sweep(axes, row, rafs, cut)
        axes.set_title(short(name) + ("  (control)" if rows[0].control else ""), fontsize=9)
        axes.grid(visible=False, axis="x")
        axes.set_xticks(range(len(rafs)), [f"{raf:g}" for raf in rafs], fontsize=8)
        axes.set_xlim(-0.5, len(rafs) - 0.5)
    bottom, top = grid[0].get_ylim()
    grid[0].set_ylim(bottom, min(top, 100.5))
    for axes, rows in zip(grid, series.values(), strict=True):
        for row in rows:
            _mark_far_below(axes, row, rafs, cut, bottom + 0.05 * (top - bottom))
    figure.supxlabel("RAF, the weight of the classification loss (left: nearest to the baseline)", fontsize=9.5)
    figure.supylabel("test accuracy (%)", fontsize=9.5)
    legend = [
        Line2D([], [], color=BLUE, marker="o", linewidth=2, label="chosen on validation"),
        Line2D([], [], color=BLUE, marker="o", markerfacecolor=PAPER, linewidth=2, label="not chosen"),
        Line2D([], [], color=INK, linewidth=1, linestyle=DASHED, label="baseline (RAF 1)"),
        Line2D([], [], color=MUTED, marker="v", linewidth=0, label="far below, at this accuracy"),
    ]
    figure.legend(handles=legend, loc="outside upper left", ncols=4, columnspacing=1.6, handlelength=1.9)
    return figure


@house_style()
def curve_figure(board: TrainingBoard) -> Figure:
    """Validation accuracy after every epoch: each family at its chosen RAF beside the baseline; bands are 95 %.

    The axis is stretched towards 100 %, where the curves of good methods lie close together.
    """
    rows, baseline = _with_curves(board), board.baseline
    shown = rows[:MAX_PANELS]
    figure, grid = panels(len(shown), columns=3, height=1.85, width=2.8)
    ends = []
    for axes, row in zip(grid, shown, strict=True):
        for drawn, color, line in ((baseline, INK, DASHED), (row, _color(row), "-")):
            curve = () if drawn is None else drawn.chosen.accuracy_curve
            epochs, mean = range(1, len(curve) + 1), [100 * estimate.mean for estimate in curve]
            low = [100 * (e.mean if e.low is None else e.low) for e in curve]
            high = [100 * (e.mean if e.high is None else e.high) for e in curve]
            axes.fill_between(epochs, low, high, color=color, alpha=0.18, linewidth=0)
            axes.plot(epochs, mean, color=color, linewidth=1.5, linestyle=line)
            ends += [*low, *high]
        control = ", control" if row.control else ""
        axes.set_title(f"{short(row.family, 34)}\nRAF {row.chosen.raf:g}{control}", fontsize=8)
        axes.set_xlim(1, len(row.chosen.accuracy_curve))
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        axes.tick_params(labelbottom=True)  # families may have different numbers of epochs
    grid[0].set_yscale(
        "function", functions=(lambda y: -np.log(101 - np.clip(y, -50, 100.5)), lambda h: 101 - np.exp(-h))
    )
    bottom = max(tick for tick in _ACCURACY_TICKS if tick <= min(ends))
    top = min(tick for tick in _ACCURACY_TICKS if tick >= max(ends))
    grid[0].set_yticks([tick for tick in _ACCURACY_TICKS if bottom <= tick <= top])
    grid[0].set_yticks([], minor=True)
    grid[0].yaxis.set_major_formatter("{x:g}")
    grid[0].set_ylim(bottom, top)
    left_out = len(rows) - len(shown)
    figure.supxlabel(f"epoch; {left_out} more methods are not shown" if left_out else "epoch", fontsize=9.5)
    figure.supylabel("validation accuracy (%)", fontsize=9.5)
    legend = [
        Line2D([], [], color=BLUE, linewidth=1.5, label="method at its chosen RAF"),
        Line2D([], [], color=ORANGE, linewidth=1.5, label="control"),
        Line2D([], [], color=INK, linewidth=1.5, linestyle=DASHED, label="baseline"),
    ]
    figure.legend(handles=legend, loc="outside upper left", ncols=3, columnspacing=1.6, handlelength=1.9)
    return figure


def _with_curves(board: TrainingBoard) -> list[TrainingRow]:
    return [row for row in board.rows if row.chosen.raf < 1 and len(row.chosen.accuracy_curve) > 1]


@house_style()
def score_figure(board: TrainingBoard) -> Figure:
    """What training changed: score and test accuracy, each minus the baseline's at equal seeds, with 95 % intervals.

    Top right are methods that raise both, top left those that raise the score and lose accuracy.
    """
    compared = [
        (row, in_points(row.difference.estimate), row.chosen.score_difference.estimate)
        for row in board.rows
        if row.difference is not None and row.chosen.score_difference is not None
    ]
    figure = Figure(figsize=(9.2, max(4.4, 1.3 + 0.22 * len(compared))), layout="constrained")
    axes = figure.subplots()
    axes.axhline(0, color=INK, linewidth=1, zorder=1.5)
    axes.axvline(0, color=INK, linewidth=1, zorder=1.5)
    cut = far_below([0.0, *(accuracy.mean for _, accuracy, _ in compared)], at_least=_POINTS_APART)
    for row, accuracy, score in compared:
        if accuracy.mean >= cut:
            bars: dict[str, Any] = {"color": _color(row), "linewidth": 1.2, "alpha": 0.5, "zorder": 2}
            if accuracy.low is not None and accuracy.high is not None:
                axes.hlines(score.mean, accuracy.low, accuracy.high, **bars)
            if score.low is not None and score.high is not None:
                axes.vlines(accuracy.mean, score.low, score.high, **bars)
    axes.update_datalim([(0, 0), *((max(accuracy.mean, cut), score.mean) for _, accuracy, score in compared)])
    axes.margins(0.08)
    axes.autoscale_view()
    left, right = axes.get_xlim()
    for i, (row, accuracy, score) in enumerate(compared):
        name, x, marker = short(row.chosen.records[0].method), accuracy.mean, _marker(row)
        if x < cut:
            name += f", far left at {x:+.1f}".replace("-", "\N{MINUS SIGN}")
            x, marker = left + 0.03 * (right - left), "s"
        axes.plot(x, score.mean, marker, color=_color(row), markersize=11, clip_on=False, zorder=3 + i)
        number = axes.text(x, score.mean, str(i + 1), color=PAPER, fontsize=6, fontweight="bold", zorder=3 + i)
        number.set(ha="center", va="center_baseline")
        y, color = 1 - (i + 0.5) / max(len(compared), 12), MUTED if row.control else INK
        axes.text(1.06, y, str(i + 1), transform=axes.transAxes, color=color, fontsize=8, ha="right", va="center")
        axes.text(1.08, y, name, transform=axes.transAxes, color=color, fontsize=8, va="center")
    axes.set_xlim(left, right)
    axes.set_xlabel("test accuracy minus the baseline's (percentage points)")
    axes.set_ylabel("mean score minus the baseline's (stages)")
    legend = [
        Line2D([], [], color=BLUE, marker="o", linewidth=1.4, label="method, 95 % intervals"),
        Line2D([], [], color=ORANGE, marker="D", linewidth=1.4, label="control"),
        Line2D([], [], color=INK, linewidth=1, label="as the baseline"),
    ]
    figure.legend(handles=legend, loc="outside upper left", ncols=3, columnspacing=1.6, handlelength=1.9)
    return figure


def in_points(share: Estimate) -> Estimate:
    """A share, or a difference of shares, in percentage points."""
    low, high, std = (None if value is None else 100 * value for value in (share.low, share.high, share.std))
    return Estimate(100 * share.mean, low, high, std, share.num)


def _draw_sweep(axes: Axes, row: TrainingRow, rafs: Sequence[float], cut: float) -> None:
    found = [(rafs.index(point.raf), point, in_points(point.test_accuracy)) for point in row.sweep]
    found = [(x, point, estimate) for x, point, estimate in found if estimate.mean >= cut]
    line = [(x, estimate.mean) for x, point, estimate in found if point.raf > 0]
    if line:
        axes.plot(*zip(*line, strict=True), color=_color(row), linewidth=1, alpha=0.6)
    for x, point, estimate in found:
        if estimate.low is not None and estimate.high is not None:
            axes.vlines(x, estimate.low, estimate.high, color=_color(row), linewidth=2)
        axes.plot(x, estimate.mean, _marker(row), color=_color(row), markerfacecolor=_fill(row, point), markersize=6)


def _mark_far_below(axes: Axes, row: TrainingRow, rafs: Sequence[float], cut: float, bottom: float) -> None:
    for point in row.sweep:
        mean, x = 100 * point.test_accuracy.mean, rafs.index(point.raf)
        if mean < cut:
            axes.plot(x, bottom, "v", color=_color(row), markerfacecolor=_fill(row, point), markersize=6)
            axes.annotate(f"{mean:.1f}", (x, bottom), (0, 5), textcoords="offset points", ha="center", fontsize=8)


def _title(row: TrainingRow) -> str:
    return short(row.chosen.records[0].method) + ("  (control)" if row.control else "")


def _fill(row: TrainingRow, point: SweepPoint) -> str:
    return _color(row) if point is row.chosen else PAPER


def _color(row: TrainingRow) -> str:
    return ORANGE if row.control else BLUE


def _marker(row: TrainingRow) -> str:
    """Colour is not all that tells methods and controls apart."""
    return "D" if row.control else "o"
