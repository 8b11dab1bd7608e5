import dataclasses
import hashlib
import os
import shutil
import statistics
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize

from fmcs_bench.core.errors import ConfigError, MissingDataError, UnknownNameError
from fmcs_bench.images.dataset import SPLITS, ImageDataset, assign_splits, draw
from fmcs_bench.images.load import load_images
from fmcs_bench.images.preprocessing import Preprocessor

MNIST_FILES = {
    (part, kind): f"{part}-{kind}-idx{dims}-ubyte" for part in ("train", "t10k") for kind, dims in
    (("images", 3), ("labels", 1))
}  # fmt: skip


@pytest.fixture(scope="module")
def digits():
    return load_images("digits")


def expected_split(name, image_id):
    number = int(hashlib.sha256(f"split/{name}/{image_id}".encode()).hexdigest()[:16], 16)
    return "train" if number % 10 < 8 else "validation" if number % 10 == 8 else "test"


def small_dataset(images_NCHW, splits=None, name="small"):
    num = len(images_NCHW)
    return ImageDataset(
        name, images_NCHW, np.arange(num) % 2, np.arange(num),
        np.zeros(num, dtype=np.uint8) if splits is None else splits, ("a", "b"), "none", "none",
    )  # fmt: skip


# ---- digits and splits


def test_digits_are_those_of_scikit_learn(digits):
    source = load_digits()
    assert digits.images_NCHW.shape == (1797, 1, 8, 8)
    assert digits.images_NCHW.dtype == np.uint8
    np.testing.assert_array_equal(np.rint(digits.images_NCHW[:, 0] / 255 * 16), source.images)
    np.testing.assert_array_equal(digits.labels_N, source.target)
    assert digits.labels_N.dtype == np.int64
    assert digits.classes == tuple("0123456789")
    assert len(set(digits.ids_N.tolist())) == 1797


def test_every_image_is_in_one_split(digits):
    positions = [digits.indices(split) for split in SPLITS]
    assert sorted(np.concatenate(positions).tolist()) == list(range(1797))
    assert [len(p) for p in positions] == [1105, 149, 174, 369]
    both = np.sort(np.concatenate([positions[0], positions[3]]))
    np.testing.assert_array_equal(digits.indices("train", "unseen"), both)


def test_the_split_is_the_hash_of_dataset_and_id(digits):
    source = digits.splits_N != SPLITS.index("unseen")
    found = [SPLITS[i] for i in digits.splits_N[source]]
    assert found == [expected_split("digits", i) for i in digits.ids_N[source]]


def test_splits_do_not_depend_on_order_or_on_the_other_images():
    ids = np.arange(500)
    whole = assign_splits("x", ids, ids >= 400)
    order = np.random.default_rng(0).permutation(500)[:77]
    np.testing.assert_array_equal(assign_splits("x", ids[order], ids[order] >= 400), whole[order])
    assert (assign_splits("y", ids, ids >= 400) != whole).any()
    assert (whole[400:] == SPLITS.index("unseen")).all()
    assert (whole[:400] != SPLITS.index("unseen")).all()


def test_splits_are_80_10_10():
    ids = np.arange(40_000)
    share = np.bincount(assign_splits("x", ids, np.zeros(40_000, dtype=bool))) / 40_000
    sigma = np.sqrt(np.array([0.16, 0.09, 0.09]) / 40_000)
    assert (np.abs(share - [0.8, 0.1, 0.1]) < 4 * sigma).all()


def test_every_class_is_in_every_split(digits):
    for split in SPLITS:
        assert set(digits.labels_N[digits.indices(split)]) == set(range(10))


# ---- limits


def test_limits_are_nested_and_keep_images_labels_and_order(digits):
    previous: set[int] = set()
    for limit in (1, 5, 60, 150, 10_000):
        part = load_images("digits", limit=limit)
        assert [len(part.indices(split)) for split in SPLITS] == [
            min(limit, len(digits.indices(split))) for split in SPLITS
        ]
        assert previous <= set(part.ids_N.tolist())
        previous = set(part.ids_N.tolist())
        assert (np.diff(part.ids_N) > 0).all()
        for field in ("images_NCHW", "labels_N", "splits_N"):
            np.testing.assert_array_equal(getattr(part, field), getattr(digits, field)[part.ids_N])
    assert part.sha256 == digits.sha256


