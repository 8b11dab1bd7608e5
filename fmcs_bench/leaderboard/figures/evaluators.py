"""Every figure, from boards and trajectories, those of the modules beside it too. Matplotlib without pyplot."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fmcs_bench.core.figure_style import BLUE, INK, MUTED, ORANGE, encode, house_style, save, short
from fmcs_bench.leaderboard.figures.answers import calibration_figure, confusion_figure, cost_figure, score_figure
from fmcs_bench.leaderboard.figures.curves import accuracy_curve_figure, score_accuracy_figure, score_curve_figure
from fmcs_bench.leaderboard.figures.parts import interval, name_rows, numbers_beside, rows_figure, seed_dots
from fmcs_bench.leaderboard.figures.training import raf_figure, training_figure
from fmcs_bench.results.evaluator_board import EvaluatorBoard
from fmcs_bench.results.records import Subset

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
]


@house_style()
def evaluator_figure(board: EvaluatorBoard) -> Figure:
    """MAE of every evaluator on the test run and on the training runs, with 95 % intervals and a dot per seed.

    The dashed line is the MAE of always answering the middle stage.
    """
    figure, axes = rows_figure(len(board.rows), height=0.44)
    columns: tuple[tuple[Subset, float, str, str], ...] = (
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


def _middle_stage_mae(num_stages: int) -> float:
    """MAE of always answering the middle stage, where all stages are equally frequent."""
    stages_K = np.arange(1, num_stages + 1)
    return float(np.abs(stages_K - np.median(stages_K)).mean())
