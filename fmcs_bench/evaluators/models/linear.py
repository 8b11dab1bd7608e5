"""``linear``: a linear probe; what the channels' means give away without any hidden layer."""

from __future__ import annotations

from torch import nn

from fmcs_bench.evaluators.network import NetworkEvaluator


class LinearEvaluator(NetworkEvaluator):
    """Linear classifier probe (arXiv 1610.01644) on globally average-pooled maps.

    Pooled rather than flattened: it is what the backbone's own classifier sees, and its size does not grow with the
    map. The pooled values are standardised by batch norm without learned values, as in arXiv 2111.06377 (A.1).
    """

    name = "linear"
    channel_invariant = False
    any_shape = False

    def make_network(self) -> nn.Module:
        """See ``NetworkEvaluator``."""
        num_channels = self.map_shape[0]
        return nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.BatchNorm1d(num_channels, affine=False),
            nn.Linear(num_channels, self.num_outputs),
        )
