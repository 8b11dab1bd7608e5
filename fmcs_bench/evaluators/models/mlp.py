"""``mlp``: a multilayer perceptron on the values of a map, with no idea of neighbourhood."""

from __future__ import annotations

from torch import nn

from fmcs_bench.evaluators.network import NetworkEvaluator

MAX_SIDE = 4


class MlpEvaluator(NetworkEvaluator):
    """Two hidden layers on the flattened map.

    Maps larger than 4 x 4 are averaged down to that first: 2,048 channels of 7 x 7 would be 100,352 inputs, and nearly
    all learned values would sit in the first layer.
    """

    name = "mlp"
    channel_invariant = False
    any_shape = False
    width = 128

    def make_network(self) -> nn.Module:
        """See ``NetworkEvaluator``."""
        num_channels, *sides = self.map_shape
        height, width = (min(side, MAX_SIDE) for side in sides)
        return nn.Sequential(
            nn.AdaptiveAvgPool2d((height, width)),
            nn.Flatten(),
            *_layer(num_channels * height * width, self.width),
            *_layer(self.width, self.width),
            nn.Linear(self.width, self.num_outputs),
        )


def _layer(num_in: int, num_out: int) -> tuple[nn.Module, ...]:
    return nn.Linear(num_in, num_out, bias=False), nn.BatchNorm1d(num_out), nn.ReLU()
