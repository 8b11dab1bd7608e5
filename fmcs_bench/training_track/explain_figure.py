"""The contact sheet of Grad-CAM: a row for each image, a column for each network, the predicted class below each cell.

N images, P networks, H height, W width.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure

from fmcs_bench.backbones.gradcam import Saliency
from fmcs_bench.core.figure_style import MUTED, ORANGE, house_style, short

COLORS = "viridis"
"""Perceptually uniform, and readable with every kind of colour vision."""

CELL, GAP, LINE, MARGIN = 0.92, 0.09, 0.19, 0.16
"""Sizes in inches: of a cell, between cells, of a line of small print, around the sheet."""

LABELS, HEAD, FOOT = 1.05, 1.04, 0.62
"""Sizes in inches: width of the column of labels, height of titles, height of the colour scale."""

DISPLAY_PIXELS, NAME_LENGTH = 128, 12


class _Sheet:
    """A figure with positions in inches from its upper left corner."""

    def __init__(self, width: float, height: float) -> None:
        self.figure, self.width, self.height = Figure(figsize=(width, height)), width, height

    def show(self, left: float, top: float, wide: float, high: float, picture_HW3: np.ndarray) -> None:
        box = (left / self.width, 1 - (top + high) / self.height, wide / self.width, high / self.height)
        axes = self.figure.add_axes(box)
        axes.set_axis_off()
        axes.imshow(picture_HW3, interpolation="none", aspect="auto")

    def write(self, left: float, top: float, text: str, **style: Any) -> None:
        self.figure.text(left / self.width, 1 - top / self.height, text, **({"va": "top"} | style))


@house_style()
def saliency_figure(saliency: Saliency, title: str) -> Figure:
    """Images down, networks across; violet is no evidence for the target class, yellow the most in that cell.

    Each cell is scaled by its own largest value, because logits grow in training: places can be compared between cells,
    amounts cannot.

    Args:
        saliency: of ``explain_networks``.
        title: dataset and run, or dataset and method.
    """
    num_networks, num_images = saliency.predicted_PN.shape
    first, step, row = MARGIN + LABELS, CELL + GAP, CELL + LINE + GAP
    body = MARGIN + HEAD
    sheet = _Sheet(max(MARGIN + first + (num_networks + 1) * step, 6.6), body + num_images * row + FOOT)
    heading = f"Grad-CAM: {short(title, 120)}"
    room = (sheet.width - 2 * MARGIN) * 72 / (0.7 * len(heading))  # a bold letter is 0.7 times as wide as high
    sheet.write(MARGIN, MARGIN, heading, fontsize=min(11.5, room), fontweight="bold")
    whose = "the class that the network predicts" if saliency.target == "predicted" else "the image's label"
    sheet.write(MARGIN, MARGIN + 0.27, f"where the maps hold evidence for {whose}", fontsize=9, color=MUTED)
    for column, name in enumerate(["image", *saliency.networks]):
        centre, top = first + column * step + CELL / 2, body - 2 * LINE - 0.02
        upper, _, lower = name.partition("\n")
        sheet.write(centre, top, upper, ha="center", fontsize=9, fontweight="bold")
        sheet.write(centre, top + LINE, lower, ha="center", fontsize=8, color=MUTED)
    sheet.write(first - 0.1, body - LINE - 0.02, "val. accuracy", ha="right", fontsize=8, color=MUTED)
    for n in range(num_images):
        top = body + n * row
        _name_row(sheet, first - 0.1, top + CELL / 2, saliency, n)
        sheet.show(first, top, CELL, CELL, _magnified(saliency.images_NHWC[n]))
        for network in range(num_networks):
            left = first + (network + 1) * step
            sheet.show(left, top, CELL, CELL, overlay(saliency.images_NHWC[n], saliency.cams_PNHW[network, n]))
            _name_answer(sheet, left + CELL / 2, top + CELL + 0.03, saliency, network, n)
    _explain_scale(sheet, first, body + num_images * row + 0.12)
    return sheet.figure


def overlay(image_HWC: np.ndarray, cam_HW: np.ndarray) -> np.ndarray:
    """A map, by its largest value, over an image.

    Args:
        image_HWC: float in [0, 1], three channels.
        cam_HW: not negative; may be zero everywhere.

    Returns:
        float [H, W, 3] in [0, 1], magnified to 128 pixels or more.
    """
    most = float(cam_HW.max())
    share_HW = _magnified((cam_HW / most if most > 0 else cam_HW)[..., None])[..., 0]
    grey_HW = _magnified(image_HWC) @ np.array([0.299, 0.587, 0.114])
    return _mixed(grey_HW, share_HW)


def _mixed(grey_HW: np.ndarray, share_HW: np.ndarray) -> np.ndarray:
    color_HW3 = colormaps[COLORS](share_HW)[..., :3]
    return np.asarray(0.38 * grey_HW[..., None] + 0.62 * color_HW3)


def _magnified(image_HWC: np.ndarray) -> np.ndarray:
    """Magnified to a size that no viewer has to interpolate."""
    times = -(-DISPLAY_PIXELS // min(image_HWC.shape[:2]))
    image = torch.from_numpy(np.ascontiguousarray(image_HWC, dtype=np.float32)).permute(2, 0, 1)[None]
    found = torch.nn.functional.interpolate(image, scale_factor=float(times), mode="bilinear")
    return found[0].permute(1, 2, 0).numpy()


def _name_row(sheet: _Sheet, right: float, middle: float, saliency: Saliency, n: int) -> None:
    name = short(saliency.classes[int(saliency.labels_N[n])], NAME_LENGTH)
    sheet.write(right, middle - 0.01, name, ha="right", va="bottom", fontsize=9.5, fontweight="bold")
    sheet.write(right, middle + 0.04, f"id {saliency.image_ids_N[n]}", ha="right", fontsize=7, color=MUTED)


def _name_answer(sheet: _Sheet, centre: float, top: float, saliency: Saliency, network: int, n: int) -> None:
    predicted = int(saliency.predicted_PN[network, n])
    right = predicted == saliency.labels_N[n]
    style = {"color": MUTED} if right else {"color": ORANGE, "fontweight": "bold"}
    sheet.write(centre, top, short(saliency.classes[predicted], NAME_LENGTH), ha="center", fontsize=8, **style)


def _explain_scale(sheet: _Sheet, left: float, top: float) -> None:
    """The colour scale over a mid grey, and the meaning of the small print."""
    sheet.show(left, top, 1.5, 0.13, _mixed(np.full((1, 256), 0.5), np.linspace(0, 1, 256)[None]))
    sheet.write(left, top + 0.17, "nothing", fontsize=7.5, color=MUTED)
    sheet.write(left + 1.5, top + 0.17, "most of this cell", ha="right", fontsize=7.5, color=MUTED)
    beside = left + 1.75
    sheet.write(beside, top - 0.02, "below each cell: the predicted class;", fontsize=8)
    wrong = "bold and orange where it is not the label"
    sheet.write(beside, top + 0.15, wrong, fontsize=8, color=ORANGE, fontweight="bold")
