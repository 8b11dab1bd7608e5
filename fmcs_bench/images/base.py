"""The contract of an image source: list what there is, then read what was chosen.

Flow: ``Request`` -> ``Loader`` -> ``Listing`` (labels and ids of all images, nothing decoded) -> ``read`` of the images
that a limit leaves -> ``ImageDataset``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from fmcs_bench.core.progress import SILENT, Progress
from fmcs_bench.core.registry import Registry

if TYPE_CHECKING:
    from fmcs_bench.images.encoded import ImageArray

StoredSize = tuple[int, int] | Literal["various"]
"""Height and width of the images of a source, in pixels, where all have the same."""
UNKNOWN = "unknown"
"""Licence or citation that the source does not state."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """How an image dataset is wanted.

    Attributes:
        name: of the dataset, a plain file name.
        data_dir: folder with the files of named datasets; None where the user named none.
        image_size: side of the square that images of different sizes are brought to, in pixels; None refuses them.
        skip_broken: leave out images that cannot be decoded, and count them.
        download: fetch missing files into ``data_dir``, where the source knows from where.
        stream: keep encoded images encoded; None does so where they would take more than half of the free memory.
        num_workers: processes that read streamed images ahead; None is the rule of ``images.reading``.
        progress: shows the reading.
    """

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
        is_read_N: boolean, for every image asked for: it could be read, as far as was tried.
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


def from_memory(images_NCHW: np.ndarray) -> Callable[[np.ndarray], Pixels]:
    """The ``read`` of a source whose images are in memory already."""

    def read(positions_M: np.ndarray) -> Pixels:
        everything = len(positions_M) == len(images_NCHW)
        return Pixels(images_NCHW if everything else images_NCHW[positions_M], np.ones(len(positions_M), dtype=bool))

    return read


class Loader(Protocol):
    """Lists one image dataset."""

    def __call__(self, request: Request) -> Listing:
        """What the dataset holds.

        Raises:
            MissingDataError: its files are not there.
            ImageError: they are not what this dataset needs.
        """
        ...


REGISTRY: Registry[Loader] = Registry("image dataset", group="fmcs_bench.images")
