"""Any timm network as a backbone, in one pass: ``forward_features``, then ``forward_head``.

Where timm's features are tokens or a list, ``forward_intermediates`` is timm's own way from them to maps.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from fmcs_bench.backbones import pretrained as published
from fmcs_bench.backbones.base import Backbone, Library, NetworkRequest
from fmcs_bench.backbones.layers import Form, LayerBackbone, Order
from fmcs_bench.core.errors import ConfigError, UnknownNameError, nearest

_FORMS: dict[tuple[str, int], tuple[Order, bool]] = {}
"""What one pass has shown of the features of an architecture, by its name and image size; see ``_look``."""


class TimmBackbone(Backbone):
    """A timm network, cut between ``forward_features`` and ``forward_head``."""

    def __init__(self, net: Any, form: Form, *, ends_with_norm: bool) -> None:
        super().__init__()
        self.net, self.form = net, form
        self.classifies_maps = form.order != "NLC"
        self._conversion = {"indices": 1, "norm": ends_with_norm, "output_fmt": "NCHW"}

    def features(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """See ``Backbone``."""
        if self.classifies_maps:
            return self.form.to_maps(self.net.forward_features(images_BCHW), images_BCHW.shape)
        (maps_BDHW,) = self.net.forward_intermediates(images_BCHW, intermediates_only=True, **self._conversion)
        return Form().to_maps(maps_BDHW, images_BCHW.shape)

    def classify(self, maps_BDHW: torch.Tensor) -> torch.Tensor:
        """See ``Backbone``."""
        if not self.classifies_maps:
            return super().classify(maps_BDHW)
        logits: torch.Tensor = self.net.forward_head(self.form.from_maps(maps_BDHW))
        return logits

    def maps_and_logits(self, images_BCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See ``Backbone``."""
        if self.classifies_maps:
            return super().maps_and_logits(images_BCHW)
        features, (maps_BDHW,) = self.net.forward_intermediates(images_BCHW, **self._conversion)
        return Form().to_maps(maps_BDHW, images_BCHW.shape), self.net.forward_head(features)

    def drop_head(self) -> None:
        """See ``Backbone``."""
        self.net.reset_classifier(0)


@dataclass(frozen=True)
class Timm(Library):
    """The timm network of this name, such as ``resnet50`` or ``resnet50.a1_in1k``."""

    name: str

    def make(self, request: NetworkRequest) -> Backbone:
        """See ``Library``."""
        before = torch.get_rng_state()
        net = self._network(request, pretrained=False)
        if request.pretrained:
            # From the same random state: what the published weights leave out is then seen to be equal.
            torch.set_rng_state(before)
            random, net = net, self._published(request)
            classifier = net.pretrained_cfg.get("classifier") or ()
            layers = [classifier] if isinstance(classifier, str) else classifier
            head = {f"{layer}.{part}" for layer in layers for part in ("weight", "bias")}
            published.keep_random(net, random.state_dict(), head, f"timm/{self.name}")
        order, ends_with_norm = _look(self.name, net, request.image_size)
        form = Form(order, getattr(net, "num_prefix_tokens", 0), partial(_grids, net))
        if request.layer is not None:
            return LayerBackbone(net, request.layer, form, request.image_size)
        return TimmBackbone(net, form, ends_with_norm=ends_with_norm)

    def _network(self, request: NetworkRequest, *, pretrained: bool) -> Any:
        import timm

        options: dict[str, Any] = {}
        # timm's word for networks that are made for one size of images.
        if request.image_size is not None and getattr(timm.get_pretrained_cfg(self.name), "fixed_input_size", False):
            options["img_size"] = request.image_size
        if request.output_stride is not None:
            options["output_stride"] = request.output_stride
        try:
            return timm.create_model(self.name, pretrained=pretrained, num_classes=request.num_classes, **options)
        except (TypeError, ValueError, AssertionError, NotImplementedError, RuntimeError) as error:
            if pretrained:
                raise
            reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            if request.output_stride is not None and "img_size" not in str(error):
                raise ConfigError(f"timm/{self.name} has no output stride {request.output_stride} ({reason})") from None
            raise ConfigError(f"timm/{self.name} cannot take images of {request.image_size} px ({reason})") from None

    def _published(self, request: NetworkRequest) -> Any:
        import timm
        from huggingface_hub import constants

        cfg = timm.get_pretrained_cfg(self.name)
        if cfg is None or not cfg.has_weights:
            raise ConfigError(
                f"timm publishes no weights of {self.name!r}; leave out --pretrained, or choose a network that has "
                f"some: {nearest(self.name, timm.list_models(pretrained=True)[:20])}"
            )
        source, unreachable = str(cfg.file or cfg.url), None
        offline = constants.HF_HUB_OFFLINE
        if cfg.hf_hub_id:
            source = f"huggingface.co/{cfg.hf_hub_id}"
            unreachable = None if offline else published.why_unreachable(constants.ENDPOINT)
        folder = f"the folder of HF_HOME (now {constants.HF_HUB_CACHE})"
        try:
            # Without a connection the hub's client retries for a minute before it looks into its cache.
            constants.HF_HUB_OFFLINE = offline or unreachable is not None
            with published.fetching(f"timm/{self.name}", source, folder, unreachable):
                return self._network(request, pretrained=True)
        finally:
            constants.HF_HUB_OFFLINE = offline


