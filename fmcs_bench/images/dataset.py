"""Labelled images in memory, their splits, and the draw of a limited number of them.

Tensor names: N images, C channels of images, H height, W width.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from fmcs_bench.errors import ConfigError

SPLITS = ("train", "validation", "test", "unseen")
"""Train, validation and test are 80 / 10 / 10 of the source's training images; unseen are its own test images."""


@dataclass(frozen=True)
class ImageDataset:
    """Labelled images in memory.

    Attributes:
        name: short name, as typed.
        images_NCHW: uint8, one channel (grey) or three (RGB).
        labels_N: int64, 0 .. number of classes - 1.
        ids_N: int64, unique and the same on every machine; what they mean is the dataset's own affair.
        splits_N: uint8, index into ``SPLITS``.
        classes: name of each class.
        licence: of the images, as their owners state it.
        citation: where the images come from.
        num_broken: images that cannot be read and were left out, as the caller asked.
    """

    name: str
    images_NCHW: np.ndarray
    labels_N: np.ndarray
    ids_N: np.ndarray
    splits_N: np.ndarray
    classes: tuple[str, ...]
    licence: str
    citation: str
    num_broken: int = 0

    def __repr__(self) -> str:
        counts = ", ".join(f"{(self.splits_N == i).sum():,} {split}" for i, split in enumerate(SPLITS))
        size = " x ".join(str(n) for n in self.images_NCHW.shape[1:])
        return f"ImageDataset {self.name}: {len(self.classes)} classes, {size}; {counts}"

    def indices(self, *splits: str) -> np.ndarray:
        """Positions of the images of these splits, in order."""
        return np.flatnonzero(np.isin(self.splits_N, [SPLITS.index(split) for split in splits]))

    def limited(self, limit: int | None) -> ImageDataset:
        """At most ``limit`` images in each split, drawn by the hash of their ids (the same for every backbone).

        The images keep their order, and a larger limit holds all images of a smaller one.

        Raises:
            ConfigError: the limit is below 1.
        """
        if limit is None:
            return self
        keep_N = draw(self.name, self.ids_N, self.splits_N, limit)
        return ImageDataset(
            self.name, self.images_NCHW[keep_N], self.labels_N[keep_N], self.ids_N[keep_N], self.splits_N[keep_N],
            self.classes, self.licence, self.citation, self.num_broken,
        )  # fmt: skip

    @property
    def sha256(self) -> str:
        """SHA-256 of ids, labels and pixels: two machines with equal digests have the same images."""
        state = hashlib.sha256()
        for array in (self.ids_N, self.labels_N, self.images_NCHW):
            state.update(np.ascontiguousarray(array).data)
        return state.hexdigest()


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

    Raises:
        ConfigError: the limit is below 1.
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
    """Boolean [N]: the images that stand for the test images of a source that has none, a fifth fixed by the hash."""
    return np.array([stable_hash(name, int(i), "source test") % 5 == 0 for i in ids_N])


def stable_hash(name: str, image_id: int, purpose: str) -> int:
    """64 bits that depend on nothing but the arguments."""
    return int.from_bytes(hashlib.sha256(f"{purpose}/{name}/{image_id}".encode()).digest()[:8], "big")
