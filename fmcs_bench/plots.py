"""Every figure, from boards and trajectories; those of ``answer_plots`` too. Matplotlib without pyplot or display."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter

from fmcs_bench.answer_plots import calibration_figure, confusion_figure, cost_figure, score_figure
from fmcs_bench.boards import Column, EvaluatorBoard, TrainingBoard, TrainingRow
from fmcs_bench.plot_style import (
    BAND,
    BLUE,
    GREEN,
    INK,
    MUTED,
    ORANGE,
    PAPER,
    PINK,
    SERIES,
    encode,
    house_style,
    save,
    short,
)
from fmcs_bench.records import TrainingRecord
from fmcs_bench.statistics import Estimate

__all__ = [
    "calibration_figure",
    "confusion_figure",
    "cost_figure",
    "encode",
    "evaluator_figure",
    "raf_figure",
    "save",
    "score_figure",
    "training_figure",
    "trajectory_figure",
]


@house_style()
def evaluator_figure(board: EvaluatorBoard) -> Figure:
    """MAE of every evaluator on the test run and on the training runs, with 95 % intervals and a dot per seed.

    The dashed line is the MAE of always answering the middle stage.
    """
    figure, axes = _rows_figure(len(board.rows))
    columns: tuple[tuple[Column, float, str, str], ...] = (
        ("test_run", -0.21, BLUE, "o"),
        ("same_run", 0.13, ORANGE, "D"),
    )
    for i, row in enumerate(board.rows):
        for column, shift, color, marker in columns:
            _seed_dots(axes, [record.metrics[column].mae for record in row.records], i + shift, color)
            _interval(axes, row.mae[column], i + shift, color, marker)
    middle = _middle_stage_mae(board.num_stages)
    axes.axvline(middle, color=INK, linewidth=1, linestyle=(0, (4, 3)), zorder=1.5)
    _name_rows(axes, [short(row.evaluator) for row in board.rows], bold=[row.chosen for row in board.rows])
    numbers = [str(row.mae["test_run"]).replace("-", "\N{MINUS SIGN}") for row in board.rows]
    _numbers_beside(axes, "test run [95 % interval]", numbers)
    axes.autoscale_view()
    axes.set_xlim(0, axes.get_xlim()[1])  # a MAE is never below 0, though an interval of few seeds may be
    axes.set_xlabel("MAE (stages), smaller is better")
    legend = [
        Line2D([], [], color=BLUE, marker="o", linewidth=2, label="test run, not seen in fitting"),
        Line2D([], [], color=ORANGE, marker="D", markersize=5, linewidth=2, label="same runs, other images"),
        Line2D([], [], color=INK, linewidth=1, linestyle=(0, (4, 3)), label="always the middle stage"),
        Line2D([], [], color=MUTED, marker="o", markersize=3.2, alpha=0.7, linewidth=0, label="one seed"),
    ]
    figure.legend(handles=legend, loc="outside upper left", ncols=4, columnspacing=1.6, handlelength=1.9)
    return figure


@house_style()
def training_figure(board: TrainingBoard) -> Figure | None:
    """Forest plot: test accuracy minus the baseline's at equal seeds, in percentage points, with a dot per seed.

    Returns:
        None where no method shares a seed with the baseline.
    """
    compared = [(row, _in_points(row.difference.estimate)) for row in board.rows if row.difference is not None]
    if not compared:
        return None
    figure, axes = _rows_figure(len(compared))
    axes.axvline(0, color=INK, linewidth=1, zorder=1.5)
    for i, (row, estimate) in enumerate(compared):
        _seed_dots(axes, _differences(board, row), i, BLUE)
        _interval(axes, estimate, i, BLUE, "o")
    names = [short(row.chosen.records[0].method) for row, _ in compared]
    _name_rows(axes, names, bold=[False] * len(names))
    _numbers_beside(axes, "difference [95 % interval]", [_signed(estimate) for _, estimate in compared])
    axes.margins(x=0.06)
    axes.set_xlabel("test accuracy minus the baseline's, in percentage points (right is better)")
    legend = [
        Line2D([], [], color=BLUE, marker="o", linewidth=2, label="mean over seeds, 95 % interval"),
        Line2D([], [], color=BLUE, marker="o", markersize=3.2, alpha=0.55, linewidth=0, label="one seed"),
        Line2D([], [], color=INK, linewidth=1, label="the baseline"),
    ]
    figure.legend(handles=legend, loc="outside upper left", ncols=3, columnspacing=1.6, handlelength=1.9)
    return figure


@house_style()
def raf_figure(board: TrainingBoard) -> Figure | None:
    """Test accuracy at each RAF with 95 % intervals, one series for each family; the RAF chosen is filled.

    RAF values stand in order at equal distances. The baseline's interval is the grey band.

    Returns:
        None where no family has a RAF below 1.
    """
    families = [row for row in board.rows if any(point.raf < 1 for point in row.sweep)]
    if not families:
        return None
    rafs = sorted({point.raf for row in families for point in row.sweep}, reverse=True)
    figure = Figure(figsize=(8.2, 3.9), layout="constrained")
    axes = figure.subplots()
    for i, row in enumerate(families):
        color = SERIES[i % len(SERIES)]
        shift = 0.5 * ((i + 0.5) / len(families) - 0.5)
        x = [rafs.index(point.raf) + shift for point in row.sweep]
        axes.plot(x, [100 * point.test_accuracy.mean for point in row.sweep], color=color, linewidth=1, alpha=0.6)
        for at, point in zip(x, row.sweep, strict=True):
            if point.test_accuracy.low is not None and point.test_accuracy.high is not None:
                axes.vlines(at, 100 * point.test_accuracy.low, 100 * point.test_accuracy.high, color=color, linewidth=2)
            fill = color if point is row.chosen else PAPER
            axes.plot(at, 100 * point.test_accuracy.mean, "o", color=color, markerfacecolor=fill, markersize=6.5)
    legend = [
        Line2D([], [], color=SERIES[i % len(SERIES)], marker="o", linewidth=2, label=short(row.family))
        for i, row in enumerate(families)
    ]
    baseline = next((row.chosen.test_accuracy for row in board.rows if row.family == "baseline"), None)
    if baseline is not None:
        if baseline.low is not None and baseline.high is not None:
            axes.axhspan(100 * baseline.low, 100 * baseline.high, color=MUTED, alpha=0.14, linewidth=0, zorder=0)
        axes.axhline(100 * baseline.mean, color=INK, linewidth=1, linestyle=(0, (4, 3)), zorder=1.5)
        legend.append(Line2D([], [], color=INK, linewidth=1, linestyle=(0, (4, 3)), label="baseline (RAF 1)"))
    legend.append(
        Line2D([], [], color=MUTED, marker="o", markerfacecolor=PAPER, linewidth=0, label="not chosen on validation")
    )
    axes.grid(visible=False, axis="x")
    axes.set_xticks(range(len(rafs)), [f"{raf:g}" for raf in rafs])
    axes.set_xlim(-0.5, len(rafs) - 0.5)
    axes.set_xlabel("RAF, the weight of the classification loss (left: nearest to the baseline)")
    axes.set_title("Test accuracy (%), 95 % intervals")
    figure.legend(handles=legend, loc="outside right upper")
    return figure


@house_style()
def trajectory_figure(
    losses: np.ndarray,
    smoothed: np.ndarray,
    cqi: np.ndarray,
    checkpoint_steps: np.ndarray,
    checkpoint_accuracy: np.ndarray,
    marker_steps: np.ndarray,
    threshold: float,
    convergence_step: int,
    steps_per_epoch: float,
) -> Figure:
    """One run: loss with the K stages, CQI with the convergence point, accuracy at all checkpoints.

    Args:
        losses: [T] of every step, in nats; steps count from 1, so ``losses[i]`` is that of step ``i + 1``.
        smoothed: [T], its moving average.
        cqi: [T - 1], in nats per epoch; ``cqi[i]`` is that of step ``i + 2``.
        checkpoint_steps: [M], step numbers.
        checkpoint_accuracy: [M], validation accuracy in [0, 1].
        marker_steps: [K], step numbers of the stages, increasing.
        threshold: of CQI.
        convergence_step: step number of the convergence point.
        steps_per_epoch: turns steps into epochs.
    """
    epochs_T = np.arange(1, len(losses) + 1) / steps_per_epoch
    epochs_K = np.asarray(marker_steps) / steps_per_epoch
    figure = Figure(figsize=(8.2, 6.6), layout="constrained")
    upper, middle, lower = figure.subplots(3, 1, sharex=True, height_ratios=(2, 1.3, 1.3))
    for axes in (upper, middle, lower):
        axes.axvline(convergence_step / steps_per_epoch, color=ORANGE, linewidth=1, linestyle=(0, (4, 3)), zorder=1.5)
    upper.plot(epochs_T, losses, color=BLUE, alpha=0.28, linewidth=0.8, label="training loss")
    upper.plot(epochs_T, smoothed, color=BLUE, linewidth=2, label="smoothed")
    heights_K = np.asarray(smoothed)[np.asarray(marker_steps) - 1]
    upper.plot(epochs_K, heights_K, "o", color=INK, markersize=5, label=f"stages 1 to {len(epochs_K)}")
    upper.set_xlim(0, epochs_T[-1])
    _number_stages(upper, epochs_K / epochs_T[-1], epochs_K, heights_K)
    upper.set_ylabel("training loss (nats)")
    upper.legend(loc="upper right")
    # CQI of exactly 0 has no place on a log scale.
    middle.plot(epochs_T[1:], np.where(np.asarray(cqi) > 0, cqi, np.nan), color=GREEN, linewidth=1.4, label="CQI")
    middle.axhline(threshold, color=INK, linewidth=1, linestyle=(0, (1.5, 1.5)), label=f"threshold {threshold:g}")
    middle.plot(
        convergence_step / steps_per_epoch, threshold, "D", color=ORANGE, markersize=7, label="convergence point"
    )
    middle.set_yscale("log")
    middle.set_ylim(bottom=threshold / 100)  # what lies below are zero crossings
    middle.yaxis.set_major_formatter("{x:g}")
    middle.yaxis.set_minor_formatter(NullFormatter())
    middle.set_ylabel("CQI (nats per epoch)")
    middle.legend(loc="lower left")
    accuracy_M = 100 * np.asarray(checkpoint_accuracy)
    epochs_M = np.asarray(checkpoint_steps) / steps_per_epoch
    lower.plot(epochs_M, accuracy_M, "-o", color=PINK, linewidth=1.2, markersize=3)
    lower.set_ylabel("validation accuracy (%)")
    lower.set_xlabel("epoch")
    figure.align_ylabels()
    return figure


def _rows_figure(num: int) -> tuple[Figure, Axes]:
    """A figure with one horizontal row for each entry, the first on top."""
    figure = Figure(figsize=(8.2, 1.2 + 0.44 * num), layout="constrained")
    axes = figure.subplots()
    axes.set_ylim(num - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    for i in range(0, num, 2):
        axes.axhspan(i - 0.5, i + 0.5, color=BAND, linewidth=0, zorder=0)
    return figure, axes


def _name_rows(axes: Axes, names: Sequence[str], *, bold: Sequence[bool]) -> None:
    labels = [f"{name}  (chosen)" if heavy else name for name, heavy in zip(names, bold, strict=True)]
    axes.set_yticks(range(len(names)), labels)
    for label, heavy in zip(axes.get_yticklabels(), bold, strict=True):
        label.set_fontweight("bold" if heavy else "normal")


def _numbers_beside(axes: Axes, title: str, numbers: Sequence[str]) -> None:
    """A column of numbers right of the axes, one for each row."""
    where = axes.get_yaxis_transform()
    for i, number in enumerate(numbers):
        axes.text(1.02, i, number, transform=where, va="center", fontsize=8.5)
    axes.text(1.02, -0.62, title, transform=where, va="bottom", fontsize=8.5, color=MUTED)


def _interval(axes: Axes, estimate: Estimate, y: float, color: str, marker: str) -> None:
    if estimate.low is not None and estimate.high is not None:
        axes.hlines(y, estimate.low, estimate.high, color=color, linewidth=2, zorder=3)
    axes.plot(estimate.mean, y, marker, color=color, markersize=6 if marker == "o" else 5, zorder=4)


def _seed_dots(axes: Axes, values: Sequence[float], y: float, color: str) -> None:
    dots = np.full(len(values), y)
    axes.plot(values, dots + 0.13, "o", color=to_rgba(color, 0.55), markersize=3.2, markeredgewidth=0, zorder=2)


def _number_stages(axes: Axes, places_K: np.ndarray, epochs_K: np.ndarray, heights_K: np.ndarray) -> None:
    """Write 1 .. K above the axes, each near its marker, none over another, with a thin line down to it."""
    num, room = len(places_K), 0.026
    order_K = np.arange(num)
    # Move right what is too near to its left neighbour, then back left what would leave the axes.
    spread_K = np.maximum.accumulate(places_K - room * order_K) + room * order_K
    spread_K = np.minimum(spread_K, 1 - room * order_K[::-1])
    for i in range(num):
        axes.annotate(
            str(i + 1),
            xy=(epochs_K[i], heights_K[i]),
            xytext=(spread_K[i], 1.02),
            textcoords=axes.transAxes,
            ha="center",
            va="bottom",
            fontsize=9,
            arrowprops={"arrowstyle": "-", "color": MUTED, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3},
        )


def _middle_stage_mae(num_stages: int) -> float:
    """MAE of always answering the middle stage, where all stages are equally frequent."""
    stages_K = np.arange(1, num_stages + 1)
    return float(np.abs(stages_K - np.median(stages_K)).mean())


def _in_points(share: Estimate) -> Estimate:
    low, high, std = (None if value is None else 100 * value for value in (share.low, share.high, share.std))
    return Estimate(100 * share.mean, low, high, std, share.num)


def _differences(board: TrainingBoard, row: TrainingRow) -> list[float]:
    """Difference to the baseline in percentage points, for each shared seed."""
    baseline = next(other for other in board.rows if other.family == "baseline").chosen.records
    base = _accuracy_of_seed(baseline)
    own = _accuracy_of_seed(row.chosen.records)
    return [100 * (own[seed] - base[seed]) for seed in sorted(own.keys() & base.keys())]


def _accuracy_of_seed(records: Sequence[TrainingRecord]) -> dict[int, float]:
    return {record.seed: record.metrics.test_accuracy for record in records}


def _signed(estimate: Estimate) -> str:
    interval = "" if estimate.low is None else f" [{estimate.low:+.2f}, {estimate.high:+.2f}]"
    return f"{estimate.mean:+.2f}{interval}".replace("-", "\N{MINUS SIGN}")
