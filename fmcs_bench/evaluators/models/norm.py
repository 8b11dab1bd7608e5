"""``norm``: looks at the size of a map and at nothing else; what a real judge has to beat."""

from __future__ import annotations

import torch
from torch import nn

from fmcs_bench.evaluators.network import NetworkEvaluator

SMALLEST = 1e-6


class NormEvaluator(NetworkEvaluator):
    """Logarithm of the map's root mean square, then a small multilayer perceptron."""

    name = "norm"
    channel_invariant = True
    any_shape = True
    width = 32

    def make_network(self) -> nn.Module:
        """See ``NetworkEvaluator``."""
        return nn.Sequential(
            LogRms(), nn.BatchNorm1d(1), nn.Linear(1, self.width), nn.ReLU(), nn.Linear(self.width, self.num_outputs)
        )


class LogRms(nn.Module):
    """Maps [B, D, H, W] -> [B, 1], the logarithm of the root mean square over channels and positions."""

    def forward(self, maps_BDHW: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return 0.5 * (maps_BDHW.square().mean(dim=(1, 2, 3)) + SMALLEST).log()[:, None]
