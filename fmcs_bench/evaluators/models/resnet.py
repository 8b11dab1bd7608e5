"""``resnet``: a small residual network; is the paper's light network too light?"""

from __future__ import annotations

import torch
from torch import nn

from fmcs_bench.evaluators.network import NetworkEvaluator


class ResNetEvaluator(NetworkEvaluator):
    """Three basic blocks (arXiv 1512.03385, figure 2) of 64 channels at the maps' own resolution."""

    name = "resnet"
    channel_invariant = False
    any_shape = False
    width = 64
    num_blocks = 3

    def make_network(self) -> nn.Module:
        """See ``NetworkEvaluator``."""
        return nn.Sequential(
            *_convolution(self.map_shape[0], self.width),
            nn.ReLU(),
            *(ResidualBlock(self.width) for _ in range(self.num_blocks)),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(self.width, self.num_outputs),
        )


class ResidualBlock(nn.Module):
    """relu(x + f(x)), where f are two 3 x 3 convolutions with batch norm and a ReLU between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(*_convolution(width, width), nn.ReLU(), *_convolution(width, width))

    def forward(self, maps_BDHW: torch.Tensor) -> torch.Tensor:
        """See the class."""
        sum_BDHW: torch.Tensor = maps_BDHW + self.residual(maps_BDHW)
        return sum_BDHW.relu()


def _convolution(num_in: int, num_out: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(num_in, num_out, 3, padding=1, bias=False), nn.BatchNorm2d(num_out)
