"""What a network gives -> maps [B, D, H, W]; and backbones whose maps are the output of any layer.

A network may give maps [B, D, H, W] (NCHW), maps whose channels come last [B, H, W, D] (NHWC), or tokens [B, N, D]
(NLC): prefix tokens without a position, such as a class token, then one token for each position of a grid.

Tensor names: B batch, D channels of maps, H height, W width, N tokens.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from fmcs_bench.backbones.base import Backbone
from fmcs_bench.core.errors import ConfigError, UnknownNameError, nearest

Order = Literal["NCHW", "NHWC", "NLC"]
CHANNELS_FIRST = (_ConvNd, _BatchNorm, nn.GroupNorm, nn.MaxPool2d, nn.AvgPool2d)
"""Modules of torch whose 4-D output has its channels first, whatever the network around them does."""


def no_grids(height: int, width: int) -> list[tuple[int, int]]:  # noqa: ARG001
    """For networks without tokens."""
    return []


@dataclass(frozen=True)
class Form:
    """The form of a network's outputs, as its library states it.

    ``order`` is that of the last features. ``grids`` gives possible grids (H, W) of the tokens, from the height and
    width of the images in pixels.
    """

    order: Order = "NCHW"
    num_prefix_tokens: int = 0
    grids: Callable[[int, int], list[tuple[int, int]]] = no_grids

    @property
    def loses_nothing(self) -> bool:
        """Whether the features can be computed back from the maps."""
        return self.order != "NLC" or self.num_prefix_tokens == 0

    def to_maps(self, output: Any, image_shape: torch.Size, module: nn.Module | None = None) -> torch.Tensor:
        """An output as maps [B, D, H, W]; an inner ``module`` may differ from the last features in its order."""
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

        The last features have the order that the library states. An inner module may have the other one: a convolution
        has its channels first, and otherwise height and width must be equal, as those of the image are. In networks of
        tokens only convolutions give maps (other 4-D outputs are [B, heads, N, N], say).
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


class _Reached(Exception):  # noqa: N818  (no error: it ends a pass that is no longer needed)
    pass


class LayerBackbone(Backbone):
    """A network whose maps are the output of one of its modules, named as in ``net.named_modules()``.

    Of a module that runs several times in a pass (a shared activation) the last output counts.
    """

    classifies_maps = False  # there are layers between the maps and the logits

    def __init__(self, net: nn.Module, layer: str, form: Form, image_size: int | None) -> None:
        super().__init__()
        names = [name for name, _ in net.named_modules() if name]
        if layer not in names:
            raise UnknownNameError(f"this backbone has no layer {layer!r}; {_nearest_layers(layer, names)}")
        self.net, self.layer, self.form, self.image_size = net, layer, form, image_size
        self._num_calls: int | None = None

    def features(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """See ``Backbone``; modules after the layer are not run."""
        outputs: list[Any] = []

        def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
            outputs.append(output)
            if len(outputs) == self._num_calls:
                raise _Reached

        if self._num_calls is None:
            return self.maps_and_logits(images_BCHW)[0]
        with contextlib.suppress(_Reached):
            self._run(images_BCHW, keep)
        return self._maps(outputs[-1], images_BCHW)

    def maps_and_logits(self, images_BCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See ``Backbone``."""
        outputs: list[Any] = []

        def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
            # A copy: the network may go on in place, as an activation after a batch norm does.
            outputs.append(output.clone() if isinstance(output, torch.Tensor) else output)

        logits_BC = self._run(images_BCHW, keep)
        if not outputs:
            raise ConfigError(
                f"the layer {self.layer!r} never runs as a module of its own; name one inside or around it"
            )
        self._num_calls = len(outputs)
        return self._maps(outputs[-1], images_BCHW), logits_BC

    def logits_through(self, images_BCHW: torch.Tensor, change: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """See ``Backbone``; prefix tokens go on unchanged."""
        if self._num_calls is None:
            self.maps_and_logits(images_BCHW)
        num_calls = 0

        def replace(_module: nn.Module, _inputs: Any, output: Any) -> torch.Tensor | None:
            nonlocal num_calls
            num_calls += 1
            if num_calls != self._num_calls:
                return None
            changed_BDHW = change(self._maps(output, images_BCHW))
            # The positions of the output's values, taken through the same steps, say where each value belongs.
            positions = self._maps(torch.arange(output.numel(), device=output.device).view(output.shape), images_BCHW)
            flat: torch.Tensor = output.flatten().scatter(0, positions.flatten(), changed_BDHW.flatten())
            return flat.view(output.shape)

        return self._run(images_BCHW, replace)

    def drop_head(self) -> None:
        """See ``Backbone``; removes modules that have no parameter which the maps depend on."""
        if self.image_size is None:
            raise ConfigError(
                f"the head behind the layer {self.layer!r} can be dropped only where the image size is known"
            )
        trained = [parameter for parameter in self.net.parameters() if parameter.requires_grad]
        device, was_training = trained[0].device, self.training
        with torch.enable_grad():
            maps_BDHW = self.eval().features(torch.zeros(1, 3, self.image_size, self.image_size, device=device))
            gradients = torch.autograd.grad(maps_BDHW.sum(), trained, allow_unused=True)
        used = {id(parameter) for parameter, gradient in zip(trained, gradients, strict=True) if gradient is not None}
        removed: list[str] = []
        for name, module in list(self.net.named_modules()):
            own = [parameter for parameter in module.parameters() if parameter.requires_grad]
            inside = any(name.startswith(f"{outer}.") for outer in removed)
            if name and own and not inside and not any(id(parameter) in used for parameter in own):
                parent, _, last = name.rpartition(".")
                setattr(self.net.get_submodule(parent), last, nn.Identity())
                removed.append(name)
        self.train(was_training)

    def _run(
        self, images_BCHW: torch.Tensor, hook: Callable[[nn.Module, Any, Any], torch.Tensor | None]
    ) -> torch.Tensor:
        handle = self.net.get_submodule(self.layer).register_forward_hook(hook)
        try:
            logits_BC: torch.Tensor = self.net(images_BCHW)
        finally:
            handle.remove()
        return logits_BC

    def _maps(self, output: Any, images_BCHW: torch.Tensor) -> torch.Tensor:
        try:
            return self.form.to_maps(output, images_BCHW.shape, self.net.get_submodule(self.layer))
        except ConfigError as error:
            raise ConfigError(f"layer {self.layer!r}: {error}") from None


def _nearest_layers(layer: str, names: list[str]) -> str:
    """The nearest names; where none is near, the outermost ones instead of all, which may be thousands."""
    close = nearest(layer, names)
    if close.startswith("did you mean"):
        return close
    return nearest(layer, [name for name in names if "." not in name])
