"""Images that stay encoded and are decoded when they are asked for, or once, into one array.

Flow: positions in a source -> every header, which tells size and colour -> ``EncodedImages``, indexed like the uint8
array that they would be -> that array where it fits into memory or was asked for, else as they are.

Both ways give the same pixels, as both decode by ``EncodedImages``. N images, B block of images, C channels, H height,
W width.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from fmcs_bench.core.errors import ConfigError, ImageError
from fmcs_bench.images.base import Pixels, Request, StoredSize
from fmcs_bench.images.decoding import Blob, Broken, Header, Value, attempt, decode, read_header
from fmcs_bench.images.memory import fits_memory, free_bytes, require_memory

BLOCK_BYTES = 16 * 2**20
"""Decoded images that are handled together; reading a whole set takes three such blocks, however large the set."""
_BLOCK, _TASK = 512, 32


class Source(Protocol):
    """Where encoded images come from; it can be pickled, so that worker processes read from it."""

    def blobs(self, positions: list[int]) -> Sequence[Blob]:
        """Content, or path, of the images at some positions."""
        ...

    def describe(self, position: int) -> str:
        """Name of the image at a position, for messages."""
        ...


class Files:
    """A source of image files.

    The paths are kept as bytes, one after another: a million of them take some ten megabytes, which worker processes
    share with their parent.

    Args:
        paths: of the images, in order.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        names = [os.fsencode(path.absolute()) for path in paths]
        self._names = b"".join(names)
        self._ends_N = np.cumsum([0, *map(len, names)])

    def path(self, position: int) -> Path:
        """Of the image at a position."""
        return Path(os.fsdecode(self._names[self._ends_N[position] : self._ends_N[position + 1]]))

    def blobs(self, positions: list[int]) -> list[Blob]:
        """See ``Source``."""
        return [self.path(position) for position in positions]

    def describe(self, position: int) -> str:
        """See ``Source``."""
        return str(self.path(position))


