"""Datasets as torchvision keeps them on disk, from small files in its own formats."""

import os
import pickle
import shutil
import struct
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torchvision.datasets as tv
from helpers.image_files import expected_split
from PIL import Image
from scipy.io import savemat

from fmcs_bench.core.errors import ImageError, MissingDataError
from fmcs_bench.images.dataset import SPLITS
from fmcs_bench.images.load import load_images
from fmcs_bench.images.preprocessing import Preprocessor

RNG = np.random.default_rng(0)
MNIST_FILES = {
    (part, kind): f"{part}-{kind}-idx{dims}-ubyte" for part in ("train", "t10k") for kind, dims in
    (("images", 3), ("labels", 1))
}  # fmt: skip


def write_idx(path, array):
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def write_mnist(folder, kind):
    """Files in the format of MNIST: 300 and 50 random images."""
    raw = folder / kind / "raw"
    raw.mkdir(parents=True)
    for part, num in (("train", 300), ("t10k", 50)):
        write_idx(raw / MNIST_FILES[part, "images"], RNG.integers(0, 256, (num, 28, 28)))
        write_idx(raw / MNIST_FILES[part, "labels"], np.arange(num) % 10)
    return folder


@pytest.fixture
def fashion(tmp_path):
    return write_mnist(tmp_path, "FashionMNIST")


@pytest.fixture
def small_mnist(tmp_path):
    return write_mnist(tmp_path, "MNIST")


def test_fashionmnist_is_what_torchvision_reads(fashion):
    dataset = load_images("fashionmnist", fashion)
    for train, rows in ((True, slice(0, 300)), (False, slice(300, 350))):
        source = tv.FashionMNIST(fashion, train=train)
        np.testing.assert_array_equal(dataset.images_NCHW[rows, 0], source.data)
        np.testing.assert_array_equal(dataset.labels_N[rows], source.targets)
    assert dataset.classes[9] == "Ankle boot"
    assert dataset.licence == "MIT"
    np.testing.assert_array_equal(dataset.indices("unseen"), np.arange(300, 350))


@pytest.fixture(params=["cifar10", "cifar100"])
def cifar(request, tmp_path, monkeypatch):
    """A folder with files in the format of CIFAR, of other content; their MD5 are not compared."""
    kind, num_classes = {"cifar10": (tv.CIFAR10, 10), "cifar100": (tv.CIFAR100, 100)}[request.param]
    label, names = ("labels", "label_names") if num_classes == 10 else ("fine_labels", "fine_label_names")
    for part in ("train_list", "test_list"):
        monkeypatch.setattr(kind, part, [[name, None] for name, _ in getattr(kind, part)])
    monkeypatch.setattr(kind, "meta", kind.meta | {"md5": None})
    folder = tmp_path / kind.base_folder
    folder.mkdir()
    for name, _ in [*kind.train_list, *kind.test_list]:
        rows = {"data": RNG.integers(0, 256, (500, 3072), dtype=np.uint8), label: [i % num_classes for i in range(500)]}
        (folder / name).write_bytes(pickle.dumps(rows))
    meta = {names: [f"class {i}" for i in range(num_classes)]}
    (folder / kind.meta["filename"]).write_bytes(pickle.dumps(meta))
    return request.param, kind, tmp_path


def test_cifar_is_what_torchvision_reads(cifar):
    name, kind, folder = cifar
    dataset = load_images(name, folder)
    train, test = kind(folder, train=True), kind(folder, train=False)
    np.testing.assert_array_equal(dataset.images_NCHW.transpose(0, 2, 3, 1), np.concatenate([train.data, test.data]))
    np.testing.assert_array_equal(dataset.labels_N, [*train.targets, *test.targets])
    assert dataset.classes == tuple(train.classes)
    assert dataset.licence == "unknown"
    assert "Krizhevsky" in dataset.citation
    np.testing.assert_array_equal(dataset.indices("unseen"), np.arange(len(train), len(train) + 500))


def test_cifar_files_of_other_content_are_refused_unread(cifar, monkeypatch):
    name, kind, folder = cifar
    monkeypatch.setattr(kind, "test_list", [[file, "0" * 32] for file, _ in kind.test_list])
    monkeypatch.setattr(pickle, "load", lambda *_, **__: pytest.fail("an unchecked file was unpickled"))
    with pytest.raises(MissingDataError, match=rf"the {name} files in .*{kind.base_folder} are damaged or incomplete"):
        load_images(name, folder)


