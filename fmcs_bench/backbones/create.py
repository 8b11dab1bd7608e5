"""Backbones by name, with random weights that a seed decides; and descriptions of their maps."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from fmcs_bench.backbones import timm as timm_networks
from fmcs_bench.backbones import torchvision as torchvision_networks
from fmcs_bench.backbones.base import Backbone, Factory, Library, NetworkRequest
from fmcs_bench.backbones.layers import Form, LayerBackbone
from fmcs_bench.backbones.options import BackboneOptions
from fmcs_bench.backbones.smallcnn import ShuffleNetV2, SmallCnn, find_width
from fmcs_bench.backbones.timm import Timm
from fmcs_bench.core.errors import ConfigError
from fmcs_bench.core.options import Options
from fmcs_bench.core.registry import Registry
from fmcs_bench.core.seeding import derive

DESCRIBED_CLASSES = 10
"""Classes of the networks that ``describe`` makes."""
BACKBONES: Registry[Factory] = Registry("backbone", group="fmcs_bench.backbones")
BACKBONES.add("smallcnn", SmallCnn)
BACKBONES.add("resnet50", Timm("resnet50"))
BACKBONES.add("shufflenet_v2", ShuffleNetV2)
for _depth in (18, 34, 50, 101, 152):
    BACKBONES.add(f"seresnet{_depth}", Timm(f"seresnet{_depth}"))

BACKBONE_LIBRARIES: dict[str, Callable[[str], Factory]] = {
    "timm": timm_networks.find,
    "torchvision": torchvision_networks.find,
    "smallcnn": find_width,
}
"""The first part of ``LIBRARY/NAME`` and ``smallcnn/WIDTH``, and how the second part is looked up."""


def find_backbone(name: str) -> Factory:
    """The factory of a backbone: short name, ``timm/NAME``, ``torchvision/NAME`` or ``smallcnn/WIDTH``."""
    library, slash, network = name.partition("/")
    if slash and library in BACKBONE_LIBRARIES:
        return BACKBONE_LIBRARIES[library](network)
    return BACKBONES[name]


def create_backbone(
    name: str,
    num_classes: int,
    *,
    seed: int,
    image_size: int | None = None,
    options: BackboneOptions | None = None,
) -> Backbone:
    """A backbone whose random weights depend on ``seed`` alone; the global random state is not touched.

    Args:
        name: short name (``BACKBONES.names()``), ``timm/NAME``, ``torchvision/NAME`` or ``smallcnn/WIDTH``.
        num_classes: of the image dataset.
        seed: of the weights; with ``pretrained``, of the classifier alone.
        image_size: side of the square images, in pixels, for networks that take one size; None is their own.
        options: layer, output stride, pretrained.

    Raises:
        UnknownNameError: no such backbone or layer.
        ConfigError: the network does not have what the options ask for, or cannot take images of this size.
        MissingDataError: published weights are wanted, are not here, and cannot be fetched.

    Example:
        >>> create_backbone("smallcnn", 10, seed=0)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """
    options = options or BackboneOptions()
    make = find_backbone(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "weights"))
        if isinstance(make, Library):
            backbone = make.make(NetworkRequest(num_classes, image_size, **options.model_dump()))
            _require_stride(name, backbone, image_size, options)
            return backbone
        backbone = make(num_classes)
    if options.output_stride is not None:
        raise ConfigError(f"the output stride of {name} is fixed; leave out --output-stride")
    if options.pretrained:
        raise ConfigError(
            f"{name} has no published weights; leave out --pretrained, or name a timm or torchvision network"
        )
    return backbone if options.layer is None else LayerBackbone(backbone, options.layer, Form(), image_size)


def _require_stride(name: str, backbone: Backbone, image_size: int | None, options: BackboneOptions) -> None:
    """Check the maps: some networks accept any output stride and keep their own."""
    if options.output_stride is None or options.layer is not None or image_size is None:
        return
    side = map_shape(backbone, image_size)[1]
    if abs(side - image_size / options.output_stride) > 1:
        raise ConfigError(
            f"{name} has no output stride {options.output_stride}: its maps of images of {image_size} px are {side} px "
            "wide; leave out --output-stride"
        )


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
    except ConfigError:
        raise
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        raise ConfigError(f"this backbone cannot take images of {image_size} px: {error}") from None
    finally:
        backbone.train(was_training)
    if len(shape) != 4:
        raise ConfigError(f"this backbone's last features have the shape {shape}; spatial maps [B, D, H, W] are needed")
    return shape[1], shape[2], shape[3]


def num_parameters(module: nn.Module) -> int:
    """Number of parameters of a module."""
    return sum(parameter.numel() for parameter in module.parameters())


class Description(Options):
    """One backbone at one image size; ``map_bytes`` are of one map in float16, and ``problem`` is why it has none."""

    name: str
    image_size: int
    map_shape: tuple[int, int, int] | None = None
    num_parameters: int | None = None
    map_bytes: int | None = None
    problem: str | None = None


def describe(name: str, image_size: int, options: BackboneOptions | None = None) -> Description:
    """Make a backbone and pass one image through it."""
    try:
        backbone = create_backbone(name, DESCRIBED_CLASSES, seed=0, image_size=image_size, options=options)
        shape = map_shape(backbone, image_size)
    except ConfigError as error:
        return Description(name=name, image_size=image_size, problem=str(error).splitlines()[0])
    return Description(
        name=name,
        image_size=image_size,
        map_shape=shape,
        num_parameters=num_parameters(backbone),
        map_bytes=2 * math.prod(shape),
    )