def test_a_limit_does_not_depend_on_the_order_of_the_source(digits):
    order = np.random.default_rng(1).permutation(1797)
    shuffled = dataclasses.replace(
        digits, **{f: getattr(digits, f)[order] for f in ("images_NCHW", "labels_N", "ids_N", "splits_N")}
    )
    drawn = [set(d.ids_N[draw(d.name, d.ids_N, d.splits_N, 20)]) for d in (shuffled, digits)]
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one_is_refused(limit):
    with pytest.raises(ConfigError, match=rf"limit = {limit}"):
        load_images("digits", limit=limit)


def test_the_digest_follows_content(digits):
    assert digits.sha256 == load_images("digits").sha256
    others = []
    for field in ("images_NCHW", "labels_N", "ids_N"):
        array = getattr(digits, field).copy()
        array.flat[7] += 1
        others.append(dataclasses.replace(digits, **{field: array}).sha256)
    assert len({digits.sha256, load_images("digits", limit=50).sha256, *others}) == 5


def test_the_images_and_splits_of_digits_never_change():
    assert load_images("digits").sha256 == "ae1e7ae1d42b6450e63fe2e6fb1b60ed76cf140a5145e91cc02930d95c51df09"
    part = load_images("digits", limit=100)
    assert part.sha256 == "570521434d05c08715b61812b0bc1ce84715359de167fb01bd271d06c9a60827"


def test_an_unknown_dataset_comes_with_the_nearest():
    with pytest.raises(UnknownNameError, match=r"unknown image dataset 'digit'; did you mean digits\?"):
        load_images("digit")


# ---- preprocessing


def test_train_images_have_mean_0_and_deviation_1_at_their_own_size(digits):
    prepare = Preprocessor(digits, 8)
    x = prepare(torch.from_numpy(digits.images_NCHW[digits.indices("train")]))
    assert (x.shape, x.dtype) == ((1105, 3, 8, 8), torch.float32)
    assert float(x.double().mean()) == pytest.approx(0, abs=1e-5)
    assert float(x.double().std(correction=0)) == pytest.approx(1, abs=1e-5)
    assert torch.equal(x[:, 0], x[:, 1])
    assert torch.equal(x[:, 0], x[:, 2])


def test_only_train_pixels_give_mean_and_deviation():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (6, 3, 4, 5), dtype=np.uint8)
    splits = np.array([0, 1, 0, 2, 3, 0], dtype=np.uint8)
    dataset = small_dataset(pixels, splits)
    prepare = Preprocessor(dataset, 4)
    for channel in range(3):
        values = [pixel / 255 for i in (0, 2, 5) for pixel in pixels[i, channel].ravel().tolist()]
        assert float(prepare.mean_C[channel]) == pytest.approx(statistics.fmean(values), rel=1e-6)
        assert float(prepare.std_C[channel]) == pytest.approx(statistics.pstdev(values), rel=1e-6)
    changed = pixels.copy()
    changed[[1, 3, 4]] = 0
    assert torch.equal(Preprocessor(small_dataset(changed, splits), 4).mean_C, prepare.mean_C)


def test_every_channel_is_normalised_by_its_own_numbers():
    pixels = np.random.default_rng(2).integers(0, 256, (9, 3, 6, 6), dtype=np.uint8)
    pixels[:, 1] //= 4
    x = Preprocessor(small_dataset(pixels), 6)(torch.from_numpy(pixels)).numpy()
    scaled = pixels / 255
    expected = (scaled - scaled.mean(axis=(0, 2, 3), keepdims=True)) / scaled.std(axis=(0, 2, 3), keepdims=True)
    np.testing.assert_allclose(x, expected, atol=1e-5)


