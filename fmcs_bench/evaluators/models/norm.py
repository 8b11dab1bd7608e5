"""``norm``: the size of a map and nothing else; a reference that every evaluator should beat."""

from __future__ import annotations

import torch
from torch import nn

from fmcs_bench.evaluators.network import Apply, NetworkEvaluator

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
            Apply(log_rms),
            nn.BatchNorm1d(1),
            nn.Linear(1, self.width),
            nn.ReLU(),
            nn.Linear(self.width, self.num_outputs),
        )


def log_rms(maps_BDHW: torch.Tensor) -> torch.Tensor:
    """Logarithm of the root mean square over channels and positions, [B, 1]."""
    return 0.5 * (maps_BDHW.square().mean(dim=(1, 2, 3)) + SMALLEST).log()[:, None]
