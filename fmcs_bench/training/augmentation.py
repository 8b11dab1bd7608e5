"""Random changes to the images of a training, on the device.

They depend on the seed of the epoch and the image's number alone: not on the method, batch size or processes.
N images, B batch, C channels, H height, W width.
"""

from __future__ import annotations

from typing import Self

import torch
from torch.nn import functional as F  # noqa: N812  (torch's own short name)

from fmcs_bench.training.recipes import AugmentationName, Recipe

SHIFT = 8
"""A crop is shifted by up to 1 / 8 of the side: 4 pixels of 32, as is usual for CIFAR."""
_LARGE = 2**30


class Augmentation:
    """What is done to each image in one epoch.

    ``flip`` mirrors half of the images, left to right. ``crop-flip`` also shifts each by up to an eighth of its side,
    both ways; what comes in from outside is 0, the mean colour of a prepared image.

    Example:
        >>> images_BCHW = torch.arange(4.0).reshape(1, 1, 2, 2)
        >>> Augmentation("flip", 3, seed=0, device=torch.device("cpu"))(images_BCHW, torch.tensor([2])).tolist()
        [[[[1.0, 0.0], [3.0, 2.0]]]]
    """

    def __init__(self, name: AugmentationName, num_images: int, *, seed: int, device: torch.device) -> None:
        self._name = name
        generator = torch.Generator().manual_seed(seed)
        self._flip_N = torch.randint(2, (num_images,), generator=generator).bool().to(device)
        # The side is not known yet; the remainder of a large number is as good as even.
        self._shift_N2 = torch.randint(_LARGE, (num_images, 2), generator=generator).to(device)

    @classmethod
    def of(cls, recipe: Recipe, num_images: int, *, seed: int, device: torch.device) -> Self | None:
        """What the recipe says; None where it says none."""
        return None if recipe.augmentation == "none" else cls(recipe.augmentation, num_images, seed=seed, device=device)

    def __call__(self, images_BCHW: torch.Tensor, index_B: torch.Tensor) -> torch.Tensor:
        """A batch that is prepared for the network, changed; ``index_B`` are the numbers of its images, 0 .. N - 1."""
        flip_B = self._flip_N[index_B]
        if self._name == "flip":
            return torch.where(flip_B[:, None, None, None], images_BCHW.flip(-1), images_BCHW)
        num, channels, height, width = images_BCHW.shape
        pad_y, pad_x = height // SHIFT, width // SHIFT
        padded = F.pad(images_BCHW, (pad_x, pad_x, pad_y, pad_y))
        y_H, x_W, b_B, c_C = (torch.arange(n, device=index_B.device) for n in (height, width, num, channels))
        shift_B2 = self._shift_N2[index_B]
        y_BH = shift_B2[:, :1] % (2 * pad_y + 1) + y_H
        x_BW = shift_B2[:, 1:] % (2 * pad_x + 1) + torch.where(flip_B[:, None], x_W.flip(0), x_W)
        return padded[
            b_B[:, None, None, None], c_C[None, :, None, None], y_BH[:, None, :, None], x_BW[:, None, None, :]
        ]
