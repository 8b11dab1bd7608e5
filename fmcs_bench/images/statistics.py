"""One pass over all pixels of an image dataset; memory does not grow with the number of images.

N images, B block of images, C channels, V pixel values, K classes.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fmcs_bench.core.options import Options
from fmcs_bench.core.progress import SILENT, Progress
from fmcs_bench.images.base import StoredSize
from fmcs_bench.images.encoded import BLOCK_BYTES, ImageArray


@dataclass(frozen=True)
class Scan:
    """The result of one pass.

    Attributes:
        sha256: of ids, labels and pixels.
        count_CV: int64, how often each of the 256 values occurs in the train images.
        broken_M: int64, rows of the images that could not be decoded; where there are any, ignore the other fields.
    """

    sha256: str
    count_CV: np.ndarray
    broken_M: np.ndarray

    @property
    def mean_C(self) -> np.ndarray:
        """Mean of the train pixels, float64, from 0 to 1."""
        return self._mean_of(_VALUE_V)

    @property
    def variance_C(self) -> np.ndarray:
        """Variance of the train pixels, float64; 0 where all have one value."""
        return np.asarray((self._mean_of(_VALUE_V**2) - self.mean_C**2).clip(min=0))

    def _mean_of(self, value_V: np.ndarray) -> np.ndarray:
        weight_CV = self.count_CV / self.count_CV.sum(axis=1, keepdims=True)
        return np.asarray(weight_CV @ value_V)


_VALUE_V = np.arange(256) / 255


class ImageStatistics(Options):
    """Statistics of an image dataset, for its data card.

    Attributes:
        mean: of the train images' pixels from 0 to 1, for each channel.
        std: standard deviation of the same.
        size: height and width of the stored images, in pixels, or ``various``.
        colour: ``grey`` where all images are.
        num_images: number of images by split, for each class in the order of the classes.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: StoredSize
    colour: Literal["grey", "RGB"]
    num_images: dict[str, tuple[int, ...]]


def scan_images(
    name: str,
    images: ImageArray,
    ids_N: np.ndarray,
    labels_N: np.ndarray,
    is_train_N: np.ndarray,
    *,
    skip_broken: bool = False,
    progress: Progress = SILENT,
) -> Scan:
    """Go through all pixels once; with ``skip_broken`` images that cannot be decoded are listed."""
    state = hashlib.sha256()
    for array in (ids_N, labels_N):
        state.update(np.ascontiguousarray(array).data)
    count_CV = np.zeros((images.shape[1], 256), dtype=np.int64)
    is_read_N = np.zeros(len(images), dtype=bool)
    with progress.task(f"{name}: decoding {len(images):,} images once", len(images)) as task:
        for rows_B, images_BCHW in _blocks(images, skip_broken):
            state.update(np.ascontiguousarray(images_BCHW).data)
            train_BCHW = images_BCHW[is_train_N[rows_B]]
            for channel, count_V in enumerate(count_CV):
                count_V += np.bincount(train_BCHW[:, channel].ravel(), minlength=256)
            is_read_N[rows_B] = True
            task.advance(len(rows_B))
    return Scan(state.hexdigest(), count_CV, np.flatnonzero(~is_read_N))


def _blocks(images: ImageArray, skip_broken: bool) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    if not isinstance(images, np.ndarray):
        yield from images.blocks(skip_broken=skip_broken)
        return
    size = max(1, BLOCK_BYTES // max(1, math.prod(images.shape[1:])))
    for start in range(0, len(images), size):
        yield np.arange(start, min(start + size, len(images))), images[start : start + size]
