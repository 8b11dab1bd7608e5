"""Named image datasets: digits, which scikit-learn embeds, and six as torchvision keeps them on disk.

The id of an image is its position: training images first, then the source's own test images.
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fmcs_bench.core.errors import MissingDataError
from fmcs_bench.images.base import IMAGE_DATASETS, UNKNOWN, ImageRequest, Listing, from_memory, read_encoded
from fmcs_bench.images.encoded import Files

_IDX = tuple(f"{part}-{kind}" for part in ("train", "t10k") for kind in ("images-idx3-ubyte", "labels-idx1-ubyte"))


def digits(request: ImageRequest) -> Listing:  # noqa: ARG001  (embedded in scikit-learn)
    """1,797 grey images of 8 x 8 pixels; the source has no test images of its own."""
    from sklearn.datasets import load_digits

    source = load_digits()
    images_NCHW = np.rint(source.images * (255 / 16)).astype(np.uint8)[:, None]
    return Listing(
        labels_N=source.target.astype(np.int64),
        ids_N=np.arange(len(images_NCHW), dtype=np.int64),
        is_test_N=None,
        classes=tuple(str(i) for i in range(10)),
        licence="CC BY 4.0",
        citation=(
            "E. Alpaydin, C. Kaynak: Optical Recognition of Handwritten Digits. UCI Machine Learning Repository, 1998"
        ),
        read=from_memory(images_NCHW),
    )


def caltech101(request: ImageRequest) -> Listing:
    """About 8,700 photographs of different sizes, of 101 classes; the source has no test images of its own."""
    from torchvision.datasets import Caltech101

    inside = "caltech101/101_ObjectCategories"
    folder = _folder(request, "Caltech101", [inside]) / inside
    source = _open(request, partial(Caltech101, folder.parents[1]), folder)
    paths = [
        folder / source.categories[label] / f"image_{number:04d}.jpg"
        for label, number in zip(source.y, source.index, strict=True)
    ]
    return Listing(
        labels_N=np.array(source.y, dtype=np.int64),
        ids_N=np.arange(len(paths), dtype=np.int64),
        is_test_N=None,
        classes=tuple(source.categories),
        licence="CC BY 4.0",
        citation="F.-F. Li, M. Andreeto, M. Ranzato, P. Perona: Caltech 101. CaltechDATA, 2022",
        read=partial(read_encoded, source=Files(paths), request=request),
    )


def flowers102(request: ImageRequest) -> Listing:
    """2,040 + 6,149 photographs of different sizes, of 102 classes; the source's train and val are trained on."""
    from torchvision.datasets import Flowers102

    inside = [f"flowers-102/{name}" for name in ("jpg", "imagelabels.mat", "setid.mat")]
    root = _folder(request, "Flowers102", inside)
    # torchvision lists the files, and we decode those that are used: its loader returns the path.
    found = [
        list(_open(request, partial(Flowers102, root, split=split, loader=lambda path: path), root / "flowers-102"))
        for split in ("train", "val", "test")
    ]
    everything = [item for part in found for item in part]
    ids_N = np.arange(len(everything), dtype=np.int64)
    return Listing(
        labels_N=np.array([label for _, label in everything], dtype=np.int64),
        ids_N=ids_N,
        is_test_N=ids_N >= len(everything) - len(found[-1]),
        classes=tuple(Flowers102.classes),
        licence=UNKNOWN,
        citation=(
            "M.-E. Nilsback, A. Zisserman: Automated Flower Classification over a Large Number of Classes. "
            "Indian Conference on Computer Vision, Graphics and Image Processing, 2008"
        ),
        read=partial(read_encoded, source=Files([path for path, _ in everything]), request=request),
    )


def _idx(request: ImageRequest, *, kind: str, licence: str, citation: str) -> Listing:
    import torchvision.datasets

    inside = [f"{kind}/raw/{name}" for name in _IDX]
    root = _folder(request, kind, inside)
    train, train_labels, test, test_labels = (_read_idx(root / file) for file in inside)
    for images, labels in ((train, train_labels), (test, test_labels)):
        if len(images) != len(labels):
            raise MissingDataError(f"{root / kind / 'raw'} has {len(images)} images and {len(labels)} labels")
    images_NCHW = np.concatenate([train, test])[:, None]
    ids_N = np.arange(len(images_NCHW), dtype=np.int64)
    return Listing(
        labels_N=np.concatenate([train_labels, test_labels]).astype(np.int64),
        ids_N=ids_N,
        is_test_N=ids_N >= len(train),
        classes=tuple(name.split(" - ")[0] for name in getattr(torchvision.datasets, kind).classes),
        licence=licence,
        citation=citation,
        read=from_memory(images_NCHW),
    )


