"""Networks of this package: ``smallcnn`` and ``shufflenet_v2``."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import torch
from torch import nn

from fmcs_bench.backbones.base import Backbone, Factory
from fmcs_bench.core.errors import UnknownNameError

LARGEST_WIDTH = 1024


class SmallCnn(Backbone):
    """Three stride-2 blocks of 3 x 3 convolution, batch norm and ReLU; 64 maps of 1/8 of the image's side.

    It trains in seconds on a CPU. Its blocks have ``width``, twice and four times as many channels.
    """

    usual_width = 16

    def __init__(self, num_classes: int, width: int = usual_width) -> None:
        super().__init__()
        widths = (3, width, 2 * width, 4 * width)
        self.body = nn.Sequential(*(_block(i, o) for i, o in pairwise(widths)))
        self.head: nn.Module = nn.Linear(4 * width, num_classes)

    def features(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """See ``Backbone``."""
        maps: torch.Tensor = self.body(images_BCHW)
        return maps

    def classify(self, maps_BDHW: torch.Tensor) -> torch.Tensor:
        """See ``Backbone``."""
        logits: torch.Tensor = self.head(maps_BDHW.mean(dim=(2, 3)))
        return logits

    def drop_head(self) -> None:
        """See ``Backbone``."""
        self.head = nn.Identity()


def _block(num_in: int, num_out: int) -> nn.Sequential:
    convolution = nn.Conv2d(num_in, num_out, 3, stride=2, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(num_out), nn.ReLU())


def find_width(width: str) -> Factory:
    """The maker of a ``smallcnn`` of this width, as ``smallcnn/24``."""
    if not (width.isascii() and width.isdigit() and width[0] != "0" and int(width) <= LARGEST_WIDTH):
        raise UnknownNameError(f"smallcnn has no width {width!r}; name one from 1 to {LARGEST_WIDTH}, as smallcnn/24")
    return partial(SmallCnn, width=int(width))


class ShuffleNetV2(Backbone):
    """torchvision's ShuffleNet v2, width 1.0 (arXiv 1807.11164): 1024 maps of 1/32 of the image's side."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        from torchvision.models import shufflenet_v2_x1_0

        net = shufflenet_v2_x1_0(weights=None, num_classes=num_classes)
        self.body = nn.Sequential(net.conv1, net.maxpool, net.stage2, net.stage3, net.stage4, net.conv5)
        self.head: nn.Module = net.fc

    features = SmallCnn.features
    classify = SmallCnn.classify
    drop_head = SmallCnn.drop_head