def test_missing_cifar10_points_to_parquet_files_beside_it(tmp_path):
    (tmp_path / "cifar10").mkdir()
    (tmp_path / "cifar10" / "train.parquet").write_bytes(b"")
    with pytest.raises(MissingDataError, match=r"looked in .*cifar-10-batches-py .*--dataset hub:.*/cifar10 reads"):
        load_images("cifar10", tmp_path)


def write_photo(path, size):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(path)


def check_photos(dataset, source, rows, side):
    for i in rows:
        photo, label = source[i]
        expected = np.asarray(photo.resize((side, side), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
        np.testing.assert_array_equal(dataset.images_NCHW[i], expected)
        assert dataset.labels_N[i] == label


def test_caltech101(tmp_path):
    root = tmp_path / "caltech101" / "101_ObjectCategories"
    for name in ("ant", "BACKGROUND_Google", "wrench"):
        for i in range(1, 31):
            write_photo(root / name / f"image_{i:04d}.jpg", (10 + i, 8))
    dataset = load_images("caltech101", tmp_path, image_size=12)
    assert dataset.classes == ("ant", "wrench")
    assert dataset.images_NCHW.shape == (60, 3, 12, 12)
    np.testing.assert_array_equal(dataset.ids_N, np.arange(60))
    source = tv.Caltech101(tmp_path)
    check_photos(dataset, source, (0, 29, 30, 59), 12)
    assert 0 < len(dataset.indices("unseen")) < 30
    (root / "ant" / "image_0003.jpg").write_bytes(b"x")
    with pytest.raises(ImageError, match=r"image_0003\.jpg cannot be read as an image"):
        load_images("caltech101", tmp_path, image_size=12)
    (root / "ant" / "image_0003.jpg").rename(root / "ant" / "x.jpg")
    with pytest.raises(MissingDataError, match=r"image_0003\.jpg cannot be opened \(No such file"):
        load_images("caltech101", tmp_path, image_size=12)
    (root / "BACKGROUND_Google").rename(root / "other")
    with pytest.raises(MissingDataError, match="damaged or incomplete"):
        load_images("caltech101", tmp_path, image_size=12)


def test_flowers102(tmp_path, monkeypatch):
    monkeypatch.setattr(
        tv.Flowers102, "_file_dict", {key: (name, None) for key, (name, _) in tv.Flowers102._file_dict.items()}
    )
    folder, num = tmp_path / "flowers-102", 408
    for i in range(1, num + 1):
        write_photo(folder / "jpg" / f"image_{i:05d}.jpg", (9, 6 + i % 5))
    order = RNG.permutation(np.arange(1, num + 1))
    savemat(folder / "imagelabels.mat", {"labels": np.arange(num) % 102 + 1})
    train = np.arange(1, 205)  # every class twice
    rest = order[order > 204]
    savemat(folder / "setid.mat", {"trnid": train, "valid": rest[:100], "tstid": rest[100:]})
    dataset = load_images("flowers102", tmp_path, image_size=8)
    assert len(dataset.classes) == 102
    np.testing.assert_array_equal(dataset.indices("unseen"), np.arange(304, num))
    source = [item for split in ("train", "val", "test") for item in tv.Flowers102(tmp_path, split=split)]
    check_photos(dataset, source, range(0, num, 37), 8)


@pytest.mark.parametrize(
    ("name", "kind", "inside"),
    [
        ("mnist", "MNIST", "MNIST/raw"),
        ("fashionmnist", "FashionMNIST", "FashionMNIST/raw"),
        ("cifar10", "CIFAR10", "cifar-10-batches-py"),
        ("cifar100", "CIFAR100", "cifar-100-python"),
        ("caltech101", "Caltech101", "caltech101"),
        ("flowers102", "Flowers102", "flowers-102"),
    ],
)
def test_missing_files_say_where_it_looked_and_how_to_get_them(tmp_path, name, kind, inside):
    message = rf"no {name} files: looked in {tmp_path / inside} for .*datasets\.{kind}\(.*--download"
    with pytest.raises(MissingDataError, match=message):
        load_images(name, tmp_path)
    with pytest.raises(MissingDataError, match=r"no folder was given: .*--data-dir.*FMCS_BENCH_DATA"):
        load_images(name)
    assert list(tmp_path.iterdir()) == []


def test_a_download_is_left_to_torchvision_and_its_failure_is_told(tmp_path, monkeypatch, capsys):
    asked = []

    def fail(url, *_, **__):
        asked.append(url)
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", fail)
    with pytest.raises(MissingDataError, match=r"mnist is not in .* and could not be downloaded \(.*no network"):
        load_images("mnist", tmp_path, download=True)
    assert "mnist" in asked[0]
    assert capsys.readouterr().out == ""


def test_files_that_are_here_are_not_downloaded(fashion, monkeypatch):
    monkeypatch.setattr(tv.FashionMNIST, "download", lambda _: pytest.fail("it was downloaded"))
    load_images("fashionmnist", fashion, download=True)


# ---- MNIST


def parse_idx(path):
    """An IDX file, by hand: magic 0 0 type dimensions, sizes, bytes."""
    data = path.read_bytes()
    zero, kind, num_dims = struct.unpack(">HBB", data[:4])
    assert (zero, kind) == (0, 8)
    shape = struct.unpack(f">{num_dims}I", data[4 : 4 + 4 * num_dims])
    return np.frombuffer(data, dtype=np.uint8, offset=4 + 4 * num_dims).reshape(shape)


def check_mnist(folder, num_train, num_test):
    dataset = load_images("mnist", folder)
    raw = folder / "MNIST" / "raw"
    for kind, array in (("images", dataset.images_NCHW[:, 0]), ("labels", dataset.labels_N)):
        np.testing.assert_array_equal(array[:num_train], parse_idx(raw / MNIST_FILES["train", kind]))
        np.testing.assert_array_equal(array[num_train:], parse_idx(raw / MNIST_FILES["t10k", kind]))
    assert dataset.images_NCHW.shape == (num_train + num_test, 1, 28, 28)
    np.testing.assert_array_equal(dataset.ids_N, np.arange(num_train + num_test))
    np.testing.assert_array_equal(dataset.indices("unseen"), np.arange(num_train, num_train + num_test))
    assert [SPLITS[i] for i in dataset.splits_N[:100]] == [expected_split("mnist", i) for i in range(100)]
    return dataset


def test_mnist_is_what_its_files_say(small_mnist):
    check_mnist(small_mnist, 300, 50)


def test_the_real_mnist_has_60000_and_10000_images():
    folder = Path(os.environ.get("FMCS_BENCH_DATA", ""))
    if not os.environ.get("FMCS_BENCH_DATA") or not (folder / "MNIST" / "raw").is_dir():
        pytest.skip("needs the real MNIST: set FMCS_BENCH_DATA to a folder that holds MNIST/raw")
    dataset = check_mnist(folder, 60_000, 10_000)
    assert np.bincount(dataset.labels_N[60_000:]).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert dataset.sha256 == "3c310f728889289d1ac408af0f55bc58207a6e20c0a6ceeafce651e6e35df3a3"
    assert [len(dataset.indices(split)) for split in SPLITS] == [48_002, 5_974, 6_024, 10_000]
    prepare = Preprocessor(dataset, 28)  # the well-known 0.1307 and 0.3081 are those of all 60,000
    assert float(prepare.mean_C) == pytest.approx(0.1307, abs=5e-4)
    assert float(prepare.std_C) == pytest.approx(0.3081, abs=5e-4)


@pytest.mark.parametrize("which", MNIST_FILES.values())
def test_each_missing_mnist_file_is_named(small_mnist, which):
    (small_mnist / "MNIST" / "raw" / which).unlink()
    with pytest.raises(MissingDataError, match=rf"looked in .*raw for {which};"):
        load_images("mnist", small_mnist)


@pytest.mark.parametrize("which", MNIST_FILES.values())
@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda _: b"",
        lambda data: data[:3],
        lambda data: b"\x00\x00\x08\x07" + data[4:],
        lambda data: b"\x00\x00\x01" + data[3:],
        lambda data: b"\x1f\x8b" + data[2:],
        lambda _: b"<!doctype html>" * 9,
        lambda data: data + b"\0",
    ],
    ids=["half", "empty", "header", "dimensions", "type", "gzip", "html", "longer"],
)
def test_a_damaged_mnist_file_is_refused(small_mnist, which, damage):
    path = small_mnist / "MNIST" / "raw" / which
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(MissingDataError, match=rf"raw/{which} is damaged or incomplete \(.* bytes\)"):
        load_images("mnist", small_mnist)


def test_labels_of_other_images_are_refused(small_mnist):
    raw = small_mnist / "MNIST" / "raw"
    shutil.copy(raw / MNIST_FILES["t10k", "labels"], raw / MNIST_FILES["train", "labels"])
    with pytest.raises(MissingDataError, match="300 images and 50 labels"):
        load_images("mnist", small_mnist)
