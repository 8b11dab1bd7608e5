"""Figures about what training methods reach: differences to the baseline, and accuracy by RAF.

Flow: board -> rows with their points -> estimates in percentage points; what lies far below most stands at the
edge, with its number -> figure.
"""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fmcs_bench.core.figure_style import BLUE, INK, MUTED, ORANGE, PAPER, house_style, short
from fmcs_bench.leaderboard.figures.parts import (
    DASHED,
    far_below,
    interval,
    name_rows,
    number_edges,
    numbers_beside,
    panels,
    rows_figure,
    seed_dots,
)
from fmcs_bench.results.statistics import Estimate
from fmcs_bench.results.training_board import SweepPoint, TrainingBoard, TrainingRow

_LONG_NAME = 30
_COLUMNS = 2
POINTS_APART = 10.0
"""Percentage points below the median from which a value may stand at the edge."""


@house_style()
def training_figure(board: TrainingBoard) -> Figure | None:
    """Forest plot: test accuracy minus the baseline's at equal seeds, in percentage points, with a dot per seed.

    Controls are orange, below a line.

    Returns:
        None where no method shares a seed with the baseline.
    """
    compared = [(row, in_points(row.difference.estimate)) for row in board.rows if row.difference is not None]
    if not compared:
        return None
    figure, axes = rows_figure(len(compared), height=0.34)
    cut = far_below([0.0, *(estimate.mean for _, estimate in compared)], at_least=POINTS_APART)
    axes.axvline(0, color=INK, linewidth=1, zorder=1.5)
    for i, (row, estimate) in enumerate(compared):
        if estimate.mean < cut:
            continue
        seed_dots(axes, [100 * value for value in row.chosen.test_differences.values()], i, color_of(row))
        interval(axes, estimate, i, color_of(row), marker_of(row))
    axes.margins(x=0.06)
    axes.autoscale_view()
    left, right = axes.get_xlim()
    axes.set_xlim(left, right)
    for i, (row, estimate) in enumerate(compared):
        if estimate.mean < cut:
            axes.plot(left + 0.02 * (right - left), i, "<", color=color_of(row), markersize=7, zorder=4)
    first_control = next((i for i, (row, _) in enumerate(compared) if row.control), 0)
    if first_control:
        axes.axhline(first_control - 0.5, color=MUTED, linewidth=0.8)
    names = [short(row.chosen.records[0].method) + ("  (control)" if row.control else "") for row, _ in compared]
    name_rows(axes, names, bold=[False] * len(names))
    if max(map(len, names)) > _LONG_NAME:
        axes.tick_params(axis="y", labelsize=8)
    numbers_beside(axes, "difference [95 % interval]", [_signed(estimate) for _, estimate in compared])
    axes.set_xlabel("test accuracy minus the baseline's, in percentage points (right is better)")
    legend = [
        Line2D([], [], color=BLUE, marker="o", linewidth=2, label="mean, 95 % interval"),
        Line2D([], [], color=BLUE, marker="o", markersize=3.2, alpha=0.55, linewidth=0, label="one seed"),
        Line2D([], [], color=INK, linewidth=1, label="the baseline"),
    ]
    if any(row.control for row, _ in compared):
        legend.insert(1, Line2D([], [], color=ORANGE, marker="D", markersize=5, linewidth=2, label="of a control"))
    if any(estimate.mean < cut for _, estimate in compared):
        legend.append(Line2D([], [], color=MUTED, marker="<", markersize=7, linewidth=0, label="far left of here"))
    figure.legend(handles=legend, loc="outside upper left", ncols=5, columnspacing=1.6, handlelength=1.9)
    return figure


