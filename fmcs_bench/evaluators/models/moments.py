"""``moments``: six moments of a map's values and nothing else; a step above ``norm``, still without any structure.

Flow: maps -> six numbers -> small multilayer perceptron.
"""

from __future__ import annotations

import torch
from torch import nn

from fmcs_bench.evaluators.models.features import NUM_MOMENTS, moments
from fmcs_bench.evaluators.network import NetworkEvaluator


class MomentsEvaluator(NetworkEvaluator):
    """Log root mean square, mean, standard deviation, skewness, kurtosis and share of zeros over the whole map."""

    name = "moments"
    channel_invariant = True
    any_shape = True
    width = 32

    def make_network(self) -> nn.Module:
        """See ``NetworkEvaluator``."""
        return nn.Sequential(
            Moments(),
            nn.BatchNorm1d(NUM_MOMENTS),
            nn.Linear(NUM_MOMENTS, self.width),
            nn.ReLU(),
            nn.Linear(self.width, self.width),
            nn.ReLU(),
            nn.Linear(self.width, self.num_outputs),
        )


class Moments(nn.Module):
    """Maps [B, D, H, W] -> [B, 6]; see ``map_statistics.moments``."""

    def forward(self, maps_BDHW: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return moments(maps_BDHW)
