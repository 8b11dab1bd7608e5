"""Image datasets by what a person types: a name (``mnist``), ``folder:DIR`` or ``hub:NAME_OR_PATH``.

Configurations, manifests and folder names have the plain name of a source (``folder_<name of DIR>``), never a path.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from fmcs_bench.core.errors import ConfigError, ImageError, MissingDataError, UnknownNameError, nearest
from fmcs_bench.core.progress import SILENT, Progress
from fmcs_bench.images import sources
from fmcs_bench.images.base import IMAGE_DATASETS, ImageRequest, Lister, Listing
from fmcs_bench.images.dataset import SPLITS, ImageDataset, assign_splits, draw, fifth_as_test
from fmcs_bench.images.folder import list_folder
from fmcs_bench.images.huggingface import list_hub

IMAGE_SCHEMES: dict[str, tuple[Callable[[ImageRequest, str], Listing], str]] = {
    "folder": (list_folder, "folder:DIR (one class for each sub-folder)"),
    "hub": (list_hub, "hub:NAME_OR_PATH (a Hugging Face dataset, or local Parquet files)"),
}
"""Sources with a location of their own, and how they are typed."""

_BUILT_IN = sources  # importing it registers the names


def source_name(source: str) -> str:
    """The plain name of a source, for configurations, manifests and folder names.

    Example:
        >>> source_name("mnist"), source_name("folder:/home/me/My Flowers/"), source_name("hub:uoft-cs/cifar10")
        ('mnist', 'folder_My_Flowers', 'hub_uoft-cs_cifar10')
    """
    scheme, location = _split(source)
    if not scheme:
        return source
    if scheme == "hub" and not _is_path(scheme, location):
        last = location
    else:
        path = Path(location).expanduser()
        last = (path if path.name not in ("", "..") else path.resolve()).name
        last = last.removesuffix(".parquet") if scheme == "hub" else last
    return f"{scheme}_{re.sub(r'[^A-Za-z0-9_.-]+', '_', last)[:48]}"


def absolute_source(source: str | None) -> str | None:
    """The source with an absolute path, where it has a path."""
    scheme, _, location = (source or "").partition(":")
    return f"{scheme}:{Path(location).expanduser().absolute()}" if location and _is_path(scheme, location) else source


def load_images(
    name: str,
    data_dir: str | Path | None = None,
    *,
    limit: int | None = None,
    image_size: int | None = None,
    source: str | None = None,
    skip_broken: bool = False,
    download: bool = False,
    stream: bool | None = None,
    num_workers: int | None = None,
    progress: Progress = SILENT,
) -> ImageDataset:
    """Load an image dataset.

    Images of different sizes are resized to a square of ``image_size``; images of one size, no larger than that, stay
    as they are stored. All are decoded once, into one uint8 array in memory. Where that would take more than half of
    the free memory, encoded images (of folders, the hub, Caltech-101 and Flowers-102) are streamed: decoded without
    being kept, and again for every batch. Both ways give the same pixels, digest, mean and deviation.

    Args:
        name: one of ``IMAGE_DATASETS.names()``, ``folder:DIR``, ``hub:NAME_OR_PATH``, or the plain name of a source.
        data_dir: folder with the dataset's files; not needed for digits, which is embedded, nor for folder and hub.
        limit: at most this many images in each split; where the source allows it, others are not decoded.
        image_size: side in pixels; needed for images of different sizes.
        source: where a dataset of this plain name is stored (``folder:DIR``, ``hub:NAME_OR_PATH``).
        skip_broken: leave out and count images that cannot be decoded.
        download: fetch missing files of a named dataset into ``data_dir``.
        stream: True streams, False refuses what takes more than half of the free memory, None decides.
        num_workers: processes that decode streamed images ahead, 0 for none; None is every core but one, at most 16.
        progress: shows the reading.

    Raises:
        UnknownNameError: no such dataset.
        MissingDataError: its files are not there; the message says where it looked.
        ImageError: an image is broken, a class is empty, there is one class only, or the columns are wrong.
        ConfigError: a split has no image, the images do not fit into memory, or cannot be streamed.

    Example:
        >>> load_images("digits")
        ImageDataset digits: 10 classes, 1 x 8 x 8; 1,105 train, 149 validation, 174 test, 369 unseen
    """
    lister = _find_lister(source if source is not None else name)
    name = source_name(name)
    listing = lister(
        ImageRequest(
            name=name,
            data_dir=Path(data_dir) if data_dir is not None else None,
            image_size=image_size,
            skip_broken=skip_broken,
            download=download,
            stream=stream,
            num_workers=num_workers,
            progress=progress,
        )
    )
    is_test_N = fifth_as_test(name, listing.ids_N) if listing.is_test_N is None else listing.is_test_N
    _check_classes(name, listing, is_test_N)
    splits_N = assign_splits(name, listing.ids_N, is_test_N)
    chosen_N = draw(name, listing.ids_N, splits_N, limit)
    _check_splits(name, splits_N[chosen_N])
    pixels = listing.read(chosen_N)
    if stream and isinstance(pixels.images_MCHW, np.ndarray):
        raise ConfigError(
            f"{name} is one array, not encoded images, and cannot be streamed; leave out --stream-images (stream=True)"
        )
    kept_M = chosen_N[pixels.is_read_N]
    dataset = ImageDataset(
        name=name,
        images_NCHW=pixels.images_MCHW,
        labels_N=listing.labels_N[kept_M],
        ids_N=listing.ids_N[kept_M],
        splits_N=splits_N[kept_M],
        classes=listing.classes,
        licence=listing.licence,
        citation=listing.citation,
        num_broken=len(chosen_N) - len(kept_M),
        stored_size=pixels.stored_size,
    )
    # Whether a streamed image can be decoded is known after a pass. Images that cannot (and are to be skipped) change
    # ids and labels, with which the digest begins, so that a second pass is needed.
    while dataset.is_streamed:
        broken = dataset.scan_now(skip_broken=skip_broken, progress=progress).broken_M
        if not len(broken):
            break
        kept = dataset.take(np.setdiff1d(np.arange(len(dataset.ids_N)), broken))
        dataset = replace(kept, num_broken=dataset.num_broken + len(broken))
    lost = np.setdiff1d(listing.labels_N[chosen_N], dataset.labels_N)
    if len(lost):
        raise ImageError(f"no image of the class {listing.classes[lost[0]]!r} of {name} can be read")
    _check_splits(name, dataset.splits_N)
    return dataset


def _split(source: str) -> tuple[str, str]:
    """Scheme, empty where there is none, and what follows it."""
    scheme, colon, location = source.partition(":")
    if not colon:
        return "", source
    if scheme not in IMAGE_SCHEMES:
        raise UnknownNameError(f"unknown image source {scheme + ':'!r}; {nearest(scheme, IMAGE_SCHEMES)}")
    if not location:
        raise ConfigError(f"nothing follows {source!r}; type {IMAGE_SCHEMES[scheme][1]}")
    return scheme, location


def _is_path(scheme: str, location: str) -> bool:
    """Whether a location is a path; ``hub:`` also takes a repository's name."""
    return scheme == "folder" or location.startswith((".", "/", "~")) or Path(location).expanduser().exists()


