"""The contract of an image source: list what there is, then read the images that were chosen."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from fmcs_bench.core.errors import ConfigError, ImageError
from fmcs_bench.core.progress import SILENT, Progress
from fmcs_bench.core.registry import Registry
from fmcs_bench.images.encoded import BlobSource, EncodedImages, Header, ImageArray, each_block, read_header

StoredSize = tuple[int, int] | Literal["various"]
"""Height and width of the images of a source, in pixels, where all have the same."""
UNKNOWN = "unknown"
"""Licence or citation that the source does not state."""
HEADERS_AT_ONCE = 512


@dataclass(frozen=True, kw_only=True)
class ImageRequest:
    """Which image dataset, by its plain name, and how it is read: the arguments of ``images.load.load_images``."""

    name: str
    data_dir: Path | None = None
    image_size: int | None = None
    skip_broken: bool = False
    download: bool = False
    stream: bool | None = None
    num_workers: int | None = None
    progress: Progress = SILENT


@dataclass(frozen=True)
class Pixels:
    """Images that were read, or that are ready to be decoded.

    Attributes:
        images_MCHW: uint8, of the images that could be read.
        is_read_N: boolean, for every requested image: it could be read, as far as was tried.
        stored_size: height and width in the source; None where they are those of ``images_MCHW``.
    """

    images_MCHW: ImageArray
    is_read_N: np.ndarray
    stored_size: StoredSize | None = None


@dataclass(frozen=True, kw_only=True)
class Listing:
    """All images of a source, before any of them is decoded.

    Attributes:
        labels_N: int64, 0 .. number of classes - 1.
        ids_N: int64, unique and the same on every machine.
        is_test_N: boolean, the source's own test images; None where it has none.
        classes: name of each class.
        licence: of the images, as their owners state it.
        citation: where the images come from.
        read: pixels of the images at some positions.
    """

    labels_N: np.ndarray
    ids_N: np.ndarray
    is_test_N: np.ndarray | None
    classes: tuple[str, ...]
    licence: str
    citation: str
    read: Callable[[np.ndarray], Pixels]


Lister = Callable[[ImageRequest], Listing]
"""Lists one image dataset. Raises MissingDataError where its files are missing, ImageError where they are unusable."""
IMAGE_DATASETS: Registry[Lister] = Registry("image dataset", group="fmcs_bench.images")


def from_memory(images_NCHW: np.ndarray) -> Callable[[np.ndarray], Pixels]:
    """The ``read`` of a source whose images are in memory already."""

    def read(positions_M: np.ndarray) -> Pixels:
        everything = len(positions_M) == len(images_NCHW)
        return Pixels(images_NCHW if everything else images_NCHW[positions_M], np.ones(len(positions_M), dtype=bool))

    return read


def read_encoded(positions_N: np.ndarray, *, source: BlobSource, request: ImageRequest) -> Pixels:
    """Read images of a source into one array, or keep them encoded (``stream``, or too large for memory).

    They become grey where all of them are grey, and RGB otherwise; transparency is dropped, as torchvision's
    ``ImageFolder`` does, and a camera's orientation is applied. Where all have one size, no larger than the request's
    ``image_size``, they stay as they are; otherwise all are resized to a square of ``image_size`` (bilinear, with
    antialiasing).
    """
    name, num = request.name, len(positions_N)
    is_read_N = np.ones(num, dtype=bool)
    sizes, is_grey = set(), True
    with request.progress.task(f"{name}: headers of {num:,} images", num) as task:
        for start, headers in each_block(source, positions_N, HEADERS_AT_ONCE, read_header):
            for row, header in enumerate(headers, start):
                if isinstance(header, Header):
                    sizes.add((header.height, header.width))
                    is_grey &= header.is_grey
                elif request.skip_broken:
                    is_read_N[row] = False
                else:
                    raise header.error(source.describe(int(positions_N[row])))
            task.advance(len(headers))
    if not sizes:
        raise ImageError(f"not one of the {num:,} images of {name} can be read")
    side = _side(sizes, request)
    size = (side, side) if side else next(iter(sizes))
    stored_size: StoredSize = next(iter(sizes)) if len(sizes) == 1 else "various"
    encoded = EncodedImages(name, source, positions_N[is_read_N], size, is_grey, side, request.num_workers)
    if _stays_encoded(encoded, request):
        return Pixels(encoded, is_read_N, stored_size)
    images_MCHW, end = np.empty(encoded.shape, dtype=np.uint8), 0
    is_decoded_M = np.zeros(len(encoded), dtype=bool)
    with request.progress.task(f"{name}: decoding {len(encoded):,} images", len(encoded)) as task:
        for rows_B, images_BCHW in encoded.blocks(skip_broken=request.skip_broken):
            images_MCHW[end : end + len(rows_B)] = images_BCHW
            is_decoded_M[rows_B] = True
            end += len(rows_B)
            task.advance(len(rows_B))
    is_read_N[is_read_N] = is_decoded_M
    return Pixels(images_MCHW[:end], is_read_N, stored_size)


def _side(sizes: set[tuple[int, int]], request: ImageRequest) -> int | None:
    """Side of the square that all images are resized to; None where they stay as they are."""
    if request.image_size is None:
        if len(sizes) > 1:
            raise ConfigError(
                f"the images of {request.name} have {len(sizes)} different sizes; give the side that they are resized "
                "to: image_size"
            )
        return None
    one_size = len(sizes) == 1 and max(next(iter(sizes))) <= request.image_size
    return None if one_size else request.image_size


def _stays_encoded(encoded: EncodedImages, request: ImageRequest) -> bool:
    """Whether images are streamed. An array may take half of the free memory; the other half is for the work."""
    free, num_bytes = free_bytes(), math.prod(encoded.shape)
    if request.stream or free is None or 2 * num_bytes <= free:
        return bool(request.stream)
    needs = f"{len(encoded):,} images of {request.name} take {num_bytes:,} bytes, more than half of the {free:,} free"
    if request.stream is None:
        request.progress.say(f"{needs}: they stay encoded, and each batch is decoded when it is needed")
        return True
    raise ConfigError(
        f"{needs}; keep them encoded (--stream-images), or use fewer images in each split (--limit) or a smaller "
        "--image-size"
    )


def free_bytes() -> int | None:
    """Memory that this process can still take, in bytes, as Linux and its control groups state; None elsewhere."""
    found = []
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found.append(next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")))
    except (OSError, ValueError, StopIteration):
        if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:  # macOS states only the total
            found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for group, limit, used in (
        ("/sys/fs/cgroup", "memory.max", "memory.current"),
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        try:
            allowed, taken = (int((Path(group) / name).read_text(encoding="ascii")) for name in (limit, used))
        except (OSError, ValueError):  # no control group, or no limit ("max")
            continue
        # What is taken includes the page cache, which the kernel gives back: at least half of the limit counts as free.
        found.append(max(allowed - taken, allowed // 2))
    return min(found) if found else None