@dataclass(frozen=True, eq=False, repr=False)
class EncodedImages:
    """uint8 images [N, C, H, W] that are decoded when they are indexed, by an array of positions or a slice.

    Attributes:
        name: of the dataset.
        source: where the images come from.
        positions_N: int64, position of each image in the source.
        size: height and width of every image, once decoded.
        is_grey: one channel, or three.
        side: of the square that images are brought to; None where they stay as they are.
        num_workers: processes that read ahead; None is the rule of ``images.reading``.
    """

    name: str
    source: Source
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
        """Decode some images, in this thread.

        Raises:
            ImageError: one is damaged, or has another size than it had; it is named.
            MissingDataError: a file cannot be opened.
        """
        positions = self.positions_N[index].tolist()
        images_BCHW = np.empty((len(positions), *self.shape[1:]), dtype=np.uint8)
        for image_CHW, position, blob in zip(images_BCHW, positions, self.source.blobs(positions), strict=True):
            found = attempt(self._decode, blob)
            if isinstance(found, Broken):
                raise self._error(position, found)
            image_CHW[...] = found
        return images_BCHW

    def take(self, rows_M: np.ndarray) -> EncodedImages:
        """These images only, still encoded."""
        return replace(self, positions_N=self.positions_N[rows_M])

    def blocks(self, *, skip_broken: bool) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """All images in order, decoded by several threads, a block at a time: their rows and pixels [B, C, H, W].

        Args:
            skip_broken: leave out images that cannot be decoded.

        Raises:
            ImageError: one cannot be decoded, and broken images are not to be skipped.
            MissingDataError: a file cannot be opened.
        """
        size = max(1, min(_BLOCK, BLOCK_BYTES // math.prod(self.shape[1:])))
        for start, found in _each(self.source, self.positions_N, size, self._decode):
            rows: list[int] = []
            images_BCHW = np.empty((len(found), *self.shape[1:]), dtype=np.uint8)
            for row, image_CHW in enumerate(found, start):
                if not isinstance(image_CHW, Broken):
                    images_BCHW[len(rows)] = image_CHW
                    rows.append(row)
                elif not skip_broken:
                    raise self._error(int(self.positions_N[row]), image_CHW)
            del found  # they are copied; the caller may take long
            yield np.array(rows, dtype=np.int64), images_BCHW[: len(rows)]

    def _decode(self, blob: Blob) -> np.ndarray:
        image_CHW = decode(blob, self.is_grey, self.side)
        if image_CHW.shape != self.shape[1:]:
            height, width = image_CHW.shape[1:]
            raise ValueError(f"it has {height} x {width} pixels now, and had {self.size[0]} x {self.size[1]}")
        return image_CHW

    def _error(self, position: int, broken: Broken) -> ImageError:
        return broken_image(self.source.describe(position), broken)


ImageArray = np.ndarray | EncodedImages
"""uint8 images [N, C, H, W], in memory or encoded."""


def broken_image(where: str, broken: Broken) -> ImageError:
    """The error for an image that cannot be decoded."""
    return ImageError(
        f"{where} cannot be read as an image ({broken.reason}); repair or remove it, or leave out such images with "
        "--skip-broken"
    )


def read_encoded(positions_N: np.ndarray, *, source: Source, request: Request) -> Pixels:
    """Read images of a source: into one array, or, where that does not fit or was asked for, as they are.

    They become grey where all of them are grey, and RGB otherwise; transparency is dropped, as torchvision's
    ``ImageFolder`` does, and a camera's orientation is applied. Where all have one size, no larger than the request's
    ``image_size``, they stay as they are; otherwise all are brought to a square of ``image_size`` (bilinear, with
    antialiasing).

    Args:
        positions_N: which images of the source.
        source: where they come from.
        request: says ``image_size``, whether broken images are skipped and whether images stay encoded.

    Returns:
        The images whose header can be read, and of an array those whose pixels can be read as well.

    Raises:
        ImageError: an image cannot be decoded, and broken images are not to be skipped.
        ConfigError: the sizes differ and no ``image_size`` was given, or the images do not fit into memory.
        MissingDataError: a file cannot be opened.
    """
    name, num = request.name, len(positions_N)
    is_read_N = np.ones(num, dtype=bool)
    sizes, is_grey = set(), True
    with request.progress.task(f"{name}: headers of {num:,} images", num) as task:
        for start, headers in _each(source, positions_N, _BLOCK, read_header):
            for row, header in enumerate(headers, start):
                if isinstance(header, Header):
                    sizes.add((header.height, header.width))
                    is_grey &= header.is_grey
                elif request.skip_broken:
                    is_read_N[row] = False
                else:
                    raise broken_image(source.describe(int(positions_N[row])), header)
            task.advance(len(headers))
    if not sizes:
        raise ImageError(f"not one of the {num:,} images of {name} can be read")
    side = _side(sizes, request)
    stored_size: StoredSize = next(iter(sizes)) if len(sizes) == 1 else "various"
    encoded = EncodedImages(
        name, source, positions_N[is_read_N], (side, side) if side else next(iter(sizes)), is_grey, side,
        request.num_workers,
    )  # fmt: skip
    if _stays_encoded(encoded, request):
        return Pixels(encoded, is_read_N, stored_size)
    images_MCHW, place = np.empty(encoded.shape, dtype=np.uint8), 0
    is_decoded_M = np.zeros(len(encoded), dtype=bool)
    with request.progress.task(f"{name}: decoding {len(encoded):,} images", len(encoded)) as task:
        for rows_B, images_BCHW in encoded.blocks(skip_broken=request.skip_broken):
            images_MCHW[place : place + len(rows_B)] = images_BCHW
            is_decoded_M[rows_B] = True
            place += len(rows_B)
            task.advance(len(rows_B))
    is_read_N[is_read_N] = is_decoded_M
    return Pixels(images_MCHW[:place], is_read_N, stored_size)


def _stays_encoded(encoded: EncodedImages, request: Request) -> bool:
    if request.stream is None and not fits_memory(encoded.shape):
        request.progress.say(
            f"{len(encoded):,} images of {request.name} would take {math.prod(encoded.shape):,} bytes of memory, more "
            f"than half of the {free_bytes():,} that are free: they stay encoded, and are decoded when they are needed"
        )
        return True
    if not request.stream:
        require_memory(encoded.shape, request.name)
    return bool(request.stream)


def _side(sizes: set[tuple[int, int]], request: Request) -> int | None:
    """Side of the square that all images are brought to; None where they stay as they are."""
    if request.image_size is None:
        if len(sizes) > 1:
            raise ConfigError(
                f"the images of {request.name} have {len(sizes)} different sizes; say with image_size to which side "
                "they are brought"
            )
        return None
    one_size = len(sizes) == 1 and max(next(iter(sizes))) <= request.image_size
    return None if one_size else request.image_size


def _each(
    source: Source, positions_N: np.ndarray, size: int, work: Callable[[Blob], Value]
) -> Iterator[tuple[int, list[Value | Broken]]]:
    """First row and results of every ``size`` images, in order; threads work on the next ones meanwhile."""
    num_threads = min(8, os.cpu_count() or 1)
    # Small images are decoded faster than a thread takes its next task: several make one task.
    per_task = max(1, min(_TASK, size // num_threads))
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
