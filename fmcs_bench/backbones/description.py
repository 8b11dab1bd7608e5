"""What maps a backbone gives, found by making it and passing one image through.

Flow: name, image size -> network -> ``Description``, or why it cannot take such images.
"""

from __future__ import annotations

import math

from fmcs_bench.backbones import create as backbones
from fmcs_bench.backbones.options import BackboneOptions
from fmcs_bench.core.errors import ConfigError
from fmcs_bench.core.options import Options

NUM_CLASSES = 10


class Description(Options):
    """One backbone at one image size.

    Attributes:
        name: of the backbone.
        image_size: side of the square images, in pixels.
        map_shape: (D, H, W); None where the network cannot take these images.
        num_parameters: of the network with a classifier for 10 classes.
        map_bytes: of one map in float16, uncompressed.
        problem: why there is no map.
    """

    name: str
    image_size: int
    map_shape: tuple[int, int, int] | None = None
    num_parameters: int | None = None
    map_bytes: int | None = None
    problem: str | None = None


def describe(name: str, image_size: int, options: BackboneOptions | None = None) -> Description:
    """Make a backbone and look at its maps.

    Args:
        name: short name, ``timm/NAME`` or ``torchvision/NAME``.
        image_size: side of the square images, in pixels.
        options: of the backbone.

    Raises:
        UnknownNameError: no such backbone.

    Example:
        >>> describe("smallcnn", 32).map_shape
        (64, 4, 4)
    """
    try:
        backbone = backbones.create(name, NUM_CLASSES, seed=0, image_size=image_size, options=options)
        shape = backbones.map_shape(backbone, image_size)
    except ConfigError as error:
        return Description(name=name, image_size=image_size, problem=str(error).splitlines()[0])
    return Description(
        name=name,
        image_size=image_size,
        map_shape=shape,
        num_parameters=backbones.num_parameters(backbone),
        map_bytes=2 * math.prod(shape),
    )
