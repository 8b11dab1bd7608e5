"""``set``: the channels as a set (DeepSets, arXiv 1703.06114); their order cannot be seen."""

from __future__ import annotations

import torch
from torch import nn

from fmcs_bench.evaluators.features import quantiles
from fmcs_bench.evaluators.network import NetworkEvaluator

NUM_QUANTILES = 16


class SetEvaluator(NetworkEvaluator):
    """One MLP describes each channel by its value distribution; a second sees the descriptions' mean and maximum."""

    name = "set"
    channel_invariant = True
    any_shape = True
    width = 64

    def make_network(self) -> nn.Module:
        """See ``NetworkEvaluator``."""
        return SetNetwork(self.width, self.num_outputs)


class SetNetwork(nn.Module):
    """Maps [B, D, H, W] -> outputs, the same for any order of the D channels and of the positions."""

    def __init__(self, width: int, num_outputs: int) -> None:
        super().__init__()
        self.describe = nn.Sequential(
            nn.Linear(NUM_QUANTILES + 3, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()
        )
        self.output = nn.Sequential(
            nn.BatchNorm1d(2 * width), nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, num_outputs)
        )

    def forward(self, maps_BDHW: torch.Tensor) -> torch.Tensor:
        """See the class."""
        described_BDE = self.describe(channel_statistics(maps_BDHW))
        outputs: torch.Tensor = self.output(torch.cat([described_BDE.mean(dim=1), described_BDE.amax(dim=1)], dim=1))
        return outputs


def channel_statistics(maps_BDHW: torch.Tensor) -> torch.Tensor:
    """Quantiles, mean, standard deviation and share of zeros of each channel's positions.

    Returns:
        [B, D, 19]: 16 evenly spaced quantiles from the smallest to the largest value, mean, standard deviation, share
        of values that are 0 or less.
    """
    values_BDP = maps_BDHW.flatten(2)
    mean_BD1 = values_BDP.mean(dim=2, keepdim=True)
    # The square root's gradient is infinite at 0, where a dead channel's variance lies.
    std_BD1 = ((values_BDP - mean_BD1).square().mean(dim=2, keepdim=True) + 1e-8).sqrt()
    zeros_BD1 = (values_BDP <= 0).to(values_BDP.dtype).mean(dim=2, keepdim=True)
    return torch.cat([quantiles(values_BDP, NUM_QUANTILES), mean_BD1, std_BD1, zeros_BD1], dim=2)