def _read_idx(path: Path) -> np.ndarray:
    """The uint8 array of an IDX file: 0, 0, 8 (the type), number of dimensions; big-endian sizes; values."""
    num_dims = int(path.name.split("-idx")[1][0])
    data = path.read_bytes()
    header = 4 + 4 * num_dims
    shape = np.frombuffer(data[4:header].ljust(4 * num_dims, b"\0"), dtype=">u4").tolist()
    if data[:4] != bytes([0, 0, 8, num_dims]) or len(data) != header + math.prod(shape):
        raise MissingDataError(f"{path} is damaged or incomplete ({len(data):,} bytes); remove it and get it again")
    return np.frombuffer(data, dtype=np.uint8, offset=header).reshape(shape)


def _cifar(request: ImageRequest, *, kind_name: str) -> Listing:
    import torchvision.datasets

    kind = getattr(torchvision.datasets, kind_name)
    files = [kind.meta["filename"], *(name for name, _ in [*kind.train_list, *kind.test_list])]
    inside = [f"{kind.base_folder}/{name}" for name in files]
    root = _folder(request, kind_name, inside)
    # torchvision compares every file's MD5 before it unpickles one.
    train, test = (_open(request, partial(kind, root, train=train), root / kind.base_folder) for train in (True, False))
    images_NCHW = np.concatenate([train.data, test.data]).transpose(0, 3, 1, 2)
    ids_N = np.arange(len(images_NCHW), dtype=np.int64)
    return Listing(
        labels_N=np.array([*train.targets, *test.targets], dtype=np.int64),
        ids_N=ids_N,
        is_test_N=ids_N >= len(train.data),
        classes=tuple(train.classes),
        licence=UNKNOWN,
        citation="A. Krizhevsky: Learning Multiple Layers of Features from Tiny Images. Technical report, 2009",
        read=from_memory(np.ascontiguousarray(images_NCHW)),
    )


def _open(request: ImageRequest, make: Callable[[], Any], folder: Path) -> Any:
    try:
        return make()
    except (RuntimeError, OSError, ValueError, KeyError) as error:
        raise MissingDataError(
            f"the {request.name} files in {folder} are damaged or incomplete ({_one_line(error)}); "
            "remove them and get them again"
        ) from error


def _folder(request: ImageRequest, kind: str, inside: Sequence[str]) -> Path:
    """The data folder with the dataset's files; with ``download``, missing files are fetched first."""
    how = (
        f"get them with `python -c \"import torchvision; torchvision.datasets.{kind}('DIR', download=True)\"` "
        "and give that folder with --data-dir DIR or FMCS_BENCH_DATA, or let `build --download` do it"
    )
    root = request.data_dir
    if root is None:
        raise MissingDataError(f"the image dataset {request.name} needs its files, and no folder was given: {how}")
    if request.download and _missing(root, inside):
        import torchvision.datasets

        try:
            with contextlib.redirect_stdout(sys.stderr):  # torchvision prints its progress to standard output
                getattr(torchvision.datasets, kind)(root, download=True)
        except (RuntimeError, OSError, ValueError) as error:
            raise MissingDataError(
                f"{request.name} is not in {root} and could not be downloaded ({_one_line(error)}); {how}"
            ) from error
    missing = _missing(root, inside)
    if missing:
        folder = root / inside[0].rpartition("/")[0]
        names = ", ".join(name.rpartition("/")[2] for name in missing)
        parquet = root / request.name
        has_parquet = any(parquet.glob("*.parquet"))
        hint = f"; {parquet} has Parquet files: --dataset hub:{parquet} reads those" if has_parquet else ""
        raise MissingDataError(f"no {request.name} files: looked in {folder} for {names}; {how}{hint}")
    return root


def _missing(root: Path, inside: Sequence[str]) -> list[str]:
    return [name for name in inside if not (root / name).exists()]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


IMAGE_DATASETS.add("digits", digits)
IMAGE_DATASETS.add(
    "mnist",
    partial(
        _idx,
        kind="MNIST",
        licence="CC BY-SA 3.0",
        citation=(
            "Y. LeCun, L. Bottou, Y. Bengio, P. Haffner: Gradient-based learning applied to document recognition. "
            "Proceedings of the IEEE 86, 1998"
        ),
    ),
)
IMAGE_DATASETS.add(
    "fashionmnist",
    partial(
        _idx,
        kind="FashionMNIST",
        licence="MIT",
        citation=(
            "H. Xiao, K. Rasul, R. Vollgraf: Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning "
            "Algorithms. arXiv 1708.07747, 2017"
        ),
    ),
)
IMAGE_DATASETS.add("cifar10", partial(_cifar, kind_name="CIFAR10"))
IMAGE_DATASETS.add("cifar100", partial(_cifar, kind_name="CIFAR100"))
IMAGE_DATASETS.add("caltech101", caltech101)
IMAGE_DATASETS.add("flowers102", flowers102)
