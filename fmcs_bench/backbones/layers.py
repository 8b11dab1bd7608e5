"""The maps of any layer of a network.

Flow: images -> the whole network, with a hook on the layer -> the layer's output as maps, and the network's logits.
Tensor names as in ``base``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from fmcs_bench.backbones.base import Backbone
from fmcs_bench.backbones.layout import Form
from fmcs_bench.core.errors import ConfigError, UnknownNameError, nearest


class _Reached(Exception):  # noqa: N818  (no error: it ends a pass that has given what it was for)
    pass


class LayerBackbone(Backbone):
    """A network whose maps are the output of one of its modules.

    A module that runs several times in a pass (a shared activation) gives the output of its last time.

    Args:
        net: images -> logits.
        layer: name of the module, as in ``net.named_modules()``.
        form: what is known about the network's outputs.
        image_size: side of the images, in pixels; ``drop_head`` needs it.

    Raises:
        UnknownNameError: no module has this name; the message has the nearest.
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
        """See ``Backbone``; what comes after the layer is not run."""
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
        """See ``Backbone``; of tokens, those that stand for no place go on unchanged."""
        if self._num_calls is None:
            self.maps_and_logits(images_BCHW)
        num_calls = 0

        def replace(_module: nn.Module, _inputs: Any, output: Any) -> torch.Tensor | None:
            nonlocal num_calls
            num_calls += 1
            if num_calls != self._num_calls:
                return None
            changed_BDHW = change(self._maps(output, images_BCHW))
            # The same way from output to maps, gone by the numbers of the places, says where each value belongs.
            places = self._maps(torch.arange(output.numel(), device=output.device).view(output.shape), images_BCHW)
            flat: torch.Tensor = output.flatten().scatter(0, places.flatten(), changed_BDHW.flatten())
            return flat.view(output.shape)

        return self._run(images_BCHW, replace)

    def drop_head(self) -> None:
        """See ``Backbone``; modules without a parameter that the maps depend on are removed.

        Raises:
            ConfigError: the size of the images is not known, so what the maps depend on cannot be found.
        """
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
