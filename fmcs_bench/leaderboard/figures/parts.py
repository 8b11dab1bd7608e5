"""Parts that figures are made of: rows with intervals, a grid of panels, names that keep out of each other's way."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median_high

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath
from matplotlib.transforms import Bbox

from fmcs_bench.core.figure_style import BAND, MUTED
from fmcs_bench.results.statistics import Estimate

DASHED = (0, (4, 3))
_TIMES = 4.0
_NAME_SIZE = 8.5
_AWAY = (7, 16, 28, 42)
"""Points between a dot and its name: near, or with a line between them."""

Place = tuple[float, float]


def rows_figure(num: int, *, height: float) -> tuple[Figure, Axes]:
    """A figure with one horizontal row of this height, in inches, for each entry, the first on top."""
    figure = Figure(figsize=(8.2, 1.2 + height * num), layout="constrained")
    axes = figure.subplots()
    axes.set_ylim(num - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    for i in range(0, num, 2):
        axes.axhspan(i - 0.5, i + 0.5, color=BAND, linewidth=0, zorder=0)
    return figure, axes


def name_rows(axes: Axes, names: Sequence[str], *, bold: Sequence[bool]) -> None:
    """Names left of the rows; a bold one is called chosen."""
    labels = [f"{name}  (chosen)" if heavy else name for name, heavy in zip(names, bold, strict=True)]
    axes.set_yticks(range(len(names)), labels)
    for label, heavy in zip(axes.get_yticklabels(), bold, strict=True):
        label.set_fontweight("bold" if heavy else "normal")


def numbers_beside(axes: Axes, title: str, numbers: Sequence[str]) -> None:
    """A column of numbers right of the axes, one for each row."""
    where = axes.get_yaxis_transform()
    for i, number in enumerate(numbers):
        axes.text(1.02, i, number, transform=where, va="center", fontsize=8.5)
    axes.text(1.02, -0.62, title, transform=where, va="bottom", fontsize=8.5, color=MUTED)


def interval(axes: Axes, estimate: Estimate, y: float, color: str, marker: str) -> None:
    """A mean and its horizontal interval in row ``y``."""
    if estimate.low is not None and estimate.high is not None:
        axes.hlines(y, estimate.low, estimate.high, color=color, linewidth=2, zorder=3)
    axes.plot(estimate.mean, y, marker, color=color, markersize=6 if marker == "o" else 5, zorder=4)


def seed_dots(axes: Axes, values: Sequence[float], y: float, color: str) -> None:
    """A small dot for each seed, a little below row ``y``."""
    dots = np.full(len(values), y)
    axes.plot(values, dots + 0.13, "o", color=to_rgba(color, 0.55), markersize=3.2, markeredgewidth=0, zorder=2)


def far_below(values: Sequence[float], *, at_least: float) -> float:
    """Below this value a point is drawn at the edge of the axes, with its number, so that the others can be told apart.

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


def panels(num: int, *, columns: int, height: float, width: float) -> tuple[Figure, list[Axes]]:
    """A grid of ``num`` panels of equal size with one y-axis.

    Args:
        num: at least 1.
        columns: panels in a row.
        height: of a panel with its title, in inches.
        width: of a panel, in inches.
    """
    num_columns = min(columns, num)
    num_lines = -(-num // num_columns)
    figure = Figure(figsize=(max(6.4, 0.6 + width * num_columns), 0.9 + height * num_lines), layout="constrained")
    grid = figure.subplots(num_lines, num_columns, squeeze=False, sharey=True)
    every: list[Axes] = list(grid.flat)
    for axes in every[num:]:
        axes.set_axis_off()
    return figure, every[:num]


def number_edges(panels: Sequence[Axes], *, columns: int) -> None:
    """Panels with the same ticks have their numbers only at the left and where no panel follows below."""
    for i, axes in enumerate(panels):
        axes.tick_params(labelleft=i % columns == 0, labelbottom=i + columns >= len(panels))


def name_points(
    axes: Axes, points: Sequence[tuple[float, float, str]], bars: Sequence[tuple[Place, Place]], colors: Sequence[str]
) -> None:
    """Write a name beside each point, where it covers the least of other names, points and bars.

    Call it last: it lays the figure out.

    Args:
        axes: with their final limits.
        points: x, y and name.
        bars: both ends of lines along an axis that names should not lie on.
        colors: of the names.
    """
    figure = axes.figure
    assert isinstance(figure, Figure)
    figure.draw_without_rendering()
    pixels = figure.dpi / 72
    frame = axes.get_window_extent().padded(-2)
    taken = [_box(axes, (x, y), (x, y), 4.5 * pixels) for x, y, _ in points]
    taken += [_box(axes, one, other, 1.5 * pixels) for one, other in bars]
    for (x, y, name), color in sorted(zip(points, colors, strict=True), key=lambda item: item[0][:2]):
        wide = TextPath((0, 0), name, size=_NAME_SIZE).get_extents().width * pixels
        high = 1.15 * _NAME_SIZE * pixels
        at_x, at_y = axes.transData.transform((x, y))
        offers: list[tuple[int, int, int, int, Place, Bbox]] = []
        for away in _AWAY:
            for side, up in ((1, 0), (-1, 0), (1, 0.7), (1, -0.7), (-1, 0.7), (-1, -0.7), (0, 1), (0, -1)):
                right, above = side * away * pixels, up * (away * pixels + high / 2)
                box = Bbox.from_bounds(at_x + right + (side - 1) * wide / 2, at_y + above - high / 2, wide, high)
                outside = wide * high - _shared(box, frame)
                covered = sum(_shared(box, other) for other in taken) + 10 * outside
                offers.append((round(covered), len(offers), away, side, (right / pixels, above / pixels), box))
        _, _, away, side, offset, box = min(offers, key=lambda offer: offer[:2])
        taken.append(box)
        line = {"arrowstyle": "-", "color": MUTED, "linewidth": 0.5, "shrinkA": 1, "shrinkB": 4}
        axes.annotate(
            name,
            (x, y),
            offset,
            textcoords="offset points",
            ha=("right", "center", "left")[side + 1],
            va="center",
            fontsize=_NAME_SIZE,
            color=color,
            arrowprops=line if away > _AWAY[0] else None,
            zorder=5,
        ).set_in_layout(False)


def _box(axes: Axes, one: Place, other: Place, around: float) -> Bbox:
    return Bbox(np.sort(axes.transData.transform([one, other]), axis=0)).padded(around)


def _shared(one: Bbox, other: Bbox) -> float:
    both = Bbox.intersection(one, other)
    return 0.0 if both is None else float(both.width * both.height)
