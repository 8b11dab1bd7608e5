"""Classifiers split in two: images -> maps (the last map before pooling) -> logits.

Tensor names: B batch, C channels of images (always 3), D channels of maps, H height, W width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from fmcs_bench.errors import ConfigError, UnknownNameError, nearest
from fmcs_bench.registry import Registry
from fmcs_bench.seeding import derive


class Backbone(nn.Module, ABC):
    """A classifier whose feature maps can be taken out on the way."""

    @abstractmethod
    def features(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """float32 [B, 3, H, W] images, normalised -> float32 [B, D, H, W], the last map before pooling."""

    @abstractmethod
    def classify(self, maps_BDHW: torch.Tensor) -> torch.Tensor:
        """Maps -> logits, float32 [B, number of classes]."""

    @abstractmethod
    def drop_head(self) -> None:
        """Remove the parameters of ``classify``, for networks that only use ``features``."""

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """Images -> logits."""
        return self.classify(self.features(images_BCHW))


Factory = Callable[[int], Backbone]
"""Makes a backbone for a number of classes, with fresh random weights from torch's generator."""

REGISTRY: Registry[Factory] = Registry("backbone", group="fmcs_bench.backbones")


class SmallCnn(Backbone):
    """Three stride-2 blocks of 3 x 3 convolution, batch norm and ReLU; 64 maps of 1/8 of the image's side.

    Small enough to train in seconds on a CPU; it exists for tests, tutorials and the quickstart.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*(_block(i, o) for i, o in ((3, 16), (16, 32), (32, 64))))
        self.head: nn.Module = nn.Linear(64, num_classes)

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


class TimmBackbone(Backbone):
    """Any timm network whose last features are maps [B, D, H, W]."""

    def __init__(self, name: str, num_classes: int) -> None:
        super().__init__()
        import timm

        self.net: Any = timm.create_model(name, pretrained=False, num_classes=num_classes)

    def features(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """See ``Backbone``."""
        maps: torch.Tensor = self.net.forward_features(images_BCHW)
        return maps

    def classify(self, maps_BDHW: torch.Tensor) -> torch.Tensor:
        """See ``Backbone``."""
        logits: torch.Tensor = self.net.forward_head(maps_BDHW)
        return logits

    def drop_head(self) -> None:
        """See ``Backbone``."""
        self.net.reset_classifier(0)


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


def _timm(name: str) -> Factory:
    return lambda num_classes: TimmBackbone(name, num_classes)


REGISTRY.add("smallcnn", SmallCnn)
REGISTRY.add("resnet50", _timm("resnet50"))
REGISTRY.add("shufflenet_v2", ShuffleNetV2)
for _depth in (18, 34, 50, 101, 152):
    REGISTRY.add(f"seresnet{_depth}", _timm(f"seresnet{_depth}"))


def factory(name: str) -> Factory:
    """The maker of a backbone, by short name or as ``timm/NAME``.

    Raises:
        UnknownNameError: no such backbone; the message has the nearest names.
    """
    if name.startswith("timm/"):
        import timm

        model = name.removeprefix("timm/")
        if not timm.is_model(model):
            raise UnknownNameError(f"timm has no network {model!r}; {nearest(model, timm.list_models())}")
        return _timm(model)
    return REGISTRY[name]


def create(name: str, num_classes: int, *, seed: int) -> Backbone:
    """A backbone with random weights that ``seed`` alone decides; the global random state stays as it was.

    Args:
        name: short name (``REGISTRY.names()``) or ``timm/NAME``.
        num_classes: of the image dataset.
        seed: of the weights.

    Raises:
        UnknownNameError: no such backbone.

    Example:
        >>> create("smallcnn", 10, seed=0)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """
    make = factory(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "weights"))
        return make(num_classes)


def map_shape(backbone: Backbone, image_size: int) -> tuple[int, int, int]:
    """Shape (D, H, W) of the maps for square images of this size, in pixels.

    Raises:
        ConfigError: the network cannot take images of this size, or its features are no spatial maps.
    """
    device = next(backbone.parameters()).device
    was_training = backbone.training
    backbone.eval()
    try:
        with torch.no_grad():
            shape = tuple(backbone.features(torch.zeros(1, 3, image_size, image_size, device=device)).shape)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ConfigError(f"this backbone cannot take images of {image_size} px: {error}") from None
    finally:
        backbone.train(was_training)
    if len(shape) != 4 or _has_channels_last(backbone, shape):
        raise ConfigError(f"this backbone's last features have the shape {shape}; spatial maps [B, D, H, W] are needed")
    return shape[1], shape[2], shape[3]


def _has_channels_last(backbone: Backbone, shape: tuple[int, ...]) -> bool:
    """Whether these are maps [B, H, W, D], as some of timm's networks give them."""
    return isinstance(backbone, TimmBackbone) and bool(shape[3] == backbone.net.num_features != shape[1])


def num_parameters(module: nn.Module) -> int:
    """Number of the parameters of a module."""
    return sum(parameter.numel() for parameter in module.parameters())
