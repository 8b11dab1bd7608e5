"""Options of a backbone."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fmcs_bench.core.options import Options


class BackboneOptions(Options):
    """How a backbone differs from what its name alone says.

    Example:
        >>> BackboneOptions.make(output_stride=12)
        Traceback (most recent call last):
        fmcs_bench.core.errors.ConfigError: output_stride = 12: Input should be 8, 16 or 32
    """

    layer: str | None = Field(
        None,
        min_length=1,
        description="Module whose output is the maps, such as layer3.",
        json_schema_extra={"metavar": "NAME", "default": "the last maps"},
    )
    output_stride: Literal[8, 16, 32] | None = Field(
        None, description="Image side / map side.", json_schema_extra={"default": "the network's"}
    )
    pretrained: bool = Field(False, description="Start from published weights; only the classifier is random.")


class NamesBackbone(Options):
    """Options that name a backbone. The JSON form leaves ``backbone_options`` out where nothing was chosen.

    So what was written before there were any is read, and has the digest, as before.
    """

    backbone: str = Field(
        description="Short name, timm/NAME or torchvision/NAME; see `fmcs-bench list backbones --size N`."
    )
    backbone_options: BackboneOptions = BackboneOptions()

    added_later = frozenset({"backbone_options"})