@pytest.mark.parametrize("size", [5, 8, 13, 32])
def test_resizing_is_bilinear_and_antialiased_where_it_shrinks(digits, size):
    prepare = Preprocessor(digits, size)
    batch = torch.from_numpy(digits.images_NCHW[:40])
    resized = resize(batch.float() / 255, [size, size], InterpolationMode.BILINEAR, antialias=size < 8)
    expected = (resized - prepare.mean_C[:, None, None]) / prepare.std_C[:, None, None]
    torch.testing.assert_close(prepare(batch), expected.expand(-1, 3, -1, -1), atol=1e-5, rtol=1e-5)


def test_shrinking_without_antialiasing_would_be_seen(digits):
    batch = torch.from_numpy(digits.images_NCHW[:40]).float() / 255
    plain = resize(batch, [3, 3], InterpolationMode.BILINEAR, antialias=False)
    smooth = resize(batch, [3, 3], InterpolationMode.BILINEAR, antialias=True)
    assert (plain - smooth).abs().max() > 0.05


def test_images_that_are_not_square_become_square():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 20, 6), dtype=np.uint8)
    prepare = Preprocessor(small_dataset(pixels), 10)
    resized = resize(torch.from_numpy(pixels).float() / 255, [10, 10], InterpolationMode.BILINEAR, antialias=True)
    expected = (resized - prepare.mean_C[:, None, None]) / prepare.std_C[:, None, None]
    torch.testing.assert_close(prepare(torch.from_numpy(pixels)), expected, atol=1e-5, rtol=1e-5)


def test_images_stay_as_they_are(digits):
    batch = torch.from_numpy(digits.images_NCHW[:4].copy())
    before = batch.clone()
    Preprocessor(digits, 16)(batch)
    assert torch.equal(batch, before)


def test_images_of_one_colour_are_refused():
    with pytest.raises(ConfigError, match="train images of small have one colour"):
        Preprocessor(small_dataset(np.full((3, 1, 4, 4), 9, dtype=np.uint8)), 4)


# ---- MNIST


def parse_idx(path):
    """An IDX file, by hand: magic 0 0 type dimensions, sizes, bytes."""
    data = path.read_bytes()
    zero, kind, num_dims = struct.unpack(">HBB", data[:4])
    assert (zero, kind) == (0, 8)
    shape = struct.unpack(f">{num_dims}I", data[4 : 4 + 4 * num_dims])
    return np.frombuffer(data, dtype=np.uint8, offset=4 + 4 * num_dims).reshape(shape)


def write_idx(path, array):
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


@pytest.fixture
def small_mnist(tmp_path):
    """A folder with files in the format of MNIST: 300 and 50 random images."""
    rng = np.random.default_rng(0)
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, num in (("train", 300), ("t10k", 50)):
        write_idx(raw / MNIST_FILES[part, "images"], rng.integers(0, 256, (num, 28, 28)))
        write_idx(raw / MNIST_FILES[part, "labels"], rng.integers(0, 10, num))
    return tmp_path


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


def test_missing_mnist_says_where_it_looked_and_how_to_get_it(tmp_path):
    with pytest.raises(MissingDataError, match=r"no folder was given: get them with .*download=True.*--data-dir"):
        load_images("mnist")
    with pytest.raises(MissingDataError) as caught:
        load_images("mnist", tmp_path)
    message = str(caught.value)
    assert str(tmp_path / "MNIST" / "raw") in message
    assert "train-images-idx3-ubyte" in message
    assert "FMCS_BENCH_DATA" in message
    assert isinstance(caught.value, FileNotFoundError)


@pytest.mark.parametrize("which", MNIST_FILES.values())
def test_each_missing_mnist_file_is_named(small_mnist, which):
    (small_mnist / "MNIST" / "raw" / which).unlink()
    with pytest.raises(MissingDataError, match=rf"looked in .*raw for {which};"):
        load_images("mnist", small_mnist)


def cut(data):
    return data[: len(data) // 2]


@pytest.mark.parametrize("which", MNIST_FILES.values())
@pytest.mark.parametrize(
    "damage",
    [
        cut,
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
