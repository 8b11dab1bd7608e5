"""Figures of the leaderboard, one function each: board -> Matplotlib figure. Here are the parts that they share."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median_high

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from fmcs_bench.core.figure_style import BAND, MUTED
from fmcs_bench.results.statistics import Estimate

DASHED = (0, (4, 3))
MAX_PANELS = 24
_TIMES = 4.0


def rows_figure(num: int, *, height: float) -> tuple[Figure, Axes]:
    """A figure with one horizontal row of this height, in inches, for each entry, the first on top."""
    figure = Figure(figsize=(8.2, 1.2 + height * num), layout="constrained")
    axes = figure.subplots()
    axes.set_ylim(num - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    for i in range(0, num, 2):
        axes.axhspan(i - 0.5, i + 0.5, color=BAND, linewidth=0, zorder=0)
    return figure, axes


def numbers_beside(axes: Axes, title: str, numbers: Sequence[str]) -> None:
    """A column of numbers right of the axes, one for each row."""
    where = axes.get_yaxis_transform()
    for i, number in enumerate(numbers):
        axes.text(1.02, i, number.replace("-", "\N{MINUS SIGN}"), transform=where, va="center", fontsize=8.5)
    axes.text(1.02, -0.62, title, transform=where, va="bottom", fontsize=8.5, color=MUTED)


def interval(axes: Axes, estimate: Estimate, y: float, color: str, marker: str) -> None:
    """A mean and its horizontal interval in row ``y``."""
    if estimate.low is not None and estimate.high is not None:
        axes.hlines(y, estimate.low, estimate.high, color=color, linewidth=2, zorder=3)
    axes.plot(estimate.mean, y, marker, color=color, markersize=6 if marker == "o" else 5, zorder=4)


def seed_dots(axes: Axes, values: Sequence[float], y: float, color: str) -> None:
    """A small dot for each seed, a little below row ``y``."""
    dots = np.full(len(values), y + 0.13)
    axes.plot(values, dots, "o", color=to_rgba(color, 0.55), markersize=3.2, markeredgewidth=0, zorder=2)


def far_below(values: Sequence[float], *, at_least: float) -> float:
    """Below this value a point is drawn at the edge of the axes, so that the others can be told apart.

    It lies below the median by ``at_least``, or by four times the distance from the median up to the best if that is
    more. Of two medians it is the upper one, so that half of the values may be at chance.

    Example:
        >>> far_below([95.0, 94.5, 94.0, 93.0, 10.0], at_least=10.0)
        84.0
        >>> far_below([95.0, 85.0, 75.0, 65.0], at_least=10.0)
        45.0
    """
    middle = median_high(values)
    return middle - max(at_least, _TIMES * (max(values) - middle))


def panels(num: int, *, columns: int, height: float, width: float, same_y: bool = True) -> tuple[Figure, list[Axes]]:
    """A grid of panels of equal size, in inches, with tick labels at the left and at the bottom only."""
    num_columns = min(columns, num)
    num_lines = -(-num // num_columns)
    figure = Figure(figsize=(max(6.4, 0.6 + width * num_columns), 0.9 + height * num_lines), layout="constrained")
    grid: list[Axes] = list(figure.subplots(num_lines, num_columns, squeeze=False, sharey=same_y).flat)
    for axes in grid[num:]:
        axes.set_axis_off()
    for i, axes in enumerate(grid[:num]):
        axes.tick_params(labelsize=7.5, labelleft=i % num_columns == 0, labelbottom=i + num_columns >= num)
    return figure, grid[:num]
