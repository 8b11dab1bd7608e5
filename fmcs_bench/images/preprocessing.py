"""From uint8 images as stored to the input of a network, on the device.

B batch, C channels of images, H height, W width.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from fmcs_bench.core.errors import ConfigError
from fmcs_bench.images.dataset import ImageDataset


class Preprocessor(nn.Module):
    """uint8 images as stored -> float32 input of a network: resized, normalised, three channels.

    Grey images are repeated over the three channels, so that every network takes every dataset. Mean and standard
    deviation are those of the train split's pixels, for each channel. Resizing to a square of ``image_size`` pixels is
    bilinear, with antialiasing where it shrinks.
    """

    mean_C: torch.Tensor
    std_C: torch.Tensor

    def __init__(self, images: ImageDataset, image_size: int) -> None:
        super().__init__()
        self.image_size = image_size
        variance_C = images.scan.variance_C
        if (variance_C <= 0).any():
            raise ConfigError(f"all train images of {images.name} have one colour; nothing can be learned from them")
        self.register_buffer("mean_C", torch.tensor(images.scan.mean_C, dtype=torch.float32))
        self.register_buffer("std_C", torch.tensor(np.sqrt(variance_C), dtype=torch.float32))

    @torch.no_grad()
    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """uint8 images with one or three channels, of any size -> float32 [B, 3, image_size, image_size]."""
        x_BCHW = images_BCHW.float().div_(255)
        size = (self.image_size, self.image_size)
        if x_BCHW.shape[-2:] != size:
            shrinks = max(x_BCHW.shape[-2:]) > self.image_size
            x_BCHW = nn.functional.interpolate(x_BCHW, size=size, mode="bilinear", antialias=shrinks)
        x_BCHW = (x_BCHW - self.mean_C[:, None, None]) / self.std_C[:, None, None]
        return x_BCHW.expand(-1, 3, -1, -1)
