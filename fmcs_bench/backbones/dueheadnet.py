"""DueHeadNet: two backbones, trained together, whose maps are fused; a backbone too.

After "Feature Map Constraints Enhance Learning", whose repository has two programs: its script concatenates the two
maps (fusion ``concat``). Its notebooks, which made the published figures, differ from both fusions here: they freeze a
first head that was trained before, and flatten the sum of the maps. Tensor names as in ``backbones.base``.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from fmcs_bench.backbones.base import Backbone
from fmcs_bench.backbones.create import create_backbone, map_shape
from fmcs_bench.backbones.options import BackboneOptions
from fmcs_bench.core.errors import ConfigError
from fmcs_bench.core.seeding import derive

HIDDEN = 512
DROPOUT = 0.5


class DueHeadNet(Backbone):
    """Two networks of one map shape take the same images; one classifier takes their fused maps.

    With ``add`` it is the classifier of the first network. With ``concat`` it is: average pooling, Linear(2D, 512),
    GELU, Dropout(0.5), Linear(512, number of classes).
    """

    def __init__(
        self,
        first: Backbone,
        second: Backbone,
        *,
        fusion: Literal["add", "concat"],
        num_classes: int,
        num_channels: int,
    ) -> None:
        super().__init__()
        if fusion == "add" and not first.classifies_maps:
            raise ConfigError(
                "DueHeadNet with fusion add applies the classifier of the first head to the sum of the maps, and this "
                f"{type(first).__name__} cannot compute logits from maps (it has a class token, or layers between the "
                "maps and the logits); use fusion concat"
            )
        self.first, self.second, self.fusion = first, second, fusion
        second.drop_head()
        self.head: nn.Module | None = None
        if fusion == "concat":
            first.drop_head()
            self.head = nn.Sequential(
                nn.Linear(2 * num_channels, HIDDEN), nn.GELU(), nn.Dropout(DROPOUT), nn.Linear(HIDDEN, num_classes)
            )

    def heads(self, images_BCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Maps of the first and of the second head, each [B, D, H, W]."""
        return self.first.features(images_BCHW), self.second.features(images_BCHW)

    def fuse(self, first_BDHW: torch.Tensor, second_BDHW: torch.Tensor) -> torch.Tensor:
        """The fused map: the sum [B, D, H, W] with ``add``, both maps [B, 2D, H, W] with ``concat``."""
        return first_BDHW + second_BDHW if self.fusion == "add" else torch.cat([first_BDHW, second_BDHW], dim=1)

    def features(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """See ``Backbone``: the fused map."""
        return self.fuse(*self.heads(images_BCHW))

    def classify(self, maps_BDHW: torch.Tensor) -> torch.Tensor:
        """See ``Backbone``; takes the fused map."""
        if self.head is None:
            return self.first.classify(maps_BDHW)
        logits: torch.Tensor = self.head(maps_BDHW.mean(dim=(2, 3)))
        return logits

    def drop_head(self) -> None:
        """See ``Backbone``."""
        if self.head is None:
            self.first.drop_head()
        else:
            self.head = nn.Identity()


def create(
    base: str,
    num_classes: int,
    *,
    fusion: Literal["add", "concat"],
    image_size: int,
    seed: int,
    options: BackboneOptions | None = None,
) -> DueHeadNet:
    """A DueHeadNet with random weights that depend on ``seed`` alone.

    Its first head has the weights of ``create_backbone(base, num_classes, seed=seed)``, so that the two networks of one
    seed can be compared in pairs; the second head's weights are a second draw. With ``pretrained`` the first head has
    the published weights and the second is random: two equal heads would stay equal.

    Raises:
        ConfigError: fusion ``add``, and the first head's logits do not come from maps; or see ``create_backbone``.
    """
    options = options or BackboneOptions()
    second_options = options.model_copy(update={"pretrained": False})
    second_seed = derive(seed, "second head")
    first = create_backbone(base, num_classes, seed=seed, image_size=image_size, options=options)
    second = create_backbone(base, num_classes, seed=second_seed, image_size=image_size, options=second_options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "fusion"))
        num_channels = map_shape(first, image_size)[0]
        return DueHeadNet(first, second, fusion=fusion, num_classes=num_classes, num_channels=num_channels)
