"""A picture of every run of a dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from fmcs_bench.core.figure_style import BLUE, GREEN, INK, MUTED, ORANGE, PINK, house_style, save
from fmcs_bench.store import schema
from fmcs_bench.store.reader import FmcsDataset
from fmcs_bench.training import convergence
from fmcs_bench.training.recipes import ConvergenceRule


def draw_runs(dataset: FmcsDataset, folder: Path, kind: Literal["svg", "png"], *, dpi: int = 200) -> list[Path]:
    """Draw every run into ``run-<seed>.<kind>`` of the folder; equal datasets give equal bytes."""
    written = []
    for run in dataset.manifest.runs:
        written.append(folder / f"{schema.run_group(run.seed)}.{kind}")
        save(run_figure(dataset.run_file(run.seed), dataset.manifest.config.convergence), written[-1], dpi=dpi)
    return written


@house_style()
def run_figure(run_file: schema.RunFile, rule: ConvergenceRule) -> Figure:
    """Loss with its K stages, CQI with the convergence point, validation accuracy at all M checkpoints."""
    run, losses_T, cqi = run_file.run, np.asarray(run_file.run.losses), np.asarray(run_file.cqi)
    smoothed_T = convergence.analyse(run.losses, run.steps_per_epoch, rule).smoothed_T
    steps_K = np.array([stage.step for stage in run_file.stages])
    epochs_T = np.arange(1, len(losses_T) + 1) / run.steps_per_epoch
    epochs_K, heights_K = steps_K / run.steps_per_epoch, smoothed_T[steps_K - 1]
    end = run_file.convergence_step / run.steps_per_epoch
    figure = Figure(figsize=(8.2, 6.6), layout="constrained")
    upper, middle, lower = figure.subplots(3, 1, sharex=True, height_ratios=(2, 1.3, 1.3))
    for axes in (upper, middle, lower):
        axes.axvline(end, color=ORANGE, linewidth=1, linestyle=(0, (4, 3)), zorder=1.5)
    upper.plot(epochs_T, losses_T, color=BLUE, alpha=0.28, linewidth=0.8, label="training loss")
    upper.plot(epochs_T, smoothed_T, color=BLUE, linewidth=2, label="smoothed")
    upper.plot(epochs_K, heights_K, "o", color=INK, markersize=5, label=f"stages 1 to {len(epochs_K)}")
    upper.set_xlim(0, epochs_T[-1])
    _number_stages(upper, epochs_K / epochs_T[-1], epochs_K, heights_K)
    upper.set_ylabel("training loss (nats)")
    upper.legend(loc="upper right")
    # CQI of exactly 0 has no place on a log scale.
    middle.plot(epochs_T[1:], np.where(cqi > 0, cqi, np.nan), color=GREEN, linewidth=1.4, label="CQI")
    middle.axhline(
        rule.threshold, color=INK, linewidth=1, linestyle=(0, (1.5, 1.5)), label=f"threshold {rule.threshold:g}"
    )
    middle.plot(end, rule.threshold, "D", color=ORANGE, markersize=7, label="convergence point")
    middle.set_yscale("log")
    middle.set_ylim(bottom=rule.threshold / 100)  # below are zero crossings
    middle.yaxis.set_major_formatter("{x:g}")
    middle.yaxis.set_minor_formatter(NullFormatter())
    middle.set_ylabel("CQI (nats per epoch)")
    middle.legend(loc="lower left")
    accuracy_M = [100 * checkpoint.validation_accuracy for checkpoint in run.checkpoints]
    epochs_M = [checkpoint.step / run.steps_per_epoch for checkpoint in run.checkpoints]
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
