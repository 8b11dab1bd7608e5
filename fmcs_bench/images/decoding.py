"""Encoded images (JPEG, PNG, ...) -> one uint8 array.

Every image is opened twice: first its header, which tells size and colour, so that the array's size is known, and
refused where it does not fit, before any memory is taken; then its pixels.

N images, C channels of images, H height, W width.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from fmcs_bench.errors import ConfigError, ImageError, MissingDataError
from fmcs_bench.images.listing import Pixels, Request
from fmcs_bench.images.memory import require_memory

Blob = bytes | Path
Value = TypeVar("Value")

_CHUNK, _TASK = 512, 32
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


class _Broken(NamedTuple):
    reason: str


def read_encoded(
    positions_N: np.ndarray,
    *,
    blobs: Callable[[list[int]], Sequence[Blob]],
    describe: Callable[[int], str],
    request: Request,
) -> Pixels:
    """Decode images.

    They become grey where all of them are grey, and RGB otherwise; transparency is dropped, as torchvision's
    ``ImageFolder`` does, and a camera's orientation is applied. Where all have one size, no larger than the request's
    ``image_size``, they stay as they are; otherwise all are brought to a square of ``image_size`` (bilinear, with
    antialiasing), so that memory holds one array.

    Args:
        positions_N: which images of the source.
        blobs: content, or path, of the images at some positions.
        describe: name of the image at a position, for messages.
        request: says ``image_size`` and whether broken images are skipped.

    Raises:
        ImageError: an image cannot be decoded, and broken images are not to be skipped.
        ConfigError: the sizes differ and no ``image_size`` was given, or the images do not fit into memory.
        MissingDataError: a file cannot be opened.
    """
    positions = [int(position) for position in positions_N]
    is_read_N = np.ones(len(positions), dtype=bool)

    def note(row: int, broken: _Broken) -> None:
        if not request.skip_broken:
            raise ImageError(
                f"{describe(positions[row])} cannot be read as an image ({broken.reason}); repair or remove it, or "
                "leave out such images with --skip-broken"
            )
        is_read_N[row] = False

    headers: dict[int, Header] = {}
    for row, header in _each(positions, range(len(positions)), blobs, read_header):
        if isinstance(header, _Broken):
            note(row, header)
        else:
            headers[row] = header
    if not headers:
        raise ImageError(f"not one of the {len(positions):,} images of {request.name} can be read")
    side = _side(headers, request)
    is_grey = all(header.is_grey for header in headers.values())
    height, width = (side, side) if side else next(iter(headers.values()))[:2]
    shape = (len(headers), 1 if is_grey else 3, height, width)
    require_memory(shape, request.name)
    images_MCHW = np.empty(shape, dtype=np.uint8)
    place = 0
    for row, image_CHW in _each(positions, list(headers), blobs, lambda blob: decode(blob, is_grey, side)):
        if isinstance(image_CHW, _Broken):
            note(row, image_CHW)
        else:
            images_MCHW[place] = image_CHW
            place += 1
    return Pixels(images_MCHW[:place], is_read_N)


def _each(
    positions: Sequence[int],
    rows: Sequence[int],
    blobs: Callable[[list[int]], Sequence[Blob]],
    work: Callable[[Blob], Value],
) -> Iterator[tuple[int, Value | _Broken]]:
    """Row and result of every image, in order; threads work ahead by at most a chunk."""

    def attempt(blob: Blob) -> Value | _Broken:
        try:
            return work(blob)
        except UnidentifiedImageError:
            return _Broken("no known image format")
        except _DAMAGE as error:
            if isinstance(error, OSError) and error.errno is not None:  # the disk's error, not the content's
                raise MissingDataError(f"{blob!s:.200} cannot be opened ({os.strerror(error.errno)})") from error
            return _Broken(" ".join(str(error).split()) or type(error).__name__)

    pool = ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1))
    try:
        for start in range(0, len(rows), _CHUNK):
            chunk = rows[start : start + _CHUNK]
            found = blobs([positions[row] for row in chunk])
            # Small images are decoded faster than a thread takes its next task: several make one task.
            tasks = [found[i : i + _TASK] for i in range(0, len(found), _TASK)]
            results = pool.map(lambda task: [attempt(blob) for blob in task], tasks)
            yield from zip(chunk, chain.from_iterable(results), strict=True)
    finally:
        pool.shutdown(cancel_futures=True)


def _side(headers: dict[int, Header], request: Request) -> int | None:
    """Side of the square that all images are brought to; None where they stay as they are."""
    sizes = {(header.height, header.width) for header in headers.values()}
    if request.image_size is None:
        if len(sizes) > 1:
            raise ConfigError(
                f"the images of {request.name} have {len(sizes)} different sizes; say with image_size to which side "
                "they are brought"
            )
        return None
    one_size = len(sizes) == 1 and max(next(iter(sizes))) <= request.image_size
    return None if one_size else request.image_size


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
