"""``conv``: the paper's FMCE-Net, a light convolutional network on the maps."""

from __future__ import annotations

from torch import nn

from fmcs_bench.evaluators.network import NetworkEvaluator


class ConvEvaluator(NetworkEvaluator):
    """Two 3 x 3 convolutions with batch norm and ReLU, average pooling, a linear layer.

    arXiv 2508.06109 (III-B) calls FMCE-Net "a lightweight convolutional network" and gives no layers; these are ours.
    It sees channels in their order, so it can learn to recognise one run's channels.
    """

    name = "conv"
    channel_invariant = False
    any_shape = False
    width = 64

    def make_network(self) -> nn.Module:
        """See ``NetworkEvaluator``."""
        return nn.Sequential(
            *_block(self.map_shape[0], self.width),
            *_block(self.width, self.width),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(self.width, self.num_outputs),
        )


def _block(num_in: int, num_out: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(num_in, num_out, 3, padding=1, bias=False), nn.BatchNorm2d(num_out), nn.ReLU()
