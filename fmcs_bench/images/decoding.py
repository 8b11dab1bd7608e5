"""One encoded image (JPEG, PNG, ...) -> its header, or its pixels as uint8; and what of it is damaged.

Flow: bytes or a path -> Pillow -> the camera's orientation applied, grey or RGB, resized -> uint8 [C, H, W].
Damage is a value (``Broken``), not an exception, as whoever reads many images decides what becomes of it.

C channels of images, H height, W width.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from fmcs_bench.core.errors import MissingDataError

Blob = bytes | Path
"""An encoded image: its content, or where it lies."""
Value = TypeVar("Value")

_ORIENTATION = 0x0112
_SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
_GREY = ("1", "L", "LA", "La", *_SIXTEEN_BITS)
# What Pillow raises for content that is no image or a damaged one.
_DAMAGE = (
    OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError, struct.error,
    Image.DecompressionBombError,
)  # fmt: skip


class Header(NamedTuple):
    """What an image's header says."""

    height: int
    width: int
    is_grey: bool


class Broken(NamedTuple):
    """An image that cannot be decoded, and why."""

    reason: str


def attempt(work: Callable[[Blob], Value], blob: Blob) -> Value | Broken:
    """What ``work`` makes of an image, or what is wrong with the image.

    Raises:
        MissingDataError: its file cannot be opened.
    """
    try:
        return work(blob)
    except UnidentifiedImageError:
        return Broken("no known image format")
    except _DAMAGE as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk's error, not the content's
            raise MissingDataError(f"{blob!s:.200} cannot be opened ({os.strerror(error.errno)})") from error
        return Broken(" ".join(str(error).split()) or type(error).__name__)


def read_header(blob: Blob) -> Header:
    """Size, after the camera's orientation, and whether the image is grey."""
    with opened(blob) as image:
        width, height = image.size
        if image.getexif().get(_ORIENTATION, 1) >= 5:  # turned by a quarter
            width, height = height, width
        return Header(height, width, image.mode in _GREY)


def decode(blob: Blob, is_grey: bool, side: int | None) -> np.ndarray:
    """Pixels, uint8 [C, H, W].

    Args:
        blob: content or path.
        is_grey: give one channel; otherwise three.
        side: of the square to bring the image to, in pixels; None leaves its size.
    """
    with opened(blob) as encoded:
        image = ImageOps.exif_transpose(encoded)
        if image.mode in _SIXTEEN_BITS:  # Pillow would cut values above 255 off
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        elif image.mode in ("I", "F"):
            raise ValueError(f"32-bit pixels (mode {image.mode}) have no agreed range")
        if image.mode == "P":  # some palettes have transparency, which only RGBA takes over
            image = image.convert("RGBA")
        image = image.convert("L" if is_grey else "RGB")
        if side is not None and image.size != (side, side):
            image = image.resize((side, side), Image.Resampling.BILINEAR)
        pixels = np.asarray(image)
    return pixels[None] if is_grey else pixels.transpose(2, 0, 1)


def opened(blob: Blob) -> Image.Image:
    """The image with its header read; its pixels are read when they are asked for."""
    return Image.open(io.BytesIO(blob) if isinstance(blob, bytes) else blob)
