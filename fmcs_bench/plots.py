"""Every figure, from boards and trajectories, those of the modules beside it too. Matplotlib without pyplot."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter

from fmcs_bench.answer_plots import calibration_figure, confusion_figure, cost_figure, score_figure
from fmcs_bench.boards import Column, EvaluatorBoard
from fmcs_bench.curve_plots import accuracy_curve_figure, score_accuracy_figure, score_curve_figure
from fmcs_bench.plot_parts import interval, name_rows, numbers_beside, rows_figure, seed_dots
from fmcs_bench.plot_style import BLUE, GREEN, INK, MUTED, ORANGE, PINK, encode, house_style, save, short
from fmcs_bench.training_plots import raf_figure, training_figure

__all__ = [
    "accuracy_curve_figure",
    "calibration_figure",
    "confusion_figure",
    "cost_figure",
    "encode",
    "evaluator_figure",
    "raf_figure",
    "save",
    "score_accuracy_figure",
    "score_curve_figure",
    "score_figure",
    "training_figure",
    "trajectory_figure",
]


@house_style()
def evaluator_figure(board: EvaluatorBoard) -> Figure:
    """MAE of every evaluator on the test run and on the training runs, with 95 % intervals and a dot per seed.

    The dashed line is the MAE of always answering the middle stage.
    """
    figure, axes = rows_figure(len(board.rows), height=0.44)
    columns: tuple[tuple[Column, float, str, str], ...] = (
        ("test_run", -0.21, BLUE, "o"),
        ("same_run", 0.13, ORANGE, "D"),
    )
    for i, row in enumerate(board.rows):
        for column, shift, color, marker in columns:
            seed_dots(axes, [record.metrics[column].mae for record in row.records], i + shift, color)
            interval(axes, row.mae[column], i + shift, color, marker)
    middle = _middle_stage_mae(board.num_stages)
    axes.axvline(middle, color=INK, linewidth=1, linestyle=(0, (4, 3)), zorder=1.5)
    name_rows(axes, [short(row.evaluator) for row in board.rows], bold=[row.chosen for row in board.rows])
    numbers = [str(row.mae["test_run"]).replace("-", "\N{MINUS SIGN}") for row in board.rows]
    numbers_beside(axes, "test run [95 % interval]", numbers)
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
