import dataclasses
import statistics

import numpy as np
import pytest
import torch
from helpers.image_files import expected_split
from sklearn.datasets import load_digits
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize

from fmcs_bench.core.errors import ConfigError, UnknownNameError
from fmcs_bench.images.dataset import SPLITS, ImageDataset, assign_splits, draw
from fmcs_bench.images.load import load_images
from fmcs_bench.images.preprocessing import Preprocessor


@pytest.fixture(scope="module")
def digits():
    return load_images("digits")


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


@pytest.mark.parametrize("size", [5, 8, 13, 32])
def test_resizing_is_bilinear_and_antialiased_where_it_shrinks(digits, size):
    oblong = small_dataset(np.random.default_rng(0).integers(0, 256, (2, 3, 20, 6), dtype=np.uint8))
    for dataset, longest in ((digits, 8), (oblong, 20)):
        prepare = Preprocessor(dataset, size)
        batch = torch.from_numpy(dataset.images_NCHW[:40])
        resized = resize(batch.float() / 255, [size, size], InterpolationMode.BILINEAR, antialias=size < longest)
        expected = (resized - prepare.mean_C[:, None, None]) / prepare.std_C[:, None, None]
        before = batch.clone()
        torch.testing.assert_close(prepare(batch), expected.expand(-1, 3, -1, -1), atol=1e-5, rtol=1e-5)
        assert torch.equal(batch, before)


def test_images_of_one_colour_are_refused():
    with pytest.raises(ConfigError, match="train images of small have one colour"):
        Preprocessor(small_dataset(np.full((3, 1, 4, 4), 9, dtype=np.uint8)), 4)
