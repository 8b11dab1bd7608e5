"""What a network gives -> maps [B, D, H, W].

Flow: output of a module -> ``Form``, what its library says about it -> maps, or a ``ConfigError`` with the shape.
A network may give maps [B, D, H, W] (NCHW), maps whose channels come last [B, H, W, D] (NHWC), or tokens [B, N, D]
(NLC): prefix tokens, such as a class token, which stand for no place, then one token for each place of a grid.

Tensor names: B batch, D channels of maps, H height, W width, N tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from fmcs_bench.core.errors import ConfigError

Order = Literal["NCHW", "NHWC", "NLC"]
CHANNELS_FIRST = (_ConvNd, _BatchNorm, nn.GroupNorm, nn.MaxPool2d, nn.AvgPool2d)
"""Modules of torch whose 4-D output has its channels first, whatever the network around them does."""


def no_grids(height: int, width: int) -> list[tuple[int, int]]:  # noqa: ARG001
    """For networks without tokens."""
    return []


@dataclass(frozen=True)
class Form:
    """What a library says about the outputs of one of its networks.

    Attributes:
        order: of the last features.
        num_prefix_tokens: class and register tokens, which come first.
        grids: height and width of the images, in pixels -> grids (H, W) that its tokens may stand for.
    """

    order: Order = "NCHW"
    num_prefix_tokens: int = 0
    grids: Callable[[int, int], list[tuple[int, int]]] = no_grids

    @property
    def loses_nothing(self) -> bool:
        """Whether the features can be computed back from the maps."""
        return self.order != "NLC" or self.num_prefix_tokens == 0

    def to_maps(self, output: Any, image_shape: torch.Size, module: nn.Module | None = None) -> torch.Tensor:
        """Maps [B, D, H, W] of what a network gave for images of this shape.

        Args:
            output: of the network's body, or of one of its modules.
            image_shape: [B, 3, H, W].
            module: where the output is that of a module inside: it may have another order than the last features.

        Raises:
            ConfigError: these are no spatial maps, or nothing is known that would make them such.
        """
        if isinstance(output, torch.Tensor) and len(output) == image_shape[0]:
            if output.ndim == 4:
                order = self._order(output.shape, image_shape, module)
                if order is not None:
                    return output.permute(0, 3, 1, 2) if order == "NHWC" else output
            elif output.ndim == 3:
                num_tokens = output.shape[1] - self.num_prefix_tokens
                for height, width in self.grids(image_shape[2], image_shape[3]):
                    if height * width == num_tokens:
                        tokens_BND = output[:, self.num_prefix_tokens :]
                        return tokens_BND.transpose(1, 2).reshape(len(output), -1, height, width)
        raise ConfigError(f"{_described(output)}; spatial maps [B, D, H, W] are needed")

    def from_maps(self, maps_BDHW: torch.Tensor) -> torch.Tensor:
        """The features that ``to_maps`` took the maps from, where it loses nothing."""
        if self.order == "NHWC":
            return maps_BDHW.permute(0, 2, 3, 1)
        return maps_BDHW if self.order == "NCHW" else maps_BDHW.flatten(2).transpose(1, 2)

    def _order(self, shape: torch.Size, image_shape: torch.Size, module: nn.Module | None) -> Order | None:
        """The order of a 4-D output, or None where it is no map.

        The last features have the order that the library states. A module inside may have the other one: there a
        convolution speaks for itself, and otherwise the two sides must be those of the image, which is square. In
        networks of tokens only convolutions give maps (another 4-D output is [B, heads, N, N], say).
        """
        possible: tuple[Order, ...]
        if isinstance(module, CHANNELS_FIRST):
            possible = ("NCHW",)
        elif self.order == "NLC":
            possible = ()
        else:
            other: Order = "NCHW" if self.order == "NHWC" else "NHWC"
            possible = (self.order,) if module is None else (self.order, other)
        square = image_shape[2] == image_shape[3]
        for order in possible:
            height, width = shape[2:] if order == "NCHW" else shape[1:3]
            if height == width or not square:
                return order
        return None


def _described(output: Any) -> str:
    if isinstance(output, torch.Tensor):
        return f"features of the shape {tuple(output.shape)} are no maps"
    if isinstance(output, list | tuple):
        shapes = ", ".join(str(tuple(item.shape)) if isinstance(item, torch.Tensor) else "?" for item in output)
        return f"features that are a {type(output).__name__} of {len(output)} ({shapes}) are no maps"
    return f"features of the type {type(output).__name__} are no maps"
