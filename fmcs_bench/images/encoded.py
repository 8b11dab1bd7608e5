"""Encoded images (JPEG, PNG, ...): headers, pixels, and images that are decoded when they are indexed.

Damage is a value (``Broken``), not an exception: the caller decides whether a broken image is skipped.

N images, B block of images, C channels, H height, W width.
"""

from __future__ import annotations

import io
import math
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from fmcs_bench.core.errors import ImageError, MissingDataError

Blob = bytes | Path
"""An encoded image: content, or path."""
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

    def error(self, image: str) -> ImageError:
        """The error for this image, by its name."""
        return ImageError(
            f"{image} cannot be read as an image ({self.reason}); repair or remove it, or leave out such images with "
            "--skip-broken"
        )


def attempt(work: Callable[[Blob], Value], blob: Blob) -> Value | Broken:
    """What ``work`` makes of an image, or what is wrong with it; MissingDataError where its file cannot be opened."""
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
    """Pixels, uint8 [C, H, W], in grey or RGB; resized to a square of ``side`` pixels unless that is None."""
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
    """The image with its header read, and its pixels not yet."""
    return Image.open(io.BytesIO(blob) if isinstance(blob, bytes) else blob)


BLOCK_BYTES = 16 * 2**20
"""Decoded images that are handled together; reading a whole set takes three such blocks, however large the set."""
_MAX_BLOCK, _MAX_TASK = 512, 32


class BlobSource(Protocol):
    """Where encoded images come from; it can be pickled, so that worker processes read from it."""

    def blobs(self, positions: list[int]) -> Sequence[Blob]:
        """Content, or path, of the images at some positions."""
        ...

    def describe(self, position: int) -> str:
        """Name of the image at a position, for messages."""
        ...


class Files:
    """A source of image files.

    Paths are joined bytes: a million of them take some ten megabytes, which worker processes share with their parent.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        names = [os.fsencode(path.absolute()) for path in paths]
        self._names = b"".join(names)
        self._ends_N = np.cumsum([0, *map(len, names)])

    def path(self, position: int) -> Path:
        """Of the image at a position."""
        return Path(os.fsdecode(self._names[self._ends_N[position] : self._ends_N[position + 1]]))

    def blobs(self, positions: list[int]) -> list[Blob]:
        """See ``BlobSource``."""
        return [self.path(position) for position in positions]

    def describe(self, position: int) -> str:
        """See ``BlobSource``."""
        return str(self.path(position))


@dataclass(frozen=True, eq=False, repr=False)
class EncodedImages:
    """uint8 images [N, C, H, W] that are decoded when they are indexed, by an array of positions or a slice.

    Image n is at ``positions_N[n]`` in the source. ``size`` is height and width once decoded; ``side`` is that of the
    square that images are resized to, and None keeps their size.
    """

    name: str
    source: BlobSource
    positions_N: np.ndarray
    size: tuple[int, int]
    is_grey: bool
    side: int | None
    num_workers: int | None = None

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """[N, C, H, W]."""
        return len(self.positions_N), 1 if self.is_grey else 3, *self.size

    @property
    def dtype(self) -> np.dtype[Any]:
        """Always uint8."""
        return np.dtype(np.uint8)

    def __len__(self) -> int:
        return len(self.positions_N)

    def __getitem__(self, index: np.ndarray | slice) -> np.ndarray:
        """Decode some images, in this thread; an error names the image."""
        positions = self.positions_N[index].tolist()
        images_BCHW = np.empty((len(positions), *self.shape[1:]), dtype=np.uint8)
        for image_CHW, position, blob in zip(images_BCHW, positions, self.source.blobs(positions), strict=True):
            found = attempt(self._decode, blob)
            if isinstance(found, Broken):
                raise found.error(self.source.describe(position))
            image_CHW[...] = found
        return images_BCHW

    def take(self, rows_M: np.ndarray) -> EncodedImages:
        """These images only, still encoded."""
        return replace(self, positions_N=self.positions_N[rows_M])

    def blocks(self, *, skip_broken: bool) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """All images in order, decoded by several threads, a block at a time: their rows and pixels [B, C, H, W]."""
        size = max(1, min(_MAX_BLOCK, BLOCK_BYTES // math.prod(self.shape[1:])))
        for start, found in each_block(self.source, self.positions_N, size, self._decode):
            rows: list[int] = []
            images_BCHW = np.empty((len(found), *self.shape[1:]), dtype=np.uint8)
            for row, image_CHW in enumerate(found, start):
                if not isinstance(image_CHW, Broken):
                    images_BCHW[len(rows)] = image_CHW
                    rows.append(row)
                elif not skip_broken:
                    raise image_CHW.error(self.source.describe(int(self.positions_N[row])))
            yield np.array(rows, dtype=np.int64), images_BCHW[: len(rows)]

    def _decode(self, blob: Blob) -> np.ndarray:
        image_CHW = decode(blob, self.is_grey, self.side)
        if image_CHW.shape != self.shape[1:]:
            height, width = image_CHW.shape[1:]
            raise ValueError(f"it has {height} x {width} pixels now, and had {self.size[0]} x {self.size[1]}")
        return image_CHW


ImageArray = np.ndarray | EncodedImages
"""uint8 images [N, C, H, W], in memory or encoded."""


def each_block(
    source: BlobSource, positions_N: np.ndarray, size: int, work: Callable[[Blob], Value]
) -> Iterator[tuple[int, list[Value | Broken]]]:
    """First row and results of every ``size`` images, in order; threads work on the next ones meanwhile."""
    num_threads = min(8, os.cpu_count() or 1)
    # Small images are decoded faster than a thread takes its next task: several make one task.
    per_task = max(1, min(_MAX_TASK, size // num_threads))
    pool = ThreadPoolExecutor(max_workers=num_threads)
    try:
        ahead: Iterator[list[Value | Broken]] | None = None
        for start in range(0, len(positions_N), size):
            found = source.blobs(positions_N[start : start + size].tolist())
            tasks = [found[i : i + per_task] for i in range(0, len(found), per_task)]
            begun = pool.map(partial(_attempts, work), tasks)
            if ahead is not None:
                yield start - size, list(chain.from_iterable(ahead))
            ahead = begun
        if ahead is not None:
            yield (len(positions_N) - 1) // size * size, list(chain.from_iterable(ahead))
    finally:
        pool.shutdown(cancel_futures=True)


def _attempts(work: Callable[[Blob], Value], blobs: Sequence[Blob]) -> list[Value | Broken]:
    return [attempt(work, blob) for blob in blobs]