@house_style()
def raf_figure(board: TrainingBoard) -> Figure | None:
    """Test accuracy at each RAF with 95 % intervals, one panel for each family; the RAF chosen is filled.

    RAF values stand in order at equal distances, RAF 0 apart from the others. The baseline's interval is the grey band.

    A value far below most stands at the bottom, with its number, so that the others can be told apart.

    Returns:
        None where no family has a RAF below 1.
    """
    series: dict[str, list[TrainingRow]] = {}
    for row in board.rows:
        if row.chosen.raf < 1:
            # At RAF 0 no classification loss is left: a family of its own, shown beside RAL with the same evaluator.
            series.setdefault(row.chosen.records[0].trial.ral_family, []).append(row)
    if not series:
        return None
    rafs = sorted({point.raf for rows in series.values() for row in rows for point in row.sweep}, reverse=True)
    places = {raf: i + (0.6 if raf == 0 and i else 0.0) for i, raf in enumerate(rafs)}
    baseline = None if board.baseline is None else in_points(board.baseline.chosen.test_accuracy)
    figure, grid = panels(len(series), columns=_COLUMNS, height=1.85, width=4.4)
    means = [100 * point.test_accuracy.mean for rows in series.values() for row in rows for point in row.sweep]
    cut = far_below([*means, *([] if baseline is None else [baseline.mean])], at_least=POINTS_APART)
    for axes, (name, rows) in zip(grid, series.items(), strict=True):
        _baseline_band(axes, baseline)
        for row in rows:
            _draw_sweep(axes, row, places, cut)
        axes.set_title(short(name) + ("  (control)" if rows[0].control else ""), fontsize=9)
        axes.grid(visible=False, axis="x")
        axes.set_xticks(list(places.values()), [f"{raf:g}" for raf in rafs], fontsize=8)
        axes.set_xlim(-0.5, max(places.values()) + 0.5)
        if len(rafs) > 1 and rafs[-1] == 0:
            axes.axvline(places[0] - 0.8, color=MUTED, linewidth=0.6)
    number_edges(grid, columns=_COLUMNS)
    bottom, top = grid[0].get_ylim()
    grid[0].set_ylim(bottom, min(top, 100.5))
    for axes, rows in zip(grid, series.values(), strict=True):
        for row in rows:
            _mark_far_below(axes, row, places, cut)
    figure.supxlabel("RAF, the weight of the classification loss (left: nearest to the baseline)", fontsize=9.5)
    figure.supylabel("test accuracy (%)", fontsize=9.5)
    legend = [
        Line2D([], [], color=BLUE, marker="o", linewidth=2, label="chosen on validation"),
        Line2D([], [], color=BLUE, marker="o", markerfacecolor=PAPER, linewidth=2, label="not chosen"),
    ]
    if baseline is not None:
        legend.append(Line2D([], [], color=INK, linewidth=1, linestyle=DASHED, label="baseline (RAF 1)"))
    if any(mean < cut for mean in means):
        legend.append(Line2D([], [], color=MUTED, marker="v", linewidth=0, label="far below, at this accuracy"))
    figure.legend(handles=legend, loc="outside upper left", ncols=4, columnspacing=1.6, handlelength=1.9)
    return figure


def in_points(share: Estimate) -> Estimate:
    """A share, or a difference of shares, in percentage points."""
    low, high, std = (None if value is None else 100 * value for value in (share.low, share.high, share.std))
    return Estimate(100 * share.mean, low, high, std, share.num)


def color_of(row: TrainingRow) -> str:
    """Of a method or a control."""
    return ORANGE if row.control else BLUE


def marker_of(row: TrainingRow) -> str:
    """Of a method or a control, so that colour is not all that tells them apart."""
    return "D" if row.control else "o"


def _baseline_band(axes: Axes, baseline: Estimate | None) -> None:
    if baseline is None:
        return
    if baseline.low is not None and baseline.high is not None:
        axes.axhspan(baseline.low, baseline.high, color=MUTED, alpha=0.14, linewidth=0, zorder=0)
    axes.axhline(baseline.mean, color=INK, linewidth=1, linestyle=DASHED, zorder=1.5)


def _draw_sweep(axes: Axes, row: TrainingRow, places: dict[float, float], cut: float) -> None:
    color = color_of(row)
    shown = [(places[point.raf], point, in_points(point.test_accuracy)) for point in row.sweep]
    shown = [(x, point, estimate) for x, point, estimate in shown if estimate.mean >= cut]
    line = [(x, estimate.mean) for x, point, estimate in shown if point.raf > 0]
    if line:
        axes.plot(*zip(*line, strict=True), color=color, linewidth=1, alpha=0.6)
    for x, point, estimate in shown:
        if estimate.low is not None and estimate.high is not None:
            axes.vlines(x, estimate.low, estimate.high, color=color, linewidth=2)
        axes.plot(x, estimate.mean, marker_of(row), color=color, markerfacecolor=_fill(row, point), markersize=6)


def _mark_far_below(axes: Axes, row: TrainingRow, places: dict[float, float], cut: float) -> None:
    low, high = axes.get_ylim()
    bottom = low + 0.05 * (high - low)
    for point in row.sweep:
        mean = 100 * point.test_accuracy.mean
        if mean < cut:
            at, color = places[point.raf], color_of(row)
            axes.plot(at, bottom, "v", color=color, markerfacecolor=_fill(row, point), markersize=6)
            axes.annotate(f"{mean:.1f}", (at, bottom), (0, 5), textcoords="offset points", ha="center", fontsize=8)


def _fill(row: TrainingRow, point: SweepPoint) -> str:
    return color_of(row) if point is row.chosen else PAPER


def _signed(estimate: Estimate) -> str:
    ends: Sequence[float | None] = (estimate.low, estimate.high)
    text = "" if None in ends else f" [{estimate.low:+.2f}, {estimate.high:+.2f}]"
    return f"{estimate.mean:+.2f}{text}".replace("-", "\N{MINUS SIGN}")
