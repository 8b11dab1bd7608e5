"""Image datasets and their splits.

Flow: the source's files -> ImageDataset (uint8 images, labels, stable ids) -> split of every image, by a hash of its
id -> batches, resized and normalised on the device (``Preprocessor``).

Tensor names: N images, B batch, C channels of images, H height, W width.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import nn

from fmcs_bench.errors import ConfigError, MissingDataError
from fmcs_bench.registry import Registry

SPLITS = ("train", "validation", "test", "unseen")
"""Train, validation and test are 80 / 10 / 10 of the source's training images; unseen are its own test images."""


class Loader(Protocol):
    """Reads one image dataset from a folder (None where the user named none)."""

    def __call__(self, data_dir: Path | None) -> ImageDataset:
        """The whole dataset, in memory.

        Raises:
            MissingDataError: its files are not there.
        """
        ...


REGISTRY: Registry[Loader] = Registry("image dataset", group="fmcs_bench.images")


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
    """

    name: str
    images_NCHW: np.ndarray
    labels_N: np.ndarray
    ids_N: np.ndarray
    splits_N: np.ndarray
    classes: tuple[str, ...]
    licence: str
    citation: str

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
        if limit < 1:
            raise ConfigError(f"limit = {limit}: at least one image in each split is needed")
        rank_N = np.array([_hash(self.name, int(i), "limit") for i in self.ids_N])
        kept = [
            index[np.argsort(rank_N[index], kind="stable")[:limit]]
            for index in (np.flatnonzero(self.splits_N == split) for split in range(len(SPLITS)))
        ]
        keep_N = np.sort(np.concatenate(kept))
        return ImageDataset(
            self.name, self.images_NCHW[keep_N], self.labels_N[keep_N], self.ids_N[keep_N], self.splits_N[keep_N],
            self.classes, self.licence, self.citation,
        )  # fmt: skip

    @property
    def sha256(self) -> str:
        """SHA-256 of ids, labels and pixels: two machines with equal digests have the same images."""
        state = hashlib.sha256()
        for array in (self.ids_N, self.labels_N, self.images_NCHW):
            state.update(np.ascontiguousarray(array).data)
        return state.hexdigest()


class Preprocessor(nn.Module):
    """uint8 images as stored -> float32 input of a network: resized, normalised, three channels.

    Grey images are repeated over the three channels, so that every network takes every dataset. Mean and standard
    deviation are those of the train split's pixels, for each channel.

    Args:
        images: the dataset whose train split gives mean and standard deviation.
        image_size: side of the square output, in pixels; bilinear, with antialiasing where it shrinks.
    """

    mean_C: torch.Tensor
    std_C: torch.Tensor

    def __init__(self, images: ImageDataset, image_size: int) -> None:
        super().__init__()
        self.image_size = image_size
        pixels_NCHW = images.images_NCHW[images.indices("train")]
        count_CV = np.stack(
            [np.bincount(pixels_NCHW[:, c].ravel(), minlength=256) for c in range(pixels_NCHW.shape[1])]
        )
        value_V, weight_CV = np.arange(256) / 255, count_CV / count_CV.sum(axis=1, keepdims=True)
        mean_C = weight_CV @ value_V
        variance_C = weight_CV @ value_V**2 - mean_C**2
        if (variance_C <= 0).any():
            raise ConfigError(
                f"the train images of {images.name} all have one colour; nothing can be learned from them"
            )
        self.register_buffer("mean_C", torch.tensor(mean_C, dtype=torch.float32))
        self.register_buffer("std_C", torch.tensor(np.sqrt(variance_C), dtype=torch.float32))

    @torch.no_grad()
    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """Prepare a batch.

        Args:
            images_BCHW: uint8, one or three channels, of any size.

        Returns:
            float32 [B, 3, image_size, image_size].
        """
        x_BCHW = images_BCHW.float().div_(255)
        if x_BCHW.shape[-2:] != (self.image_size, self.image_size):
            size = (self.image_size, self.image_size)
            shrinks = max(x_BCHW.shape[-2:]) > self.image_size
            x_BCHW = nn.functional.interpolate(x_BCHW, size=size, mode="bilinear", antialias=shrinks)
        x_BCHW = (x_BCHW - self.mean_C[:, None, None]) / self.std_C[:, None, None]
        return x_BCHW.expand(-1, 3, -1, -1)


def load(name: str, data_dir: str | Path | None = None, *, limit: int | None = None) -> ImageDataset:
    """Load an image dataset by name.

    Args:
        name: one of ``REGISTRY.names()``.
        data_dir: folder with the dataset's files; not needed for digits, which is embedded.
        limit: at most this many images in each split.

    Raises:
        UnknownNameError: no such dataset.
        MissingDataError: its files are not there; the message says where it looked.

    Example:
        >>> load("digits")
        ImageDataset digits: 10 classes, 1 x 8 x 8; 1,105 train, 149 validation, 174 test, 369 unseen
    """
    dataset = REGISTRY[name](Path(data_dir) if data_dir is not None else None).limited(limit)
    for split in SPLITS:
        if not len(dataset.indices(split)):
            raise ConfigError(f"the image dataset {name} has no image in its {split} split; use a larger --limit")
    return dataset


def assign_splits(name: str, ids_N: np.ndarray, is_source_test_N: np.ndarray) -> np.ndarray:
    """Split of every image (uint8, index into ``SPLITS``), by a hash of dataset name and image id.

    It depends on nothing else: not on the order of the images, on a limit, on a backbone or on a seed.
    """
    tenth_N = np.array([_hash(name, int(image_id), "split") % 10 for image_id in ids_N])
    splits_N = np.where(tenth_N < 8, 0, np.where(tenth_N == 8, 1, 2))
    return np.where(is_source_test_N, 3, splits_N).astype(np.uint8)


def _hash(name: str, image_id: int, purpose: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{purpose}/{name}/{image_id}".encode()).digest()[:8], "big")


@REGISTRY.register("digits")
def _digits(data_dir: Path | None) -> ImageDataset:  # noqa: ARG001  (embedded in scikit-learn)
    from sklearn.datasets import load_digits

    source = load_digits()
    images_NCHW = np.rint(source.images * (255 / 16)).astype(np.uint8)[:, None]
    ids_N = np.arange(len(images_NCHW), dtype=np.int64)
    # The source has no test images of its own; a fifth, fixed by the hash, stands for them.
    is_test_N = np.array([_hash("digits", int(i), "source test") % 5 == 0 for i in ids_N])
    return ImageDataset(
        "digits", images_NCHW, source.target.astype(np.int64), ids_N, assign_splits("digits", ids_N, is_test_N),
        tuple(str(i) for i in range(10)), "CC BY 4.0",
        "E. Alpaydin, C. Kaynak: Optical Recognition of Handwritten Digits. UCI Machine Learning Repository, 1998",
    )  # fmt: skip


@REGISTRY.register("mnist")
def _mnist(data_dir: Path | None) -> ImageDataset:
    names = [f"{part}-{kind}" for part in ("train", "t10k") for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")]
    folder = _folder("mnist", data_dir, "MNIST/raw", tuple(names))
    train, train_labels, test, test_labels = (_read_idx(folder / "MNIST/raw" / name) for name in names)
    for images, labels in ((train, train_labels), (test, test_labels)):
        if len(images) != len(labels):
            raise MissingDataError(f"{folder / 'MNIST/raw'} has {len(images)} images and {len(labels)} labels")
    images_NCHW = np.concatenate([train, test])[:, None]
    labels_N = np.concatenate([train_labels, test_labels]).astype(np.int64)
    ids_N = np.arange(len(images_NCHW), dtype=np.int64)
    is_test_N = ids_N >= len(train)
    return ImageDataset(
        "mnist", images_NCHW, labels_N, ids_N, assign_splits("mnist", ids_N, is_test_N),
        tuple(str(i) for i in range(10)), "CC BY-SA 3.0",
        "Y. LeCun, L. Bottou, Y. Bengio, P. Haffner: Gradient-based learning applied to document recognition. "
        "Proceedings of the IEEE 86, 1998",
    )  # fmt: skip


def _read_idx(path: Path) -> np.ndarray:
    """The uint8 array of an IDX file: 0, 0, 8 (the type), number of dimensions; big-endian sizes; values."""
    num_dims = int(path.name.split("-idx")[1][0])
    data = path.read_bytes()
    header = 4 + 4 * num_dims
    shape = np.frombuffer(data[4:header].ljust(4 * num_dims, b"\0"), dtype=">u4").tolist()
    if data[:4] != bytes([0, 0, 8, num_dims]) or len(data) != header + math.prod(shape):
        raise MissingDataError(f"{path} is damaged or incomplete ({len(data):,} bytes); remove it and get it again")
    return np.frombuffer(data, dtype=np.uint8, offset=header).reshape(shape)


def _folder(name: str, data_dir: Path | None, inside: str, required: tuple[str, ...]) -> Path:
    """The data folder, after a check that the dataset's files are in it."""
    how = (
        f"get them with `python -c \"import torchvision; torchvision.datasets.{name.upper()}('DIR', download=True)\"` "
        "and name that folder with --data-dir DIR or FMCS_BENCH_DATA"
    )
    if data_dir is None:
        raise MissingDataError(f"the image dataset {name} needs its files, and no folder was named: {how}")
    missing = [file for file in required if not (data_dir / inside / file).is_file()]
    if missing:
        raise MissingDataError(f"no {name} files here: looked in {data_dir / inside} for {', '.join(missing)}; {how}")
    return data_dir