def find(name: str) -> Timm:
    """The maker of a timm network."""
    import timm

    if not timm.is_model(name):
        raise UnknownNameError(f"timm has no network {name!r}; {nearest(name, timm.list_models())}")
    architecture, _, tag = name.partition(".")
    tagged = timm.list_pretrained(f"{architecture}.*")
    if tag and name not in tagged:
        raise UnknownNameError(f"timm has no weights {tag!r} of {architecture!r}; {nearest(name, tagged)}")
    return Timm(name)


def _look(name: str, net: Any, image_size: int | None) -> tuple[Order, bool]:
    """The order of the last features, and whether timm's way from tokens to maps ends with the network's last norm.

    4-D features have the order that timm states; all others become maps by ``forward_intermediates``. Which they are is
    nowhere stated, so one image is passed through, once for each name and size in a process.
    """
    size = image_size or net.pretrained_cfg["input_size"][-1]
    if (name, size) not in _FORMS:
        image, was_training = torch.zeros(1, 3, size, size), net.training
        try:
            with torch.no_grad():
                features = net.eval().forward_features(image)
                if isinstance(features, torch.Tensor) and features.ndim == 4:
                    last = str(getattr(net, "output_fmt", "NCHW")).endswith("NHWC")
                    _FORMS[name, size] = ("NHWC" if last else "NCHW", False)
                else:
                    _FORMS[name, size] = ("NLC", _ends_with_norm(name, net, image))
        except (RuntimeError, AssertionError, ValueError) as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f"timm/{name} cannot take images of {size} px: {error}") from None
        finally:
            net.train(was_training)
    return _FORMS[name, size]


def _ends_with_norm(name: str, net: Any, image: torch.Tensor) -> bool:
    if not hasattr(net, "forward_intermediates"):
        raise ConfigError(
            f"the features of timm/{name} are no maps, and this version of timm does not say how they become spatial "
            "maps [B, D, H, W] (forward_intermediates)"
        )
    try:
        net.forward_intermediates(image, indices=1, norm=True, intermediates_only=True)
    except AssertionError:  # Hiera: its last norm is part of the classifier
        return False
    return True


def _grids(net: Any, height: int, width: int) -> list[tuple[int, int]]:
    """The grid of a network's patches, where it has one."""
    embed: Any = getattr(net, "patch_embed", None)
    if hasattr(embed, "dynamic_feat_size"):
        return [tuple(embed.dynamic_feat_size((height, width)))]
    return [tuple(embed.grid_size)] if getattr(embed, "grid_size", None) else []
