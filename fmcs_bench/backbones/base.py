"""The contract of a backbone: images -> maps (the last map before pooling) and logits, in one pass.

Tensor names: B batch, C channels of images (always 3), D channels of maps, H height, W width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from fmcs_bench.core.errors import ConfigError


class Backbone(nn.Module, ABC):
    """A classifier that gives its feature maps as well.

    Most networks compute their logits from the maps alone, and implement ``features`` and ``classify``. A network that
    needs more than the maps (a class token, or layers between the maps and the logits) overrides ``maps_and_logits``
    instead and sets ``classifies_maps`` to False.
    """

    classifies_maps: bool = True
    """Whether ``classify`` can compute the logits from the maps."""

    @abstractmethod
    def features(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """float32 [B, 3, H, W] images, normalised -> float32 [B, D, H, W], the last map before pooling."""

    @abstractmethod
    def drop_head(self) -> None:
        """Remove the parameters that ``features`` does not need, for networks that use nothing else."""

    def classify(self, maps_BDHW: torch.Tensor) -> torch.Tensor:
        """Maps -> logits, float32 [B, number of classes].

        Raises:
            ConfigError: the maps are not all that this network's classifier looks at (``classifies_maps`` is False).
        """
        raise ConfigError(
            f"the logits of this {type(self).__name__} cannot be computed from its maps of shape "
            f"{tuple(maps_BDHW.shape)}; use maps_and_logits(images)"
        )

    def maps_and_logits(self, images_BCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Maps [B, D, H, W] and logits [B, number of classes] of one pass; a loss of either reaches the network."""
        maps_BDHW = self.features(images_BCHW)
        return maps_BDHW, self.classify(maps_BDHW)

    def logits_through(self, images_BCHW: torch.Tensor, change: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """Logits of a pass in which ``change(maps)`` replaces the maps.

        Raises:
            ConfigError: the logits are not computed from the maps.
        """
        if not self.classifies_maps:
            raise ConfigError(
                f"the logits of this {type(self).__name__} do not come from its maps, but from a class token or from "
                "tokens before they become maps; build the dataset with the maps of an inner layer (--layer)"
            )
        return self.classify(change(self.features(images_BCHW)))

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """Images -> logits."""
        return self.maps_and_logits(images_BCHW)[1]


@dataclass(frozen=True)
class NetworkRequest:
    """How to make a network of a library.

    Attributes:
        num_classes: of the image dataset.
        image_size: side of the square images, in pixels; None is the network's own size.
        layer: name of the module whose outputs are the maps; None is the last map before pooling.
        output_stride: side of the images divided by that of the last maps; None is the network's own.
        pretrained: start from the published weights; the classifier stays random.
    """

    num_classes: int
    image_size: int | None = None
    layer: str | None = None
    output_stride: int | None = None
    pretrained: bool = False


class Library(ABC):
    """Makes one network of a library."""

    def __call__(self, num_classes: int) -> Backbone:
        """The network with random weights and its own settings."""
        return self.make(NetworkRequest(num_classes))

    @abstractmethod
    def make(self, request: NetworkRequest) -> Backbone:
        """The network that the request describes.

        Raises:
            ConfigError: it cannot take images of this size, or has no such layer, output stride or published weights.
            MissingDataError: the published weights are not here and cannot be fetched.
        """


Factory = Callable[[int], Backbone]
"""Makes a backbone for a number of classes, with fresh random weights from torch's generator."""