def _find_lister(source: str) -> Lister:
    scheme, location = _split(source)
    if scheme:
        list_source = IMAGE_SCHEMES[scheme][0]
        return lambda request: list_source(request, location)
    for known in IMAGE_SCHEMES:
        if source.startswith(f"{known}_") and source not in IMAGE_DATASETS:
            raise MissingDataError(
                f"{source} does not say where its images are; give that with --images, as {IMAGE_SCHEMES[known][1]}"
            )
    return IMAGE_DATASETS[source]


def _check_splits(name: str, splits_N: np.ndarray) -> None:
    for i, split in enumerate(SPLITS):
        if not (splits_N == i).any():
            raise ConfigError(f"the image dataset {name} has no image in its {split} split; more images are needed")


def _check_classes(name: str, listing: Listing, is_test_N: np.ndarray) -> None:
    if len(listing.classes) < 2:
        only = f"one class only ({listing.classes[0]})" if listing.classes else "no class"
        raise ImageError(f"the image dataset {name} has {only}; at least two are needed")
    count_K = np.bincount(listing.labels_N[~is_test_N], minlength=len(listing.classes))
    empty = [listing.classes[k] for k in np.flatnonzero(count_K == 0)]
    if empty:
        raise ImageError(f"classes of {name} without a training image: {', '.join(empty[:5])}; fill or remove them")
