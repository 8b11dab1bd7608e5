"""The contact sheet of Grad-CAM: a row for each image, a column for each network, the predicted class below each cell.

N images, P networks, H height, W width.
"""

from __future__ import annotations

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure

from fmcs_bench.backbones.gradcam import Saliency
from fmcs_bench.core.figure_style import MUTED, ORANGE, house_style, short

COLORS = "viridis"
"""Perceptually uniform, and readable with every kind of colour vision."""
CELL = 1.15
"""Width and height of a cell with its small print, in inches."""
DISPLAY_PIXELS, NAME_LENGTH = 128, 12


@house_style()
def saliency_figure(saliency: Saliency, title: str) -> Figure:
    """Images down, networks across; violet is no evidence for the target class, yellow the most in that cell.

    Each cell is scaled by its own largest value, because logits grow in training: places can be compared between cells,
    amounts cannot.
    """
    num_networks, num_images = saliency.predicted_PN.shape
    width = max(CELL * (num_networks + 2), 6.6)
    figure = Figure(figsize=(width, CELL * num_images + 1.7), layout="constrained")
    heading = f"Grad-CAM: {short(title, 120)}"
    room = (width - 0.3) * 72 / (0.7 * len(heading))  # a bold letter is 0.7 times as wide as high
    figure.suptitle(heading, fontsize=min(11.5, room), fontweight="bold")
    grid = figure.subplots(num_images, num_networks + 1, squeeze=False)
    for n, axes_P in enumerate(grid):
        name = short(saliency.classes[int(saliency.labels_N[n])], NAME_LENGTH)
        _show(axes_P[0], _magnified(saliency.images_NHWC[n]), f"id {saliency.image_ids_N[n]}", MUTED)
        axes_P[0].set_ylabel(name, fontsize=9.5, fontweight="bold", rotation="horizontal", ha="right", va="center")
        for p, axes in enumerate(axes_P[1:]):
            predicted = int(saliency.predicted_PN[p, n])
            color = MUTED if predicted == saliency.labels_N[n] else ORANGE
            cell = overlay(saliency.images_NHWC[n], saliency.cams_PNHW[p, n])
            _show(axes, cell, short(saliency.classes[predicted], NAME_LENGTH), color)
    for axes, name in zip(grid[0], ["image\nval. accuracy", *saliency.networks], strict=True):
        axes.set_title(name, fontsize=9, loc="center")
    whose = "the class that the network predicts" if saliency.target == "predicted" else "the image's label"
    scale = figure.colorbar(
        ScalarMappable(cmap=COLORS), ax=grid, location="bottom", shrink=0.5, aspect=40, ticks=[0, 1]
    )
    scale.ax.set_xticklabels(["no evidence", "most in the cell"], fontsize=8)
    scale.set_label(f"evidence for {whose}; below each cell the predicted class, orange where it is wrong", fontsize=8)
    return figure


def _show(axes: Axes, image_HW3: np.ndarray, below: str, color: str) -> None:
    axes.imshow(image_HW3, interpolation="none")
    axes.set(xticks=[], yticks=[])
    axes.grid(visible=False)
    axes.set_xlabel(below, fontsize=8, color=color, fontweight="bold" if color == ORANGE else "normal")


def overlay(image_HWC: np.ndarray, cam_HW: np.ndarray) -> np.ndarray:
    """A map [H, W], scaled by its largest value, over an image in grey; magnified to 128 pixels or more."""
    most = float(cam_HW.max())
    share_HW = _magnified((cam_HW / most if most > 0 else cam_HW)[..., None])[..., 0]
    grey_HW = _magnified(image_HWC) @ np.array([0.299, 0.587, 0.114])
    return np.asarray(0.38 * grey_HW[..., None] + 0.62 * colormaps[COLORS](share_HW)[..., :3])


def _magnified(image_HWC: np.ndarray) -> np.ndarray:
    """Magnified to a size that no viewer has to interpolate."""
    times = -(-DISPLAY_PIXELS // min(image_HWC.shape[:2]))
    image = torch.from_numpy(np.ascontiguousarray(image_HWC, dtype=np.float32)).permute(2, 0, 1)[None]
    found = torch.nn.functional.interpolate(image, scale_factor=float(times), mode="bilinear")
    return found[0].permute(1, 2, 0).numpy()
