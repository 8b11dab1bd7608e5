"""Labelled images, their splits, and the draw of a limited number of them.

Tensor names: N images, M chosen images, C channels of images, H height, W width, K classes, S splits.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from fmcs_bench.core.errors import ConfigError
from fmcs_bench.core.progress import SILENT, Progress
from fmcs_bench.images.base import StoredSize
from fmcs_bench.images.encoded import EncodedImages, ImageArray
from fmcs_bench.images.statistics import ImageStatistics, Scan, scan_images

SPLITS = ("train", "validation", "test", "unseen")
"""Train, validation and test are 80 / 10 / 10 of the source's training images; unseen are its own test images."""


@dataclass(frozen=True)
class ImageDataset:
    """Labelled images, in memory or, where they are too many for it, encoded.

    Attributes:
        name: plain name.
        images_NCHW: uint8, one channel (grey) or three (RGB): an array, or ``EncodedImages``, indexed like one.
        labels_N: int64, 0 .. number of classes - 1.
        ids_N: int64, unique and the same on every machine.
        splits_N: uint8, index into ``SPLITS``.
        classes: name of each class.
        licence: of the images, as their owners state it.
        citation: where the images come from.
        num_broken: images that cannot be decoded and were left out (``skip_broken``).
        stored_size: height and width in the source; None where they are those of ``images_NCHW``.
    """

    name: str
    images_NCHW: ImageArray
    labels_N: np.ndarray
    ids_N: np.ndarray
    splits_N: np.ndarray
    classes: tuple[str, ...]
    licence: str
    citation: str
    num_broken: int = 0
    stored_size: StoredSize | None = None

    def __repr__(self) -> str:
        counts = ", ".join(f"{(self.splits_N == i).sum():,} {split}" for i, split in enumerate(SPLITS))
        size = " x ".join(str(n) for n in self.images_NCHW.shape[1:])
        streamed = ", streamed" if self.is_streamed else ""
        return f"ImageDataset {self.name}: {len(self.classes)} classes, {size}{streamed}; {counts}"

    @property
    def is_streamed(self) -> bool:
        """Whether the images stay encoded and are decoded when they are needed."""
        return isinstance(self.images_NCHW, EncodedImages)

    def indices(self, *splits: str) -> np.ndarray:
        """Positions of the images of these splits, in order."""
        return np.flatnonzero(np.isin(self.splits_N, [SPLITS.index(split) for split in splits]))

    def take(self, rows_M: np.ndarray) -> ImageDataset:
        """These images only; encoded ones stay encoded."""
        images = self.images_NCHW
        return replace(
            self,
            images_NCHW=images[rows_M] if isinstance(images, np.ndarray) else images.take(rows_M),
            labels_N=self.labels_N[rows_M],
            ids_N=self.ids_N[rows_M],
            splits_N=self.splits_N[rows_M],
        )

    @cached_property
    def scan(self) -> Scan:
        """The result of one pass over all pixels, made once."""
        return self.scan_now()

    def scan_now(self, *, skip_broken: bool = False, progress: Progress = SILENT) -> Scan:
        """Make the pass of ``scan`` now; with ``skip_broken`` the result is kept only if no image is broken."""
        is_train_N = self.splits_N == SPLITS.index("train")
        found = scan_images(
            self.name,
            self.images_NCHW,
            self.ids_N,
            self.labels_N,
            is_train_N,
            skip_broken=skip_broken,
            progress=progress,
        )
        if not len(found.broken_M):
            vars(self)["scan"] = found  # where cached_property looks
        return found

    @property
    def sha256(self) -> str:
        """SHA-256 of ids, labels and pixels: two machines with equal digests have the same images."""
        return self.scan.sha256

    @property
    def statistics(self) -> ImageStatistics:
        """Mean and standard deviation of the train split, size, colour, and number of images by split and class."""
        count_SK = np.zeros((len(SPLITS), len(self.classes)), dtype=np.int64)
        np.add.at(count_SK, (self.splits_N, self.labels_N), 1)
        _, num_channels, height, width = self.images_NCHW.shape
        return ImageStatistics(
            mean=tuple(self.scan.mean_C.tolist()),
            std=tuple(np.sqrt(self.scan.variance_C).tolist()),
            size=self.stored_size or (height, width),
            colour="grey" if num_channels == 1 else "RGB",
            num_images={split: tuple(counts) for split, counts in zip(SPLITS, count_SK.tolist(), strict=True)},
        )


def assign_splits(name: str, ids_N: np.ndarray, is_source_test_N: np.ndarray) -> np.ndarray:
    """Split of every image (uint8, index into ``SPLITS``), by a hash of dataset name and image id.

    It depends on nothing else: not on the order of the images, on a limit, on a backbone or on a seed.
    """
    tenth_N = np.array([stable_hash(name, int(image_id), "split") % 10 for image_id in ids_N])
    splits_N = np.where(tenth_N < 8, 0, np.where(tenth_N == 8, 1, 2))
    return np.where(is_source_test_N, 3, splits_N).astype(np.uint8)


def draw(name: str, ids_N: np.ndarray, splits_N: np.ndarray, limit: int | None) -> np.ndarray:
    """Positions of at most ``limit`` images of each split, in order, by a hash of dataset name and image id.

    A larger limit holds all images of a smaller one; None takes every image.
    """
    if limit is None:
        return np.arange(len(ids_N))
    if limit < 1:
        raise ConfigError(f"limit = {limit}: at least one image in each split is needed")
    rank_N = np.array([stable_hash(name, int(i), "limit") for i in ids_N])
    kept = [
        index[np.argsort(rank_N[index], kind="stable")[:limit]]
        for index in (np.flatnonzero(splits_N == split) for split in range(len(SPLITS)))
    ]
    return np.sort(np.concatenate(kept))


def fifth_as_test(name: str, ids_N: np.ndarray) -> np.ndarray:
    """Boolean [N]: a fifth of the images, fixed by a hash, as the test images of a source that has none."""
    return np.array([stable_hash(name, int(i), "source test") % 5 == 0 for i in ids_N])


def stable_hash(name: str, image_id: int, purpose: str) -> int:
    """64 bits that depend on nothing but the arguments."""
    return int.from_bytes(hashlib.sha256(f"{purpose}/{name}/{image_id}".encode()).digest()[:8], "big")
